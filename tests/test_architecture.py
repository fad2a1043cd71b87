"""The house as tests: who may import whom, who knows recipes, and how long things get.

Everything is read from the syntax trees of the package, so that imports inside functions count too. Each rule is tried
on an offence as well, because a check that finds nothing may be one that looks at nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "finetune"
# In import order: a module imports from its own room and from those to the left of it.
ORDER = (
    "errors < files < carried < append < device < distributed < recipe < data < model < speed < runs < evaluate < "
    "train < report < deliver < classifier < story < serve < cli"
)
ROOMS = ORDER.split(" < ")
KNOW_RECIPES = {"recipe", "classifier", "story", "cli"}

RUN_FILES = {"run.json", "recipe.yaml", "data.csv", "plan.csv", "history.csv", "best.pth", "model.json"}
RUN_FILES |= {"metrics.json", "per_class.csv", "confusion.csv", "predictions.csv", "report.html"}
HOMES_OF_NAMES = {"runs/names.py", "model/bundle.py", "model/bundle_files.py", "data/walk.py"}

Tree = ast.Module
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def trees() -> dict[str, Tree]:
    """Path in the package → syntax tree."""
    found = {p.relative_to(PACKAGE).as_posix(): ast.parse(p.read_text("utf-8")) for p in PACKAGE.rglob("*.py")}
    assert found, "no module looked at"
    return dict(sorted(found.items()))


def room(path: str) -> str:
    """The room a file of the package lies in; `__main__` is the command line's."""
    return {"__init__": "", "__main__": "cli"}.get(name := path.split("/")[0].removesuffix(".py"), name)


# --- imports ---------------------------------------------------------------------------------------------------------


def imported(path: str, tree: Tree) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports, relative imports resolved."""
    package = ["finetune", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def order_offences(path: str, tree: Tree) -> Iterator[str]:
    """Imports from a room that stands below the importing one."""
    for line, name in imported(path, tree):
        parts = name.split(".")
        if parts[0] != "finetune" or len(parts) < 2 or parts[1] == "__version__":
            continue
        if parts[1] not in ROOMS:
            yield f"{path}:{line}: {name} is in no room"
        elif ROOMS.index(parts[1]) > ROOMS.index(room(path)):
            yield f"{path}:{line}: {room(path)} stands above {parts[1]} and may not import {name}"


def file_imports(path: str, tree: Tree, files: set[str]) -> set[str]:
    """The files of the package that a file imports, those for type checking alone included."""
    found = set()
    for _, name in imported(path, tree):
        parts = name.split(".")[1:] if name.startswith("finetune.") else []
        targets = ["/".join(parts[:length]) + ".py" for length in (len(parts), len(parts) - 1) if length > 0]
        found |= {next((target for target in targets if target in files), path)} - {path}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, in order; empty where there are none."""
    done: set[str] = set()

    def walk(path: str, above: list[str]) -> list[str]:
        if path in above:
            return [*above[above.index(path) :], path]
        if path in done:
            return []
        rounds = (walk(target, [*above, path]) for target in sorted(graph.get(path, ())))
        found = next((round_ for round_ in rounds if round_), [])
        done.add(path)
        return found

    return next((found for path in sorted(graph) if (found := walk(path, []))), [])


def recipe_offences(path: str, tree: Tree) -> Iterator[str]:
    """Imports of the recipe room by rooms that take plain arguments; cards are read by its YAML rules."""
    for line, name in imported(path, tree):
        card = path == "model/card.py" and (name + ".").startswith("finetune.recipe.yaml.")
        if (name + ".").startswith("finetune.recipe.") and room(path) not in KNOW_RECIPES and not card:
            yield f"{path}:{line}: {name}: config stops at the door"


def door_offences(path: str, tree: Tree) -> Iterator[str]:
    """Imports from outside of what lies behind the door of the speed room."""
    for line, name in imported(path, tree):
        inside = name.split(".")[:2] == ["finetune", "speed"]
        if inside and room(path) != "speed" and not (name + ".").startswith("finetune.speed.api."):
            yield f"{path}:{line}: {name} lies behind finetune.speed.api"


# --- the tests -------------------------------------------------------------------------------------------------------


def test_a_module_imports_only_from_the_rooms_above(trees: dict[str, Tree]) -> None:
    rooms = {path: tree for path, tree in trees.items() if room(path)}
    assert sum(name.startswith("finetune.") for p, t in rooms.items() for _, name in imported(p, t)) > 0
    assert [path for path in rooms if room(path) not in ROOMS] == []
    assert [offence for path, tree in rooms.items() for offence in order_offences(path, tree)] == []


