"""The findings of an audit as one self-contained page: by kind, what it means, what to do, and the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.audit import Finding
from finetune.data.notes import count
from finetune.report.html import render_page
from finetune.report.sheet import picture_of

SIDE = 160
"""Pixels of a picture's longer side: large enough to judge a label by."""

MOST, BESIDE = 200, 9
"""Findings with pictures, and pictures of one finding, that are shown."""

KINDS = {
    "duplicates across splits": (
        "One file in several splits",
        "What was learned is asked again in the test. Keep one.",
    ),
    "duplicates across classes": ("One file in several classes", "One of the labels is wrong. Keep one."),
    "near_duplicate": (
        "The same picture twice",
        "Keep one of each. Across splits, what was learned is asked again in the test; across classes, one of the "
        "labels is wrong.",
    ),
    "group": (
        "Names that belong together",
        "If they show one thing (a video, a patient), keep them in one split with data.group.",
    ),
    "label_suspect": (
        "Labels that are probably wrong",
        "Surest first. A classifier that had not seen the image names another class, and so do the images that look "
        "most like it. The number is its confidence. Some of these images are only unusual for their class.",
    ),
    "confusion": (
        "Classes that cannot be told apart",
        "A classifier that had not seen the images can hardly say which is which. They may be one class under two "
        "names, their labels may be mixed up, or the network does not see what makes the difference. Shown are the "
        "images that are surest taken for the other class.",
    ),
    "outlier": ("Like no other image", "They may belong to another data set, or be the only ones of their kind."),
    "off_image": ("Tiny, blurred, or far longer than wide", "A network sees little in them."),
    "giveaway": (
        "The border gives the class away",
        "A network may learn the frame, the watermark or the background instead of the thing.",
    ),
    "hidden by the crop": ("Cut off by the centre crop", "The network never sees the ends of these images."),
    "nearly uniform": ("Nearly uniform", "Blank, or numbers out of range."),
    "unreadable": ("Unreadable", "These files are left out."),
}
"""Kind of finding → heading and what to do."""


@dataclass(frozen=True)
class Section:
    """All findings of a kind: heading, what to do, how many there are, and those that are shown."""

    title: str
    advice: str
    count: str
    findings: Sequence[Finding]


def findings_html(findings: Sequence[Finding], title: str) -> str:
    """The page; nothing outside it is loaded, and every name is escaped. Sections with warnings come first."""
    kinds = dict.fromkeys(finding.kind for finding in sorted(findings, key=lambda one: one.severity == "note"))
    left, sections = MOST, []
    for kind in kinds:
        own = [finding for finding in findings if finding.kind == kind]
        shown = [finding for finding in own if not finding.paths or (left := left - 1) >= 0]
        heading, advice = KINDS.get(kind, (kind.replace("_", " ").capitalize(), ""))
        sections.append(Section(heading, advice, _counted(len(own), len(shown)), shown))
    pictures = {path: picture_of(Path(path), SIDE) for section in sections for path in _shown(section.findings)}
    return render_page(
        "findings.html.j2", title=title, total=len(findings), sections=sections, pictures=pictures, beside=BESIDE
    )


def _shown(findings: Iterable[Finding]) -> Iterable[str]:
    return (path for finding in findings for path in finding.paths[:BESIDE])


def _counted(found: int, shown: int) -> str:
    return count(found, "finding") + (f", the first {shown:,} shown" if shown < found else "")
