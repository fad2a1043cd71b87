"""Every key of a recipe as a page, made from the schema: `python -m finetune.recipe.document docs/recipe.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.files import write_text
from finetune.recipe.schema import Recipe
from finetune.recipe.yaml import inline

HEAD = """\
# The recipe: every key

Made from the schema by `python -m finetune.recipe.document docs/recipe.md`; a test keeps it current. Any key can be set
for one run with `-o KEY=VALUE`, such as `-o train.lr=3e-4`. *null* stands for "decided from the rest"; `recipe.yaml` in
the run folder says what it came to. An unknown key is an error.
"""

Schema = Mapping[str, Any]


def page() -> str:
    """The page in Markdown: a table for each section, a row for each key."""
    schema = Recipe.model_json_schema()
    rows: dict[str, list[str]] = {"": []}
    for name, field in schema["properties"].items():
        inner = _section(field, schema)
        if inner is None or ("default" in field and field["default"] is None):
            rows[""].append(_row(name, field, schema))
        else:
            rows[name] = [_row(key, value, schema) for key, value in _keys(f"{name}.", inner, schema)]
    heading = "| key | default | values | meaning |\n| --- | --- | --- | --- |"
    titles = {name: f"\n## {name}\n\n" if name else "\n" for name in rows}
    return HEAD + "".join(titles[name] + "\n".join([heading, *lines]) + "\n" for name, lines in rows.items())


def _keys(prefix: str, section: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Dotted names and schemas of a section's keys, those of sections within it in their place."""
    for name, field in section["properties"].items():
        inner = _section(field, schema)
        if inner is not None:
            yield from _keys(f"{prefix}{name}.", inner, schema)
        else:
            yield prefix + name, field


def _section(field: Schema, schema: Schema) -> Schema | None:
    """The section that a key refers to."""
    reference = field.get("$ref")
    section: Schema | None = schema["$defs"][reference.rpartition("/")[2]] if reference else None
    return section if section and "properties" in section else None


def _row(name: str, field: Schema, schema: Schema) -> str:
    if isinstance(field.get("default"), dict | list):
        default = "`{}`" if isinstance(field["default"], dict) else "`[]`"
    else:
        absent = "`{}`" if field.get("type") == "object" else "must be given"
        default = f"`{inline(field['default'])}`" if "default" in field else absent
    cells = (f"`{name}`", default, _values(field, schema), field.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _values(field: Schema, schema: Schema) -> str:
    """The values that a key takes, in words."""
    if "$ref" in field:
        return _values(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in field or "oneOf" in field:
        kinds = [_values(kind, schema) for kind in field.get("anyOf", field.get("oneOf", ()))]
        return ", or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "object" and "properties" in field:
        return "{" + ", ".join(field["properties"]) + "}"
    names = {
        "integer": "whole number",
        "array": "list",
        "object": "mapping",
        "boolean": "true, false",
        "string": "text",
    }
    kind = names.get(str(field.get("type")), str(field.get("type", "any")))
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    limits = [f"{word} {field[key]:g}" for key, word in bounds.items() if key in field and abs(field[key]) < 2**53]
    return " ".join([kind, *limits])


if __name__ == "__main__":
    write_text(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/recipe.md"), page())
