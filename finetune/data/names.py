"""Groups that the names of files hint at: `IMG_001_a` and `IMG_001_b`, frames of one video, pictures of one patient."""

from __future__ import annotations

import re
from collections.abc import Sequence

PATTERN = r"([^/]*\d[^/]*?)[-_. ](?:frame|img|image|view|shot|crop|slice|part|f)?[-_. ]?(?:\d+|[A-Za-z])\.[^./]+$"
"""Paths whose last part, a number or letter, counts within a group with a number of its own; fit for `data.group`."""

COVERED = 0.5
"""Share of all images that must lie in groups of two or more before names count as a hint."""


def name_groups(paths: Sequence[str]) -> dict[str, list[int]]:
    """Group → positions of its images, of at least two each; empty where names hint at nothing.

    Args:
        paths: posix, relative to the data folder.
    """
    members_of: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        match = re.search(PATTERN, path)
        if match is not None:
            members_of.setdefault(match.group(1), []).append(position)
    groups = {name: members for name, members in members_of.items() if len(members) > 1}
    covered = sum(map(len, groups.values()))
    return groups if len(groups) > 2 and covered >= COVERED * len(paths) else {}
