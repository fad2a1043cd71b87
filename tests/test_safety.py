"""Two promises read off the syntax trees of the package: only files.py writes to disk, and no file brings code along.

Each rule is tried on offences and on what it must let pass, because a check that finds nothing may be one that looks at
nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "finetune"
CODE_LOADERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "imp"}
WRITERS = {"files.py", "append.py"}  # what is published in one step, and what grows by lines
HARMLESS = "pickle.UnpicklingError"  # what torch.load raises when it refuses; the name alone loads nothing

Tree = ast.Module


@pytest.fixture(scope="module")
def trees() -> dict[str, Tree]:
    """Path in the package → syntax tree."""
    found = {p.relative_to(PACKAGE).as_posix(): ast.parse(p.read_text("utf-8")) for p in PACKAGE.rglob("*.py")}
    assert found, "no module looked at"
    return dict(sorted(found.items()))


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression; what is not a name stands as `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


# --- code ------------------------------------------------------------------------------------------------------------


def code_offences(path: str, tree: Tree) -> Iterator[str]:
    """Ways to run code that a file or a string brings along."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        names = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
        loaders = [name for name in names if name.split(".")[0] in CODE_LOADERS and name != HARMLESS]
        yield from (f"{path}:{node.lineno}: import of {name}" for name in loaders)
    tables = set(literal_tables(tree))
    for call in calls(tree):
        name = dotted(call.func)
        keywords = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        if name in ("eval", "exec", "compile", "__import__", "pd.read_pickle") or name.endswith(".to_pickle"):
            yield f"{path}:{call.lineno}: {name}()"
        elif name == "torch.load" and keywords.get("weights_only") is not True:
            yield f"{path}:{call.lineno}: torch.load() without weights_only=True"
        elif keywords.get("allow_pickle") or name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield f"{path}:{call.lineno}: {name}() that may run code"
        elif name.split(".")[-1] in ("import_module", "find_spec") and not fixed_module(call, tables):
            yield f"{path}:{call.lineno}: {name}() of a name that is not fixed in this file"


def literal_tables(tree: Tree) -> Iterator[str]:
    """Module-level names bound to a dict literal of plain strings."""
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and all(isinstance(v, ast.Constant) for v in value.values):
            targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def fixed_module(call: ast.Call, tables: set[str]) -> bool:
    """Whether an import's name is a literal, starts with this package's, or is looked up in a table of literals."""
    name = call.args[0] if call.args else None
    if isinstance(name, ast.JoinedStr) and name.values:
        return str(getattr(name.values[0], "value", "")).startswith("finetune.")
    if isinstance(name, ast.Subscript):
        return isinstance(name.value, ast.Name) and name.value.id in tables
    return isinstance(name, ast.Constant)


# --- writing ---------------------------------------------------------------------------------------------------------

