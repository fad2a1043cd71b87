"""Figures of the code itself, for docs/log/house.md: files and lines by room, functions, comments, private torch names.

python benchmarks/house.py [FOLDER]

Lines are all lines of a file. A function's length leaves out its signature and docstring. Comments are those of the
tokenizer, rulers (`# ---`) left out, so that text in strings does not count.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections import defaultdict
from pathlib import Path

MANY_PARAMETERS = 5
PRIVATE = re.compile(
    r"\btorch(?:\.\w+)*\.(_[a-z]\w+)|\bops\.\w+\.(_\w+)|\.(_is_view|_forward_hooks|_BatchNorm|_version)\b"
)
"""Names of PyTorch that begin with an underscore; `self._version` and the like are ours."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(function: Function) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> int:
    """Parameters of a function, `self` and `cls` left out."""
    args = function.args
    return sum(arg.arg not in ("self", "cls") for arg in args.posonlyargs + args.args + args.kwonlyargs)


def docstring_lines(tree: ast.Module) -> int:
    """Lines of all docstrings of a file."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, owners) and ast.get_docstring(node) is not None]
    return sum((node.body[0].end_lineno or 0) - node.body[0].lineno + 1 for node in documented)


def comments(text: str) -> tuple[int, int]:
    """Comments on lines of their own, and behind code."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = [token for token in tokens if token.type == tokenize.COMMENT and not token.string.startswith("# ---")]
    alone = sum(token.line.lstrip().startswith("#") for token in found)
    return alone, len(found) - alone


def main(folder: Path) -> None:
    """Print the figures of all Python files in a folder."""
    rooms: dict[str, list[int]] = defaultdict(list)
    private: dict[str, set[str]] = defaultdict(set)
    functions: list[tuple[int, int, str]] = []
    alone = behind = docs = 0
    for path in sorted(folder.rglob("*.py")):
        text, name = path.read_text("utf-8"), path.relative_to(folder)
        tree = ast.parse(text)
        rooms[name.parts[0] if len(name.parts) > 1 else "(top)"].append(text.count("\n"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, Function)]
        functions += [(length(node), parameters(node), f"{name}: {node.name}") for node in nodes]
        own_line, after_code = comments(text)
        alone, behind, docs = alone + own_line, behind + after_code, docs + docstring_lines(tree)
        for match in PRIVATE.finditer(text.replace("self._version", "")):
            private[next(filter(None, match.groups()))].add(str(name))
    lines = sum(map(sum, rooms.values()))
    lengths = [function[0] for function in functions]
    many = [function for function in functions if function[1] > MANY_PARAMETERS]
    print(f"{sum(map(len, rooms.values()))} files, {lines:,} lines; longest file {max(map(max, rooms.values()))}")
    print(", ".join(f"{room} {len(sizes)} / {sum(sizes):,}" for room, sizes in rooms.items()))
    print(f"{len(lengths):,} functions, median {statistics.median(lengths):g} lines, longest {max(functions)}")
    print(f"{len(many)} functions with more than {MANY_PARAMETERS} parameters")
    share = 100 * (alone + behind) / lines
    print(f"comments {alone} + {behind} ({share:.2f} % of lines), docstrings {100 * docs / lines:.1f} %")
    for name, files in sorted(private.items()):
        print(f"torch's private {name}: {', '.join(sorted(files))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("finetune"))
    main(parser.parse_args().folder)
