"""What is said of an image file, and which files are meant."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.given import Picture, as_list
from finetune.data.listing import is_hidden, is_image_name
from finetune.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """What the network takes an image for.

    Attributes:
        path: of the file; empty for a picture that has none.
        label: the most probable class; None where the file is no readable image, or where the network abstained.
        confidence: probability of the most probable class.
        probabilities: of every class, by name.
        error: why there is no answer.
        abstained: the confidence is below the threshold that was asked for.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None
    abstained: bool = False

    def top(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the first of equals first."""
        return sorted((self.probabilities or {}).items(), key=lambda item: -item[1])[:k]


def pictures_of(source: Picture | Iterable[Picture]) -> Picture | list[Picture]:
    """The one picture that is meant, or the list of them: folders and globs are replaced by their files.

    Raises:
        DataError: paths that match nothing.
    """
    several = as_list(source)
    if several is None and isinstance(source, str | Path):
        found = find_images([source])
        return list(found) if Path(source).is_dir() or len(found) != 1 else found[0]
    if several is None:
        return source  # type: ignore[return-value]  # `as_list` has seen that it is one
    if all(isinstance(picture, str | Path) for picture in several):
        return list(find_images(several))
    return several


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name: files as they are, folders with the samples below them, globs.

    Raises:
        DataError: a path or glob that matches nothing (all of them are named).
    """
    found: list[Path] = []
    missing = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_sample(p.relative_to(path)))
            if not inside:
                missing.append(f"{path}: no images in this folder")
            found += inside
        elif path.is_file() or path.is_symlink() or path.exists():
            found.append(path)
        elif glob.has_magic(str(name)) and (matches := sorted(glob.glob(str(name), recursive=True))):
            found += [Path(match) for match in matches if not Path(match).is_dir()]
        else:
            missing.append(f"{path}: no such file or folder")
    if missing:
        raise DataError(missing, "name image files, folders or globs that are there")
    return found


def _is_sample(path: Path) -> bool:
    """Whether a file below a folder is meant: not what a system left there, as the scan has it."""
    return is_image_name(path.name) and not any(is_hidden(part) for part in path.parts)
