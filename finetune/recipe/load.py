"""A recipe file, with what the command line changes in it, to a checked `Recipe`; all of it without torch."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from finetune.carried import CARD_SUFFIXES, card_of, carried_folder
from finetune.errors import UsageError, did_you_mean
from finetune.files import visible, write_json
from finetune.recipe import problems as words
from finetune.recipe import yaml
from finetune.recipe.keys import is_text, nearest, place_of
from finetune.recipe.schema import Recipe
from finetune.recipe.without import recipe_values

HUB = "hf://"
"""How a backbone begins that is a model on the hub."""

ARCHITECTURES = ("timm/", "torchvision/", "small/", "registered/")
"""How a backbone begins that is a name and not a path."""

CARRIED = carried_folder()
"""The folder with the recipes/ and models/ that come with the package."""

AUTO = "auto"
"""The backbone that is chosen by what is at hand, when a run begins."""


# --- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`, its name filled with the file's where it has none; for a folder of images that of `init`.

    Args:
        path: a YAML file, or a folder of images.
        overrides: KEY=VALUE each; KEY is dotted, VALUE is YAML and replaces the value of KEY whole.

    Raises:
        UsageError: unreadable, or with problems; all of them at once, one line each.
    """
    if path.is_dir():
        return from_mapping(recipe_values(path), str(path), overrides)
    document = yaml.read(_text(path), str(path))
    recipe = _checked(document, str(path), overrides)
    name = re.sub(r"[^\w.-]+", "_", path.stem).lstrip(".")
    return recipe if recipe.name else recipe.model_copy(update={"name": name or None})


