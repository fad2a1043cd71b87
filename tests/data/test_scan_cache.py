"""What was decoded once is not decoded again, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from finetune.data import scan as scanning
from finetune.data import scan_cache as module
from finetune.data.scan import scan
from finetune.errors import DataError
from finetune.files import cache_folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every image that is decoded."""
    counted: list[int] = []
    inspect = scanning.inspect
    monkeypatch.setattr(scanning, "inspect", lambda *given: counted.append(1) or inspect(*given))
    monkeypatch.setattr(module, "WORTH", 3)
    return counted


def draw(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path)


def test_a_second_scan_decodes_what_is_new(tmp_path: Path, decoded: list[int]) -> None:
    for number in range(4):
        draw(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", (number, 0, 0))
    first = scan(tmp_path / "images")
    assert len(decoded) == 4
    again = scan(tmp_path / "images")
    assert len(decoded) == 4
    assert again.table.equals(first.table)
    draw(tmp_path / "images" / "a" / "0.png", (200, 0, 0))
    changed = scan(tmp_path / "images")
    assert len(decoded) == 5
    assert set(changed.table["sha256"]) ^ set(first.table["sha256"])


def test_a_file_that_is_damaged_afterwards_is_found(tmp_path: Path, decoded: list[int]) -> None:
    for number in range(4):
        draw(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", (number, 0, 0))
    scan(tmp_path / "images")
    victim = tmp_path / "images" / "a" / "0.png"
    victim.write_bytes(victim.read_bytes()[:-20])
    for _ in range(2):
        with pytest.raises(DataError, match=r"0\.png"):
            scan(tmp_path / "images")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "images": {"a": [1]}}'])
def test_what_is_no_index_counts_for_nothing(tmp_path: Path, decoded: list[int], content: str) -> None:
    for number in range(4):
        draw(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", (number, 0, 0))
    first = scan(tmp_path / "images")
    (file,) = (cache_folder() / "scans").iterdir()
    file.write_text(content)
    assert scan(tmp_path / "images").table.equals(first.table)
    assert len(decoded) == 8


def test_a_cache_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file" / "below"))
    for number in range(4):
        draw(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", (number, 0, 0))
    assert len(scan(tmp_path / "images").table) == 4
