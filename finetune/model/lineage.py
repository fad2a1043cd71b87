"""Where weights come from, down the chain: what a network started from, and under which licence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
"""The licence of weights about which nobody says anything."""


@dataclass(frozen=True)
class Base:
    """The weights that a network started from.

    Attributes:
        name: by which they were asked for.
        source: where they come from, in words.
        sha256: of their file; None where it is not one.
        licence: as their card or publisher names it, or `UNKNOWN`.
        base: what they started from themselves, as far as it is known.
    """

    name: str
    source: str
    sha256: str | None = None
    licence: str = UNKNOWN
    base: Base | None = None

    def chain(self) -> Iterator[Base]:
        """This one, and those before it."""
        yield self
        if self.base is not None:
            yield from self.base.chain()

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        below = None if self.base is None else self.base.as_dict()
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "licence": self.licence,
            **({"base": below} if below else {}),
        }

    @classmethod
    def of(cls, values: Any) -> Base | None:
        """The inverse of `as_dict`; None for anything else, which a bundle of old or by hand may hold."""
        if not isinstance(values, Mapping) or not values.get("name"):
            return None
        sha256 = values.get("sha256")
        return cls(
            str(values["name"]),
            str(values.get("source") or ""),
            None if sha256 is None else str(sha256),
            str(values.get("licence") or UNKNOWN),
            cls.of(values.get("base")),
        )


def short_path(name: str) -> str:
    """A name as others may see it: of an absolute path the last two parts, because the rest tells of this machine."""
    path = Path(name).expanduser()
    return "/".join(path.parts[-2:]) if path.is_absolute() else name


def licence_of(base: Base | None) -> str | None:
    """The licence that weights derived from `base` may claim, which is never looser than those of the chain.

    Returns:
        None where nothing was the base; `UNKNOWN` where the licence of any in the chain is; else all of them.
    """
    if base is None:
        return None
    licences = {link.licence.lower(): link.licence for link in base.chain()}  # Apache-2.0 is apache-2.0
    return UNKNOWN if UNKNOWN in licences else " and ".join(licences.values())
