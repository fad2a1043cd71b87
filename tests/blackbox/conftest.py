"""A small recipe on drawn rubbish, for the command line as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import makers

RECIPE = """\
data: {folder: images, split: {val: 0.25, test: 0.25}}
model:
  backbone: timm/test_resnet
  weights: none
  weights_missing: allow
  preprocess: {size: 32}
  unfreeze: {head: 0, "last:2": 1}
train: {epochs: 3, batch_size: 4, lr: 0.01, precision: fp32, checkpoint: {every_steps: 2}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A working folder with `job.yaml` and `images/` of 3 classes with 8 images each."""
    makers.class_folders(tmp_path / "images", {"ant": 8, "bee": 8, "cat": 8})
    (tmp_path / "job.yaml").write_text(RECIPE)
    return tmp_path
