"""Notes on a folder and its images, as lines for people."""

from __future__ import annotations

from collections.abc import Iterable

from finetune.data.formats import is_image_name
from finetune.data.walk import Listing
from finetune.files import visible


def listing_notes(listing: Listing) -> list[str]:
    """What was left out of a listing, and which links were followed."""
    kinds = [
        (listing.others, "is not a sample", "are not samples"),
        (listing.outside, "lies in no class folder and is not used", "lie in no class folder and are not used"),
        (listing.irregular, "is not a regular file and was skipped", "are not regular files and were skipped"),
        (listing.repeated, "is a link to what is counted already", "are links to what is counted already"),
        (
            listing.followed,
            "is a link out of the folder and was followed",
            "are links out of the folder and were followed",
        ),
        (listing.ours, "holds runs of finetune and was skipped", "hold runs of finetune and were skipped"),
    ]
    lines = [note(paths, one, many) for paths, one, many in kinds if paths]
    if listing.unused:
        folders = f"{count(len(listing.unused), 'folder')} beside those of the splits"
        lines.append(f"{folders} {'is' if len(listing.unused) == 1 else 'are'} not used: {named(listing.unused)}")
    return lines + listing.notes


def note(paths: Iterable[str], one: str, many: str) -> str:
    """How many paths there are, what about them, and the first few of them."""
    listed = list(paths)
    kind = "image" if all(is_image_name(path) for path in listed) else "file"
    return f"{count(len(listed), kind)} {one if len(listed) == 1 else many}: {named(listed)}"


def count(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def named(paths: Iterable[str], most: int = 5) -> str:
    """The first few of some paths."""
    ordered = sorted(paths)
    more = f" and {len(ordered) - most:,} more" if len(ordered) > most else ""
    return ", ".join(visible(path) for path in ordered[:most]) + more
