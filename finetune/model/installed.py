"""Files inside installed packages: weights that came by pip, found without importing anything.

`package:DISTRIBUTION/PATH` names a file by the distribution (as pip calls it) and its path in there. The distribution's
own list of files is asked, so nothing outside it can be named, and no code of the package runs.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from finetune.errors import ArtefactError, ResourceError
from finetune.files import visible

PREFIX = "package:"

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_IN_EXTRA = re.compile(r"efficientnet[-_.]lite[012][-_.]pytorch[-_.]model", re.IGNORECASE)


def is_packaged(weights: str) -> bool:
    """Whether a weights name means a file inside an installed package."""
    return weights.startswith(PREFIX)


def split_packaged(weights: str) -> tuple[str, str] | None:
    """The distribution and the path in it, or None where the text names neither."""
    name, slash, path = weights.removeprefix(PREFIX).partition("/")
    parts = path.split("/")
    fine = slash and _NAME.fullmatch(name) and all(part not in ("", ".", "..") for part in parts)
    return (name, path) if fine else None


def is_installed(weights: str) -> bool:
    """Whether the package of `package:DISTRIBUTION/PATH` is installed here, and has that file."""
    try:
        return packaged_file(weights).is_file()
    except (ArtefactError, ResourceError):
        return False


def packaged_file(weights: str) -> Path:
    """The file that `package:DISTRIBUTION/PATH` names.

    Raises:
        ResourceError: the package is not installed; the remedy has the pip command.
        ArtefactError: it is, and has no such file.
    """
    parts = split_packaged(weights)
    if parts is None:
        raise ArtefactError(f"{visible(weights)}: names no file in a package", "write package:DISTRIBUTION/PATH")
    name, path = parts
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        requirement = "'finetune-toolkit[weights]'" if _IN_EXTRA.fullmatch(name) else name
        raise ResourceError(
            f"model.weights: the package {visible(name)}, which has these weights in it, is not installed",
            f"pip install {requirement}",
        ) from None
    for file in files:
        if file.as_posix() == path:
            return Path(str(file.locate()))
    raise ArtefactError(
        f"the installed package {visible(name)} has no file {visible(path)}",
        f"pip install --force-reinstall {name}",
    )
