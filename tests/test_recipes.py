"""Every shipped recipe loads, and its header says how to run it, on what, how long it takes and what comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune.recipe.load import load

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
HEADER = {
    "the command": r"\bfinetune run {path}\b",
    "the hardware": r"\b(CPU|GPU|cores?)\b",
    "the minutes": r"\b\d+(\.\d+)? ?min(ute)?s?\b|\bminutes?:? +(about |under |<)? ?\d",
    "the expected metric": r"(?i)\b(F1|accuracy)\b[^\n]*\b[01]\.\d+",
}


def header(path: Path) -> str:
    """The comment lines a recipe begins with, without their signs; the editors' schema line is none of it."""
    lines = path.read_text("utf-8").splitlines()
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.lstrip("# ") for line in lines[:first] if "yaml-language-server" not in line)


def test_there_are_recipes() -> None:
    assert "vehicles.yaml" in {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_loads_strictly(path: Path) -> None:
    assert load(path).name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
@pytest.mark.parametrize("what", HEADER)
def test_a_recipes_header_gives(path: Path, what: str) -> None:
    pattern = HEADER[what].replace("{path}", re.escape(path.relative_to(ROOT).as_posix()))
    assert re.search(pattern, header(path)), f"{path.name}: the comment at its head does not give {what}"
