"""docs/recipe.md lists every key of the schema and is current."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from finetune.recipe.document import page
from finetune.recipe.schema import Recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_is_what_the_schema_says() -> None:
    assert DOCUMENT.read_text("utf-8") == page(), "run: python -m finetune.recipe.document docs/recipe.md"


def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += keys(inner, f"{prefix}{name}.") if nested else [prefix + name]
    return found


def test_every_key_has_a_row_with_its_meaning() -> None:
    known = keys(Recipe)
    assert len(known) > 40
    rows = {line.split("`")[1]: line for line in page().splitlines() if line.startswith("| `")}
    assert [key for key in known if key not in rows] == []
    assert [key for key, line in rows.items() if not line.rstrip(" |").split("|")[-1].strip()] == []
