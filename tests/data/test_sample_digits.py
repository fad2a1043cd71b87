"""The built-in digits: real ones, as small PNG files in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from finetune.data.samples.catalogue import is_drawn, write_sample
from finetune.data.scan import scan
from finetune.errors import UsageError


def test_all_of_them_are_written_as_they_are(tmp_path: Path) -> None:
    assert write_sample("digits", tmp_path / "d") == list("0123456789")
    found = scan(tmp_path / "d")
    assert len(found.table) == 1797
    assert set(found.table["mode"]) == {"L"}
    assert set(found.table["width"]) == {8}
    digits = load_digits()
    assert [len(list((tmp_path / "d" / str(n)).iterdir())) for n in range(10)] == np.bincount(digits.target).tolist()
    picture = np.asarray(Image.open(tmp_path / "d" / str(digits.target[5]) / "0005.png"))
    assert np.array_equal(np.round(picture / (255 / 16)), digits.images[5])
    assert not is_drawn(tmp_path / "d")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="there is something already"):
        write_sample("digits", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_they_are_not_drawn_to_order(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size"):
        write_sample("digits", tmp_path / "d", size=16)
