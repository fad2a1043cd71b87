"""A tiny run to train in a second or two: three classes of small pictures and a timm test network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import makers


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder of 3 classes with 8 images each."""
    return makers.class_folders(tmp_path / "images", {"ant": 8, "bee": 8, "cat": 8})