def from_mapping(value: Mapping[str, Any], source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a Python mapping, checked as a file is; paths may be `Path`, lists tuples.

    Raises:
        UsageError: all problems at once, one line each, beginning with `source`.
    """
    return _checked(yaml.Document(_plain(value), {}, []), source, overrides)


def _beside(path: Path) -> list[str]:
    """Names of the recipes and folders beside a path; none where its folder is not there either."""
    with contextlib.suppress(OSError):
        return [entry.name for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix in (".yaml", ".yml")]
    return []


def _text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise UsageError(f"{path}: is {what}", "give a recipe: a YAML file")
        with open(path, "rb") as file:
            content = file.read(yaml.MAX_BYTES + 1)
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"):
            remedy = "give a recipe, or the folder that holds one folder of images per class"
            raise UsageError(f"{path}: a picture, not a recipe", remedy)
    except FileNotFoundError as error:
        known = [recipe for recipe in shipped() if recipe.name != path.name]
        near = did_you_mean(path.name, [*_beside(path), *(recipe.name for recipe in known)])
        if same := [recipe for recipe in shipped() if recipe.name == path.name]:
            near = f" here; there is {same[0]}"
        raise UsageError(f"{path}: no such recipe or folder{near}", "`finetune init FOLDER` writes a recipe") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}", "give a recipe: a YAML file") from error
    try:
        # A cut inside a character can only come from the cap, and what is over the cap is refused by its size.
        return content.decode("utf-8", "strict" if len(content) <= yaml.MAX_BYTES else "replace")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", "save the recipe as UTF-8") from error


def _checked(document: yaml.Document, source: str, overrides: Sequence[str]) -> Recipe:
    value, marks, problems = document.value, dict(document.marks), list(document.problems)
    if not isinstance(value, dict | None):
        raise UsageError(f"{source}: expected keys (a mapping), found {words.shown(value)}", "give a recipe")
    value = value or {}
    for override in overrides:
        problems += _override(value, marks, override)
    for section in ("data", "model"):  # their own missing keys say more than they would
        value[section] = {} if value.get(section) is None else value[section]
    _keep_text(value, marks)
    total = len(problems)
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        problems += words.lines(error, marks, source)
        total += error.error_count()
    if problems:
        raise UsageError(
            words.few(problems, total),
            "correct these keys; docs/recipe.md lists every key, `finetune init FOLDER` writes a recipe to begin with",
        )
    return recipe


def _override(value: dict[str, Any], marks: dict[yaml.Place, yaml.Mark], override: str) -> list[str]:
    """Set one key in `value` and its marks; the problems that keep it from being set."""
    key, equals, text = override.partition("=")
    key = key.strip()
    here = f"{words.OVERRIDE} {visible(key)}"
    if not equals or not key:
        return [f"{words.OVERRIDE} {visible(override)}: expected KEY=VALUE, as in {words.OVERRIDE} train.lr=1e-3"]
    key_path = place_of(key)
    if key_path is None:
        return [f"{here}: unknown key{visible(nearest(tuple(key.split('.'))))}"]
    try:
        given = yaml.read(text, here)
    except UsageError as error:
        return [f"{line.replace(f'{here}:1: ', f'{here}: ')} ({error.remedy})" for line in error.problems]
    inner = value
    for part in key_path[:-1]:
        if not isinstance(inner.get(str(part)), dict):
            inner[str(part)] = {}
        inner = inner[str(part)]
    inner[str(key_path[-1])] = given.value
    for old in [old for old in marks if old[: len(key_path)] == key_path]:
        del marks[old]
    marks[key_path] = yaml.Mark(words.OVERRIDE)
    marks.update({(*key_path, *below): yaml.Mark(words.OVERRIDE, mark.text) for below, mark in given.marks.items()})
    return [line.replace(f"{here}:1: ", f"{here}: ") for line in given.problems]


def _keep_text(value: dict[str, Any], marks: Mapping[yaml.Place, yaml.Mark]) -> None:
    """Put back what was written where text is wanted: the class 1e3 is no number, the class null no absence."""
    for place, mark in marks.items():
        if mark.text is None or not is_text(place):
            continue
        holder: Any = value
        for part in place[:-1]:
            holder = holder[part]
        if holder[place[-1]] is not None or isinstance(place[-1], int):
            holder[place[-1]] = mark.text


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of numpy's
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# --- resolving -------------------------------------------------------------------------------------------------------


def resolve(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths and a name; resolving it again, from anywhere, changes nothing.

    Args:
        recipe: as loaded.
        folder: the working folder, which relative paths start from.

    Raises:
        UsageError: `model.backbone` is neither a known kind of name nor a card, bundle or run folder.
    """
    weights = recipe.model.weights
    model = {
        "backbone": _backbone(recipe.model.backbone, folder),
        "weights": weights if _is_word(weights) else _absolute(weights, folder),
    }
    data = {"folder": None if recipe.data.folder is None else _absolute(recipe.data.folder, folder)}
    if recipe.data.group is not None and recipe.data.group.endswith(".csv"):
        data["group"] = _absolute(recipe.data.group, folder)
    return recipe.model_copy(
        update={
            "name": recipe.name or re.sub(r"[^\w.-]+", "_", Path(data["folder"] or "").name).lstrip(".") or "run",
            "data": recipe.data.model_copy(update=data),
            "model": recipe.model.model_copy(update=model),
        }
    )


def _absolute(text: str, folder: Path) -> str:
    """The absolute path, without its `..` unless a link makes the short form another place."""
    path = os.path.join(folder.absolute(), os.path.expanduser(text))
    tidy = os.path.normpath(path)
    return tidy if os.path.realpath(tidy) == os.path.realpath(path) else path


def _is_word(weights: str) -> bool:
    """Whether it is no file: a word, or the name of a set of weights as torchvision has them."""
    return weights in ("default", "none") or bool(
        re.fullmatch(r"(\w+_Weights\.)?(IMAGENET|KINETICS|COCO)[A-Z0-9_]*", weights)
    )


def _backbone(text: str, folder: Path) -> str:
    if text == AUTO or text.startswith((*ARCHITECTURES, HUB)):
        return text
    if card := card_of(text, folder, CARRIED):
        return _absolute(str(card), folder)
    path = _absolute(text, folder)
    if text.endswith(CARD_SUFFIXES) or os.path.isdir(path):
        return path
    near = _near_weights(path) if text.endswith((".safetensors", ".pth", ".pt")) else _near_backbone(text, folder)
    raise UsageError(
        f"model.backbone: {visible(text)!r} is no name of a network, no card, bundle or run folder{visible(near)}",
        "write auto, timm/NAME, torchvision/NAME, small/NAME, models/NAME, a card (FILE.yaml), a bundle or run folder, "
        "hf://OWNER/NAME",
    )


def _near_weights(path: str) -> str:
    """What to say of a weights file: its card if one of its name lies beside it."""
    if card := card_of(os.path.splitext(path)[0], Path()):
        return f" (a weights file does not say its architecture; its card does: {card})"
    return " (a weights file does not say its architecture: it goes into model.weights)"


def _near_backbone(text: str, folder: Path) -> str:
    """A card of nearly this name, else what timm and torchvision may call it (to list theirs takes seconds)."""
    cards = {f"models/{card.stem}" for home in (folder, CARRIED) for card in home.glob("models/*.yaml")}
    library, slash, name = text.rpartition("/")
    if near := difflib.get_close_matches(f"models/{name}", cards, n=1, cutoff=0.88):
        return f" (did you mean {near[0]!r}?)"
    if library == "models" or not re.fullmatch(r"[\w.-]+", name):
        return did_you_mean(text, cards)
    kinds = difflib.get_close_matches(f"{library}/", ARCHITECTURES[:3], n=1) if slash else []
    usual = re.sub(r"([a-z]{3,})_(\d)", r"\1\2", name.lower().replace("-", "_"))  # ResNet-50 is resnet50
    same = [f"{kind}{usual}" for kind in kinds or ARCHITECTURES[:2]]
    return f" (did you mean {' or '.join(map(repr, same))}?)"


# --- showing ---------------------------------------------------------------------------------------------------------


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out; it loads back equal."""
    return yaml.dump(recipe.model_dump())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changes between two recipes' mappings, one line a key: `train.lr: 0.001 → 0.01`."""
    return _differences(_plain(old), _plain(new), ())


def _differences(old: dict[str, Any], new: dict[str, Any], above: yaml.Place) -> list[str]:
    lines: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differences(before, after, (*above, key))
        elif key not in old or key not in new or before != after:
            was, now = (yaml.inline(side[key]) if key in side else "absent" for side in (old, new))
            lines.append(f"{yaml.dotted((*above, key))}: {was} → {now}")
    return lines


def json_schema() -> dict[str, Any]:
    """The schema as JSON Schema, with which editors complete and check a recipe."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def shipped() -> list[Path]:
    """The recipes in ./recipes, else those that come with the package; sorted."""
    return sorted(Path("recipes").glob("*.yaml")) or sorted(CARRIED.glob("recipes/*.yaml"))


if __name__ == "__main__":
    write_json(Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/schema.json"), json_schema())
