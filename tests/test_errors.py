"""A remedy tells its reader what to write: an option to who types, a key or an argument to who writes a script."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import finetune as ft
from finetune.errors import FROM_SCRATCH, Speech, called, option, resuming, setting, settings, spoken
from finetune.recipe.load import from_mapping
from tests import makers

PACKAGE = Path(__file__).parents[1] / "finetune"
TYPED = {"cli", "serve"}
"""Rooms that only a command line or a server reaches."""
OF_ONE_COMMAND = {
    *("deliver/explain.py", "deliver/features.py", "deliver/output_paths.py", "deliver/runs.py", "deliver/search.py"),
    *("deliver/sort.py", "deliver/table.py", "deliver/vectors/source.py", "distributed/join.py"),
    *("distributed/launch.py", "recipe/flags.py", "recipe/template.py", "report/page.py", "report/embedding_map.py"),
    "model/installed.py",
}
"""Modules whose subject is a command line, or whose dashes are those of pip and style sheets."""


UNFREEZE = {"head": 0, "layer4": 2}
FORMS: dict[Speech, list[str]] = {
    "command": ["-o 'model.unfreeze={head: 0, layer4: 2}'", "-o 'data.classes=[a, b c]'", "--out DIR", "finetune x"],
    "recipe": ["overrides=['model.unfreeze={head: 0, layer4: 2}']", "overrides=['data.classes=[a, b c]']"],
    "arguments": ["unfreeze={'head': 0, 'layer4': 2}", "classes=['a', 'b c']"],
}


def told() -> list[str]:
    """What remedies say, of each kind."""
    lines = [setting("model.unfreeze", UNFREEZE), setting("data.classes", ["a", "b c"])]
    return [*lines, option("out", "DIR"), called("finetune x", "ft.x()")]


def test_each_reader_gets_what_can_be_written() -> None:
    in_scripts = ["out=DIR", "ft.x()"]
    assert told() == [*FORMS["arguments"], *in_scripts]
    with spoken("recipe"):
        assert told() == [*FORMS["recipe"], *in_scripts]
    with spoken("command"), spoken("recipe"):  # what the command line calls speaks of options
        assert told() == FORMS["command"]
    assert told() == [*FORMS["arguments"], *in_scripts]


def test_a_script_can_copy_what_it_is_told() -> None:
    assert eval(f"dict({settings(FROM_SCRATCH)})") == {"weights": "none", "unfreeze": {"all": 0}}
    assert eval(f"dict({setting('model.preprocess.crop_mode', 'squash')})") == {"preprocess": {"crop_mode": "squash"}}
    assert resuming(Path("runs/a/001")) == "ft.resume('runs/a/001')"
    with spoken("recipe"):
        overrides: list[str] = eval(f"dict({settings(FROM_SCRATCH)})")["overrides"]
    plain = {"data": {"folder": "d"}, "model": {"backbone": "auto"}}
    assert from_mapping(plain, "here", overrides).model.unfreeze == {"all": 0}


def test_a_broken_image_is_told_to_each_reader(tmp_path: Path, cli: Any) -> None:
    folder = makers.class_folders(tmp_path / "images", {"ant": 4, "bee": 4})
    makers.put(folder / "ant/000.jpg", b"no image")
    with pytest.raises(ft.FinetuneError) as caught:
        ft.ImageFolder(folder)
    assert "on_bad='skip'" in caught.value.remedy
    assert len(ft.ImageFolder(folder, on_bad="skip").split(val=0.25, test=0.25, seed=0).train.paths) > 0
    with pytest.raises(ft.FinetuneError) as caught:
        ft.fit(folder, "models/small-resnet", out=tmp_path / "o")
    assert "overrides=['data.on_bad=skip']" in caught.value.remedy
    done = cli("run", folder, "--backbone", "models/small-resnet", cwd=tmp_path)
    assert (done.rc, "-o data.on_bad=skip" in done.err) == (3, True)


def spoken_texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each string that is no docstring."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    within = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.Call) and is_called(node) for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents | within:
            yield node.lineno, node.value


def is_called(node: ast.Call) -> bool:
    """Whether it is `called(line, call)`, which has both forms."""
    return isinstance(node.func, ast.Name) and node.func.id == "called"


def test_no_remedy_of_the_library_speaks_of_options() -> None:
    offences = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] in TYPED or name in OF_ONE_COMMAND or name.startswith("deliver/export/"):
            continue
        for line, text in spoken_texts(ast.parse(path.read_text("utf-8"))):
            if re.search(r"(^|[\s'(])(-o '?[a-z_]+[.=]|--[a-z][a-z-]+\b)", text):
                offences.append(f"{name}:{line}: {text!r}")
    assert not offences, "\n".join(offences)
    assert list(spoken_texts(ast.parse("raise E('use -o data.on_bad=skip')"))) == [(1, "use -o data.on_bad=skip")]
