"""Small networks on a tiny MNIST and on the digits, as a user runs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from finetune import open_run
from tests import makers

MODELS = Path(__file__).parents[2] / "models"
RECIPE = """\
data: {source: mnist, folder: data, split: {val: 0.1}, augment: light}
model: {backbone: small/mlp}
train: {epochs: 3, batch_size: 16, lr: 0.01, schedule: one_cycle}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A working folder with `job.yaml` and a tiny MNIST in `data/`."""
    makers.idx_files(tmp_path / "data")
    (tmp_path / "job.yaml").write_text(RECIPE)
    return tmp_path


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_road_from_memory(job: Path, cli: Any) -> None:
    result = cli("run", "job.yaml", "--out", "o", cwd=job)
    assert result.rc == 0, result.err
    run = job / "o"
    rows = read(run / "data.csv")
    assert len(rows) == 250
    assert [row["path"] for row in read(run / "report/predictions.csv")][:2] == ["test/00000", "test/00001"]
    metrics = json.loads((run / "report/metrics.json").read_text())
    assert (metrics["split"], metrics["n"], metrics["base_rate"]) == ("test", 50, 0.1)
    assert metrics["accuracy"] > 0.5
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert resolved["model"]["in_chans"] == 1
    assert resolved["model"]["unfreeze"] == {"all": 0}
    assert resolved["train"]["loss"] == "cross_entropy"
    assert resolved["data"]["folder"] == str(job / "data")
    evaluated = json.loads(cli("evaluate", "o", "--json", cwd=job).out)
    assert evaluated["accuracy"] == metrics["accuracy"]
    again = cli("run", run / "recipe.yaml", "--out", "again", cwd=job)
    assert again.rc == 0, again.err
    assert record(job / "again")["weights_sha256"] == record(run)["weights_sha256"]


def test_predict_says_of_a_file_what_evaluate_says_of_memory(job: Path, cli: Any) -> None:
    assert cli("run", "job.yaml", "--out", "o", cwd=job).rc == 0
    pixels = (job / "data/MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16 + 3 * 784 : 16 + 4 * 784]
    Image.frombytes("L", (28, 28), pixels).save(job / "three.png")
    found = json.loads(cli("predict", "o", "three.png", "--json", cwd=job).out)["predictions"][0]
    row = read(job / "o/report/predictions.csv")[3]
    assert found["label"] == row["predicted"]
    assert found["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-4)


def test_stopped_and_resumed_it_comes_to_the_same_bits(job: Path, cli: Any) -> None:
    more = ("-o", "train.checkpoint={every_steps: 5, keep: 20}")
    assert cli("run", "job.yaml", "--out", "whole", *more, cwd=job).rc == 0
    assert cli("run", "job.yaml", "--out", "cut", *more, cwd=job).rc == 0
    cut, wanted = job / "cut", record(job / "whole")["weights_sha256"]
    middle = sorted((cut / "checkpoints").glob("epoch-0001-*.pth"))[0]
    for path in (cut / "checkpoints").iterdir():
        if path.stem > middle.stem and path.stem != "best":
            path.unlink()
    record_before = record(cut)
    (cut / "run.json").write_text(json.dumps({**record_before, "status": "stopped"}))
    resumed = cli("resume", "cut", cwd=job)
    assert resumed.rc == 0, resumed.err
    assert record(cut)["weights_sha256"] == wanted


def test_open_run_gives_the_notebooks_four_lines(job: Path, cli: Any) -> None:
    assert cli("run", "job.yaml", "--out", "o", cwd=job).rc == 0
    model, optimizer = open_run(job / "o")
    checkpoint = torch.load(job / "o/checkpoints/best.pth")
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    assert list(model.state_dict()) == [f"fc{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")]


def test_a_perceptron_against_the_rest(job: Path, cli: Any) -> None:
    changes = ("-o", "model.backbone=small/perceptron", "-o", "data.positive=5", "-o", "train.margin=0")
    result = cli("run", "job.yaml", "--out", "o", *changes, cwd=job)
    assert result.rc == 0, result.err
    assert "always 'not 5': 0.9000" in result.err
    assert any(
        "always answering 'not 5' would be right for 0.9000 of test" in line for line in record(job / "o")["warnings"]
    )
    assert record(job / "o")["recipe"]["train"]["loss"] == "hinge"
    assert json.loads((job / "o/model/model.json").read_text())["loss"] == "hinge"
    assert "each class against the rest" in (job / "o/report/report.html").read_text()
    assert {row["class"] for row in read(job / "o/data.csv")} == {"not 5", "5"}
    assert cli("evaluate", "o", cwd=job).rc == 0


def test_layers_plan_and_check_know_them(job: Path, cli: Any) -> None:
    layers = json.loads(cli("layers", "small/mlp", "--json", cwd=job).out)
    assert list(layers["groups"]) == ["fc1", "fc2", "head"]
    assert "fc1" in cli("plan", "job.yaml", cwd=job).out
    checked = cli("check", "job.yaml", cwd=job)
    assert checked.rc == 0
    assert "250 images of 10 classes" in checked.out


def test_absent_and_offline_is_exit_code_6(job: Path, cli: Any) -> None:
    result = cli("run", "job.yaml", "--out", "o", "-o", "data.folder=null", cwd=job, timeout=30)
    assert result.rc == 6
    assert "MNIST/raw" in result.err
    assert "remedy:" in result.err
    assert cli("run", "job.yaml", "-o", "data.folder=nowhere", cwd=job, timeout=30).rc == 6


def test_the_notebooks_checkpoint_is_frozen_to_the_bit_and_fine_tuned_on_the_digits(tmp_path: Path, cli: Any) -> None:
    class FullyConnectedNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(784, 128), nn.Linear(128, 64), nn.Linear(64, 10)

    notebook = FullyConnectedNN()
    torch.save({"epoch": 1, "model_state_dict": notebook.state_dict(), "loss": 0.5}, tmp_path / "model_checkpoint.pth")
    (tmp_path / "job.yaml").write_text(
        "data: {folder: digits, sample: digits, augment: none}\n"
        "model: {backbone: small/mlp, weights: model_checkpoint.pth, unfreeze: {head: 0, fc2: 0}}\n"
        "train: {epochs: 2}\n"
    )
    result = cli("run", "job.yaml", "--out", "o", cwd=tmp_path)
    assert result.rc == 0, result.err
    assert "real handwritten digits" in result.err
    assert set(record(tmp_path / "o")["freeze_proof"]) == {"fc1"}
    assert not any("drawn" in line for line in record(tmp_path / "o")["warnings"])
    state = torch.load(tmp_path / "o/checkpoints/best.pth")["model_state_dict"]
    assert torch.equal(state["fc1.weight"], notebook.fc1.weight)
    assert not torch.equal(state["fc2.weight"], notebook.fc2.weight)
    notebook.load_state_dict(state)  # and back into the notebook


def test_the_shipped_model_is_what_its_card_says() -> None:
    from finetune.model.backbones import build
    from finetune.model.card import read_card

    card = read_card(MODELS / "mnist-mlp.yaml")
    card.check_sha256()
    assert card.licence == "Apache-2.0"
    assert card.metrics["accuracy"] > 0.98
    network = build(str(MODELS / "mnist-mlp.yaml"), ["a", "b"])
    assert (network.architecture, network.in_chans, network.pretrained) == ("small/mlp", 1, True)


def test_the_shipped_model_knows_real_digits(real_data: Path) -> None:
    from safetensors.torch import load_file

    from finetune.data.batches import load_images
    from finetune.data.mnist import read_mnist
    from finetune.model.backbones import build

    network = build("small/mlp", list("0123456789"))
    network.module.load_state_dict(load_file(MODELS / "mnist-mlp.safetensors"))
    test = read_mnist(real_data).test
    assert test is not None
    images = load_images(test, network.preprocess)
    pixels = images.pixels(range(1000))
    with torch.inference_mode():
        right = network.module(network.preprocess.normalise(pixels)).argmax(1).numpy() == images.labels[:1000]
    assert right.mean() > 0.97
