"""The page of an audit: sections by kind, warnings first, pictures inside, names escaped."""

from __future__ import annotations

import re
from pathlib import Path

from finetune.data.audit import Finding
from finetune.report import findings as page
from finetune.report.findings import findings_html
from tests.makers import jpeg, put


def test_findings_stand_by_kind_with_what_to_do_and_their_pictures(tmp_path: Path) -> None:
    paths = [str(put(tmp_path / f"<b>{number}.jpg", jpeg(number))) for number in range(12)]
    html = findings_html(
        [
            Finding("outlier", "note", "far", (paths[0],)),
            Finding("near_duplicate", "warning", "twice <i>", (paths[1], paths[2])),
            Finding("near_duplicate", "note", "once more", (paths[3], str(tmp_path / "gone.jpg"))),
            Finding("of a new kind", "warning", "many", tuple(paths)),
            Finding("few images", "warning", "too few of b"),
        ],
        "photos",
    )
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == ["The same picture twice", "Of a new kind", "Few images", "Like no other image"]
    assert html.count("data:image/jpeg") == 1 + 3 + page.BESIDE
    assert html.count("no picture") == 1
    assert "The first 9 of 12 images" in html
    assert "<b>0" not in html
    assert "<i>" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_of_very_many_only_the_first_are_shown_and_the_page_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(page, "MOST", 2)
    path = str(put(tmp_path / "a.jpg", jpeg(1)))
    html = findings_html([Finding("label_suspect", "warning", f"no. {place}", (path,)) for place in range(5)], "photos")
    assert "5 findings, the first 2 shown" in html
    assert "no. 1" in html
    assert "no. 2" not in html


def test_without_findings_the_page_says_that() -> None:
    assert "0 findings: nothing is in the way." in findings_html([], "photos")