SINK_AT = {"savefig": 0, "tofile": 0, "save_file": 1, "to_csv": 0, "to_excel": 0, "to_parquet": 0, "to_feather": 0}
DOTTED_SINK_AT = {"torch.save": 1} | {
    f"{numpy}.{name}": 0 for numpy in ("np", "numpy") for name in ("save", "savez", "savez_compressed", "savetxt")
}
COPIERS = {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copyfileobj", "copytree", "move")}


def buffers(tree: Tree) -> set[str]:
    """Names that stand for memory or for the file that files.py opened: what may be written into anywhere."""
    found = {"file"} if any(isinstance(node, ast.Lambda) for node in ast.walk(tree)) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and re.search(r"\b(BinaryIO|TextIO|IO|BytesIO|StringIO)\b", unparsed(node)):
            found.add(node.arg)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = dotted(node.value.func).split(".")[-1] in ("BytesIO", "StringIO")
            found |= {target.id for target in node.targets if isinstance(target, ast.Name) and made}
    return found


def unparsed(argument: ast.arg) -> str:
    return ast.unparse(argument.annotation) if argument.annotation else ""


def opens_for_writing(call: ast.Call) -> bool:
    """`open(path, "w")`, `path.open("w")`, `os.fdopen(…)`, with the mode written out or not known."""
    name = dotted(call.func)
    if name == "os.open":
        return bool(re.search(r"O_(WRONLY|RDWR|CREAT|APPEND)", text := ast.unparse(call))) and "os.devnull" not in text
    plain = name in ("open", "io.open", "os.fdopen", "gzip.open", "codecs.open")
    if not plain and not name.endswith(".open"):
        return False
    mode = next((k.value for k in call.keywords if k.arg == "mode"), None)
    if mode is None:
        mode = next(iter(call.args[1:2] if plain else call.args[:1]), None)
    if isinstance(mode, ast.Constant):
        return bool(re.fullmatch(r"[rwxabt+]{1,4}", str(mode.value)) and re.search(r"[wxa+]", str(mode.value)))
    return plain and mode is not None


def saves_picture(call: ast.Call) -> bool:
    """`image.save(sink, "PNG")` or with `format=`, or a `.save` to what is plainly a path."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "save" or not call.args:
        return False
    path = isinstance(call.args[0], ast.JoinedStr | ast.BinOp) or isinstance(getattr(call.args[0], "value", None), str)
    return (
        path
        or any(k.arg == "format" for k in call.keywords)
        or isinstance(getattr(call.args[1] if len(call.args) > 1 else None, "value", None), str)
    )


def sink(call: ast.Call) -> ast.expr | None:
    """What a writing call writes into, if it is a writing call and says where."""
    name = dotted(call.func)
    at = DOTTED_SINK_AT.get(name, SINK_AT.get(name.split(".")[-1]))
    at = 0 if at is None and saves_picture(call) else at
    if at is None:
        return None
    named = next((k.value for k in call.keywords if k.arg in ("f", "fname", "filename", "file", "path_or_buf")), None)
    return call.args[at] if len(call.args) > at else named


def locks(tree: Tree) -> set[ast.Call]:
    """Calls in functions that take a lock: the file they open is held, never published."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    locking = [f for f in functions if any(dotted(call.func) == "fcntl.flock" for call in calls(f))]
    return {call for function in locking for call in calls(function) if opens_for_writing(call)}


def write_offences(path: str, tree: Tree) -> Iterator[str]:
    """Calls that put something on disk without the atomic writer."""
    into, held = buffers(tree), locks(tree)
    for call in calls(tree):
        name = dotted(call.func)
        where = sink(call)
        pathlib = name.endswith((".write_text", ".write_bytes")) and not name.endswith("files.write_text")
        if pathlib or name in COPIERS or (opens_for_writing(call) and call not in held):
            yield f"{path}:{call.lineno}: {name}() outside files.py"
        elif where is not None and not (isinstance(where, ast.Name) and where.id in into):
            yield f"{path}:{call.lineno}: {name}() into {ast.unparse(where)}, not into a buffer or files.py's file"


# --- the tests -------------------------------------------------------------------------------------------------------


def test_no_code_comes_out_of_a_file_or_a_name(trees: dict[str, Tree]) -> None:
    assert sum(len(calls(tree)) for tree in trees.values()) > 0
    assert [offence for path, tree in trees.items() for offence in code_offences(path, tree)] == []


def test_only_files_py_writes(trees: dict[str, Tree]) -> None:
    assert list(write_offences("files.py", trees["files.py"])), "the writer itself is not seen as writing"
    others = {path: tree for path, tree in trees.items() if path not in WRITERS}
    assert sum(len(calls(tree)) for tree in others.values()) > 0
    assert [offence for path, tree in others.items() for offence in write_offences(path, tree)] == []


# --- the rules themselves, each on an offence and on what it must let pass --------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "pd.read_pickle(path)",
        "from pickle import UnpicklingError, loads",
        "def f():\n    from pickle import loads",
        "importlib.import_module(name)",
        "TABLE = {'a': name()}\nimport_module(TABLE['a'])",
        "torch.load(path)",
        "torch.load(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
    ],
)
def test_running_code_is_seen(code: str) -> None:
    assert list(code_offences("model/weights.py", ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "module.eval()",
        "from pickle import UnpicklingError",
        "re.compile('a')",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "import_module('finetune.story.run')",
        "TABLE = {'a': 'finetune.story.run'}\nimport_module(TABLE[name])",
        "import_module(f'finetune.cli.{name}')",
    ],
)
def test_what_runs_no_foreign_code_passes(code: str) -> None:
    assert not list(code_offences("model/weights.py", ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, mode)",
        "os.open(path, os.O_CREAT | os.O_WRONLY)",
        "path.open('x')",
        "path.open(mode='r+')",
        "path.write_text(text)",
        "(folder / 'a').write_bytes(data)",
        "torch.save(state, path)",
        "save_file(tensors, folder / 'model.safetensors')",
        "safetensors.torch.save_file(tensors, filename=path)",
        "figure.savefig(path)",
        "table.to_csv(folder / 'data.csv')",
        "table.to_csv(path_or_buf=path)",
        "np.save(path, array)",
        "image.save(path, 'PNG')",
        "image.save(folder / f'{n}.png')",
        "shutil.move(old, new)",
    ],
)
def test_writing_is_seen(code: str) -> None:
    assert list(write_offences("train/checkpoints.py", ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "open(path, 'rb')",
        "os.open(folder, os.O_RDONLY)",
        "os.open(os.devnull, os.O_WRONLY)",
        "def lock():\n    file = open(path, 'a+')\n    fcntl.flock(file, fcntl.LOCK_EX)",
        "Image.open(path)",
        "path.open('rb')",
        "write_atomic(path, lambda file: torch.save(state, file))",
        "def write(out: BinaryIO):\n    torch.save(state, out)",
        "memory = io.BytesIO()\nfigure.savefig(memory, format='png')\nimage.save(memory, 'PNG')",
        "table.to_csv()",
        "files.write_text(path, text)",
        "write_text(path, text)",
        "classifier.save(folder)",
        "write_atomic(path, safetensors.torch.save(tensors))",
    ],
)
def test_what_does_not_write_passes(code: str) -> None:
    assert not list(write_offences("train/checkpoints.py", ast.parse(code)))
