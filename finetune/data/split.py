"""Splits images into train, val and test: stratified, by content, with groups kept together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pandas as pd

from finetune.errors import DataError, UsageError
from finetune.files import visible


def split(
    table: pd.DataFrame, val: float, test: float, seed: int, units: Sequence[str] | None = None
) -> pd.Series[str]:
    """Deal the images of each class out to train, val and test, at random but by content alone.

    The contents of a class are ranked by sha256(seed, content hash), and the first ranks go to test, the next to val.
    So the split is a pure function of (content hashes, classes, fractions, seed): names and order of the files change
    nothing. Exact duplicates are one content and stay together. Every class has at least one image in train and one
    in val and, with three contents or more, one in test where `test` > 0. A class with a single content, beside others
    that have more, is learned from: how well it is recognised cannot be known.

    Args:
        table: has the columns `class` and `sha256`, as `Scan.table`.
        val: fraction of each class for choosing the best epoch, 0 < val.
        test: fraction of each class for evaluating at the end, 0 <= test, val + test < 1.
        seed: another seed gives another split.
        units: for each row what must stay together, see `finetune.data.group.units_of`; None: each content.

    Returns:
        'train', 'val' or 'test' for each row, with the index of `table`.

    Raises:
        UsageError: the fractions make no split.
        DataError: classes that cannot be split, all of them.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        problem = f"data.split: val {val} and test {test} leave no training images or no validation images"
        raise UsageError(problem, "give val > 0, test >= 0 and val + test < 1, for instance 0.15 and 0.15")
    unit_of = table["sha256"] if units is None else pd.Series(list(units), index=table.index, dtype=object)
    # Class → unit → how many contents of the class it has. Not by groupby: pandas 3 refuses names that are not UTF-8.
    contents: dict[str, dict[str, int]] = {}
    for name, unit, _ in sorted(set(zip(table["class"], unit_of, table["sha256"], strict=True))):
        counts = contents.setdefault(name, {})
        counts[unit] = counts.get(unit, 0) + 1
    alone = {name for name, counts in contents.items() if len(counts) < 2}
    if too_few := sorted(alone) if units is not None or len(alone) == len(contents) else []:
        sizes = table["class"].value_counts()
        raise _cannot(f"{_named(name)} has {_single(int(sizes[name]), units)}: it cannot be split" for name in too_few)
    places: dict[str, str] = {}
    # class after class: a unit that several share goes where the first one puts it, and an only one is to learn
    for name in sorted(contents, key=lambda name: (name not in alone, name)):
        _deal(contents[name], places, val, test, seed)
    where = {name: {places[content] for content in contents[name]} for name in sorted(contents)}
    problems = [
        f"{_named(name)} shares so many images with other classes that {split_name} gets none"
        for name, got in where.items()
        for split_name in ("train", "val")
        if split_name not in got and not (split_name == "val" and name in alone)
    ]
    if problems:
        raise _cannot(problems)
    return pd.Series([places[unit] for unit in unit_of], index=table.index, name="split", dtype=object)


def fill(table: pd.DataFrame, val: float, test: float, seed: int, units: Sequence[str] | None = None) -> pd.Series[str]:
    """The split of each row, with what a folder's own split lacks cut off its training images.

    A folder without a split is dealt out whole; one with train/ and test/ gives up a share of train/ for validation;
    one whose only usable part is train/ gives up both.

    Args:
        table: as `Scan.table`; its column `split` is '' or the folder's own.
        val, test, seed, units: as for `split`.

    Raises:
        UsageError, DataError: as for `split`.
    """
    own: pd.Series[str] = table["split"]
    if (own == "val").any():
        return own
    rows = ~own.isin(["test"])
    if rows.all():
        return split(table, val, test, seed, units)
    filled = own.copy()
    kept = None if units is None else [unit for unit, inside in zip(units, rows, strict=True) if inside]
    filled[rows] = split(table[rows], val, 0.0, seed, kept)
    return filled


def _deal(units: dict[str, int], places: dict[str, str], val: float, test: float, seed: int) -> None:
    """Give each unit of one class that has no place yet its place; what other classes share has one already.

    Args:
        units: unit → how many contents of the class it has.
        places: unit → split, filled here.
        val, test, seed: as for `split`.
    """
    missing = dict(zip(("test", "val"), _counts(sum(units.values()), val, test), strict=True))
    needed = ("train", "val", "test") if missing["test"] and len(units) > 2 else ("train", "val")
    missing["test"] *= "test" in needed  # two units are for train and val: nothing is left to test on
    for unit in units.keys() & places.keys():
        if places[unit] in missing:
            missing[places[unit]] -= units[unit]
    # by a hash, not by a shuffle: an image that is added or removed moves few of the others
    ranked = sorted(units.keys() - places.keys(), key=lambda unit: _rank(unit, seed))
    for unit in ranked:
        # a unit may overshoot what a split still needs by as much as it falls short without it, and no more
        chosen_split = next((name for name, left in missing.items() if left > 0 and 2 * left >= units[unit]), "train")
        places[unit] = chosen_split
        if chosen_split in missing:
            missing[chosen_split] -= units[unit]
    for split_name in needed:  # with few large groups a split may have none: it gets one from where there are most
        held = [places[unit] for unit in units]
        donor = max(("train", "val", "test"), key=held.count)
        spare = [unit for unit in ranked if places[unit] == donor]
        if split_name not in held and held.count(donor) > 1 and spare:
            places[min(spare, key=lambda unit: units[unit])] = split_name


def _counts(n: int, val: float, test: float) -> tuple[int, int]:
    """How many of `n` >= 2 contents go to test and to val; at least one stays for train."""
    n_val = max(1, int(n * val + 0.5))
    n_test = max(1, int(n * test + 0.5)) if test > 0 and n >= 3 else 0
    while n_val + n_test >= n:
        if n_test >= n_val and n_test > 1:
            n_test -= 1
        else:
            n_val -= 1
    return n_test, n_val


def _rank(content: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{content}".encode()).digest()


def _single(images: int, units: Sequence[str] | None) -> str:
    """What a class consists of that has only one content or group."""
    if images == 1:
        return "a single image"
    return f"{images:,} images of the same content" if units is None else "a single group of images (data.group)"


def _named(name: str) -> str:
    return f"class {visible(name)!r}"


def _cannot(problems: Iterable[str]) -> DataError:
    remedy = "add images to these classes, or leave them out with data.classes"
    return DataError(list(problems), remedy)