def test_no_files_import_each_other_in_a_circle(trees: dict[str, Tree]) -> None:
    files = set(trees)
    graph = {path: file_imports(path, tree, files) for path, tree in trees.items()}
    assert sum(map(len, graph.values())) > len(files)
    assert circle(graph) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a.py": {"b.py"}, "b.py": {"c.py"}, "c.py": {"b.py"}}) == ["b.py", "c.py", "b.py"]
    code = "def f():\n    from finetune.data.scan import scan"
    assert file_imports("data/split.py", ast.parse(code), {"data/scan.py", "data/split.py"}) == {"data/scan.py"}


def test_config_stops_at_the_door(trees: dict[str, Tree]) -> None:
    outside = {path: tree for path, tree in trees.items() if room(path) not in KNOW_RECIPES}
    assert outside
    assert [offence for path, tree in outside.items() for offence in recipe_offences(path, tree)] == []


def test_the_speed_room_has_one_door(trees: dict[str, Tree]) -> None:
    outside = {path: tree for path, tree in trees.items() if room(path) != "speed"}
    assert sum(name.startswith("finetune.speed.api") for p, t in outside.items() for _, name in imported(p, t)) > 0
    assert [offence for path, tree in outside.items() for offence in door_offences(path, tree)] == []


def length(function: Function) -> int:
    """Lines of a function from its `def`, without its docstring."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    lines = (function.end_lineno or 0) - function.lineno + 1
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if docstring else 0)


def test_functions_are_short(trees: dict[str, Tree]) -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": length(node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
    assert sum(lines <= 30 for lines in lengths.values()) >= 0.8 * len(lengths)


def test_the_front_page_is_short(trees: dict[str, Tree]) -> None:
    story = [node for node in trees["story/run.py"].body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    assert len(story) == 1
    assert (story[0].end_lineno or 0) - story[0].lineno + 1 <= 40


def test_files_are_short_and_none_is_a_drawer(trees: dict[str, Tree]) -> None:
    lengths = {path: len((PACKAGE / path).read_text("utf-8").splitlines()) for path in trees}
    assert max(lengths.values()) > 0
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in trees if drawers & set(path.removesuffix(".py").split("/"))] == []


def strings(tree: Tree) -> Iterator[tuple[int, str]]:
    """Every string in the code that is no docstring, with its line."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def spelled_again(path: str, tree: Tree) -> Iterator[str]:
    """Names of a run's files that are spelled outside their home."""
    for line, text in strings(tree):
        if path not in HOMES_OF_NAMES and text.split("/")[-1] in RUN_FILES:
            yield f"{path}:{line}: {text}: finetune/runs/names.py owns this name"


def test_a_runs_file_names_have_one_home(trees: dict[str, Tree]) -> None:
    home = {text for path in HOMES_OF_NAMES for _, text in strings(trees[path])}
    assert home >= RUN_FILES
    assert [offence for path, tree in trees.items() for offence in spelled_again(path, tree)] == []


# --- the rules themselves, each on an offence and on what it must let pass --------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("data/scan.py", "from finetune.model import bundle"),
        ("data/scan.py", "def f():\n    import finetune.train.trainer"),
        ("data/scan.py", "from finetune import story"),
        ("data/scan.py", "from ..train import trainer"),
        ("files.py", "from . import recipe"),
        ("data/scan.py", "from finetune.attic import box"),
    ],
)
def test_an_import_from_below_is_seen(path: str, code: str) -> None:
    assert list(order_offences(path, ast.parse(code)))


@pytest.mark.parametrize("code", ["folder / 'run.json'", "path = 'report/metrics.json'"])
def test_a_file_name_spelled_again_is_seen(code: str) -> None:
    assert list(spelled_again("report/files.py", ast.parse(code)))
    assert not list(spelled_again("runs/names.py", ast.parse(code)))


@pytest.mark.parametrize("path", ["data/scan.py", "model/bundle.py", "model/card.py", "deliver/predict.py"])
def test_a_recipe_in_a_room_is_seen(path: str) -> None:
    assert list(recipe_offences(path, ast.parse("from finetune.recipe.schema import Recipe")))


@pytest.mark.parametrize(
    "code",
    ["from finetune.speed import fold", "from finetune.speed.fused import Fused", "import finetune.speed.linear"],
)
def test_a_way_past_the_door_is_seen(code: str) -> None:
    assert list(door_offences("train/phase.py", ast.parse(code)))
    assert not list(door_offences("speed/fuse.py", ast.parse(code)))
    assert not list(door_offences("train/phase.py", ast.parse("from finetune.speed.api import cache_key")))


def test_a_card_may_be_read_by_the_yaml_rules_of_recipes() -> None:
    assert not list(recipe_offences("model/card.py", ast.parse("from finetune.recipe.yaml import parse")))
