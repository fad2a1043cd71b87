"""What the package carries besides its code, and which card the name of a backbone stands for."""

from __future__ import annotations

import site
import sysconfig
from pathlib import Path

CARD_SUFFIXES = (".yaml", ".yml")
CARDS = "models"
"""The folder of cards, in the working folder and in what the package carries."""


def carried_folder() -> Path:
    """The folder with `models/` and `recipes/` that comes with the package.

    A checkout's own, else where an installed wheel puts it (`share/finetune-toolkit` of the environment or the user).
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return checkout
    homes = [sysconfig.get_path("data"), site.USER_BASE or ""]
    places = [Path(home) / "share" / "finetune-toolkit" for home in homes if home]
    return next((place for place in places if place.is_dir()), places[0])


def card_of(name: str, folder: Path, carried: Path | None = None) -> Path | None:
    """The card that a name or path stands for, with its ending or without; None where there is none.

    Args:
        name: as a person writes it: `models/NAME`, in the working folder or else carried by the package, or any path.
        folder: the working folder, which relative paths start from.
        carried: what the package carries; None for `carried_folder()`.
    """
    path = Path(name).expanduser()
    by_name = path.parts[:1] == (CARDS,)
    if (folder / path).is_dir() and not by_name:
        return None  # a bundle or a run, whatever lies beside it
    for home in (folder, carried or carried_folder()) if by_name else (folder,):
        for suffix in ("", *CARD_SUFFIXES):
            card = home / path.parent / f"{path.name}{suffix}"
            if card.suffix in CARD_SUFFIXES and card.is_file():
                return card
    return None
