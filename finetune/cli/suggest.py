"""Suggestions for what was typed: commands of other tools, misspelled ones, keys given as options."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from finetune.errors import did_you_mean

COMMANDS = {
    "train": "run",
    "fit": "run",
    "finetune": "run",
    "tune": "run",
    "test": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
    "eval": "evaluate",
    "infer": "predict",
    "inference": "predict",
    "classify": "predict",
    "continue": "resume",
    "info": "doctor",
    "list": "models",
    "new": "init",
}
"""What other tools call a command → what it is here."""

OPTIONS = {
    "output": "--out",
    "output_dir": "--out",
    "save_dir": "--out",
    "project": "--out",
}
"""What other tools call an option → our option; what they call a key of the recipe: `finetune.recipe.keys`."""


def command_hint(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'run'?)``, or nothing."""
    if name.lower() in COMMANDS:
        return f" (did you mean '{COMMANDS[name.lower()]}'?)"
    return did_you_mean(name.lower(), known) or _as_other_tools_say(name.lower())


def _as_other_tools_say(name: str) -> str:
    """What a misspelled command of another tool is here: `trian` is `train`, which is `run`."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.75)
    return f" (did you mean '{COMMANDS[near[0]]}'?)" if near else ""


def option_hint(name: str) -> str:
    """What to write in place of an option that does not exist; empty where nothing is near."""
    from finetune.recipe.keys import OTHER_NAMES

    key = name.lstrip("-").replace("-", "_").lower()
    key_path = OPTIONS.get(key) or OTHER_NAMES.get(key) or _key_called(key)
    if not key_path:
        return ""
    return f"write {key_path}" if key_path.startswith("--") else f"it is a key of the recipe: -o {key_path}=VALUE"


def _key_called(name: str) -> str:
    """The dotted key whose last part is `name`; empty where there is none, or several."""
    from finetune.recipe.schema import Recipe

    sections = {
        section: set(getattr(field.annotation, "model_fields", {})) for section, field in Recipe.model_fields.items()
    }
    found = [f"{section}.{name}" for section, keys in sections.items() if name in keys]
    return found[0] if len(found) == 1 else ""
