"""The script beside the vanishing-gradient recipes reads what runs write, and the pair differs in one word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.recipe.load import load

ROOT = Path(__file__).parents[1]
HISTORY = """\
epoch,phase,lr,train_loss,val_loss,val_accuracy,val_macro_f1,seconds,images_per_second,grad:fc1,grad:fc2,grad:head
0,0,0.001,2.3,2.3,0.1,0.02,1.0,100.0,1e-08,2e-05,0.5
1,0,0.001,2.3,2.3,0.1,0.02,1.0,100.0,2e-08,,0.25
"""


def test_the_pair_of_recipes_differs_in_the_activation_only() -> None:
    pair: list[dict[str, Any]] = []
    for name in ("sigmoid", "relu"):
        recipe = load(ROOT / "recipes" / f"vanishing-{name}.yaml").model_dump()
        assert recipe.pop("name") == f"vanishing-{name}"
        assert recipe["model"]["options"].pop("activation") == name
        assert len(recipe["model"]["options"]["hidden"]) == 10
        pair.append(recipe)
    assert pair[0] == pair[1]


def test_the_script_reads_two_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.csv").write_text(HISTORY)
        record = {"recipe": {"name": f"run-{name}"}, "metrics": {"accuracy": 0.1}}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    command = [sys.executable, str(ROOT / "examples" / "vanishing.py"), "a", "b", "--draw", "p.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    assert done.stdout.decode().splitlines() == [
        f"run-{name}                fc1 2.0e-08  head 2.5e-01  test accuracy 0.100" for name in ("a", "b")
    ]
    with Image.open(tmp_path / "p.png") as image:
        assert min(image.size) > 300


def test_the_guides_show_the_pair() -> None:
    for guide in ("lessons.md", "lessons.es.md"):
        text = (ROOT / "docs" / guide).read_text("utf-8")
        assert "](pictures/vanishing-recipes.png)" in text
        assert (ROOT / "docs" / "pictures" / "vanishing-recipes.png").is_file()
        for name in ("sigmoid", "relu"):
            assert f"](../recipes/vanishing-{name}.yaml)" in text
