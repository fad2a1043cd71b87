"""A network of one class against the rest, evaluated on class folders as it learned from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.deliver.evaluate import evaluate
from finetune.errors import DataError
from finetune.runs.reporter import Reporter
from finetune.story.run import run
from tests import makers

QUIET = Reporter(say=lambda text: None)


def test_other_classes_count_as_the_rest(tmp_path: Path) -> None:
    folder = makers.class_folders(tmp_path / "images", {"ant": 8, "bee": 8, "cat": 8})
    recipe = {
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": 0.25}, "positive": "bee"},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 4},
    }
    run(recipe, out=tmp_path / "o", reporter=QUIET)
    evaluation, _ = evaluate(tmp_path / "o", folder, reporter=QUIET)
    assert evaluation.labels.tolist() == [int(path.startswith("bee")) for path in evaluation.paths]
    assert sorted(evaluation.labels.tolist()) == [0] * 16 + [1] * 8

    without = makers.class_folders(tmp_path / "others", {"ant": 2, "dog": 2})
    with pytest.raises(DataError, match="ant"):  # nothing in it is what the network knows
        evaluate(tmp_path / "o", without, reporter=QUIET)
