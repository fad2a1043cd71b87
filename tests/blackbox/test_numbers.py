"""Numbers that go wrong and numbers that must not change, through the command line.

Frozen layers and the metrics of a whole run are in test_road.py, the metrics one by one in tests/evaluate.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.errors import DivergedError
from finetune.runs.checkpoints import Checkpoints
from tests import makers
from tests.blackbox.measure import measured

STEADY = ("-o", "train.optimizer=sgd", "-o", "train.schedule=constant", "-o", "train.warmup_epochs=0")
PROBE = ("--epochs", "1", "-o", "model.unfreeze={head: 0}")


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def no_traceback(result: Any, rc: int, *parts: str) -> None:
    assert result.rc == rc, result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def test_N01_divergence_stops_at_its_step_and_what_was_saved_is_whole(job: Path, cli: Any) -> None:
    saving = ("-o", "train.checkpoint={every_steps: 1, keep: 9}", "--epochs", "2")
    result = cli("run", "job.yaml", "--out", "o", *STEADY, *saving, "-o", "train.backbone_lr=1e30", cwd=job)
    no_traceback(
        result, 5, "error: train.lr: ", "not finite at step 4 (epoch 2), lr 1e+30; last finite loss 1.", "remedy: "
    )
    assert record(job / "o")["status"] == "failed"
    saved = sorted((job / "o" / "checkpoints").glob("*.pth"))
    assert [path.stem for path in saved] == ["best", *(f"epoch-000{int(n > 3)}-step-000000{n}" for n in range(1, 5))]
    for path in saved:
        state = torch.load(path)["model_state_dict"]
        assert all(torch.isfinite(value).all() for value in state.values())
    assert torch.load(saved[0])["step"] == 3, "the best is still that of the epoch before"
    assert cli("verify", "o", cwd=job).rc == 0


def test_N01_N02_what_is_no_number_is_neither_saved_nor_taken(job: Path, cli: Any) -> None:
    result = cli("run", "job.yaml", "--out", "o", *STEADY, *PROBE, "-o", "train.lr=1e300", cwd=job)
    no_traceback(result, 5, "error: train.lr: ", "at step 0 (epoch 1), lr 1e+300", "remedy: ")
    state = {name: value.clone() for name, value in timm.create_model("test_resnet").state_dict().items()}
    name = "layer1.0.conv1.weight"
    state[name].view(-1)[7] = float("nan")
    save_file(state, job / "nan.safetensors")
    result = cli("run", "job.yaml", "--out", "p", "-o", "model.weights=nan.safetensors", cwd=job)
    no_traceback(result, 4, f"nan.safetensors: {name}: holds values that are not finite", "remedy: ")


def test_N03_an_epoch_whose_answers_are_no_numbers_is_never_the_best(job: Path, cli: Any) -> None:
    wild = ("-o", "train.backbone_lr=1e25", "-o", "train.batch_size=12", "--epochs", "2", "-o", "train.early_stop=3")
    result = cli("run", "job.yaml", "--out", "o", *STEADY, *wild, cwd=job)
    no_traceback(result, 0)
    assert [row["val_loss"] for row in read(job / "o" / "history.csv")][1] == "inf"
    best = torch.load(job / "o" / "checkpoints" / "best.pth")
    assert (best["step"], record(job / "o")["best"]["epoch"]) == (1, 0)
    newest = torch.load(next((job / "o" / "checkpoints").glob("*-step-0000002.pth")))
    assert newest["position"]["stale"] == 1, "and it does not reset the patience"
    hopeless = ("-o", "train.lr=1e25", "-o", "model.unfreeze={all: 0}", "-o", "train.batch_size=12", "--epochs", "1")
    no_traceback(cli("run", "job.yaml", "--out", "p", *STEADY, *hopeless, cwd=job), 5, "train.lr: ", "finite")
    assert not (job / "p" / "model").exists()
    assert not (job / "p" / "checkpoints" / "best.pth").exists()


def test_N05_N06_N07_batches_of_one_and_batches_larger_than_all(job: Path, cli: Any) -> None:
    live = ("--epochs", "1", "-o", "model.unfreeze={all: 0}", "-o", "train.batchnorm=update")

    def steps(name: str, *more: str) -> int:
        result = cli("run", "job.yaml", "--out", name, *live, "-o", "train.checkpoint={keep: 9}", *more, cwd=job)
        no_traceback(result, 0)
        assert json.loads((job / name / "report" / "metrics.json").read_text())["n"] == 6
        return int(max(path.stem for path in (job / name / "checkpoints").glob("epoch-*.pth"))[-7:])

    (job / "images" / "ant" / "007.jpg").unlink()
    assert cli("check", "job.yaml", cwd=job).rc == 0
    assert steps("merged", "-o", "train.batch_size=5") == 2, "11 images: 5 and the rest, 1 among them"
    assert steps("few", "-o", "train.batch_size=512") == 1
    refused = cli("run", "job.yaml", "--out", "one", *live, "-o", "train.batch_size=1", cwd=job)
    no_traceback(refused, 2, "error: train.batch_size: ", "cannot learn statistics from a batch of one", "remedy: ")
    assert "train.batchnorm: keep" in refused.err
    assert steps("frozen", "-o", "train.batch_size=1", "-o", "train.batchnorm=keep") == 11


def every_metric_follows_from_the_predictions(run: Path) -> None:
    found = json.loads((run / "report" / "metrics.json").read_text())
    rows = read(run / "report" / "predictions.csv")
    assert found["n"] == len(rows)
    for row in found["per_class"]:
        true = [r for r in rows if r["class"] == row["class"]]
        said = [r for r in rows if r["predicted"] == row["class"]]
        hits = sum(r["predicted"] == row["class"] for r in true)
        assert row["support"] == len(true)
        assert row["recall"] == pytest.approx(hits / len(true), abs=1e-9)
        assert row["precision"] == (pytest.approx(hits / len(said), abs=1e-9) if said else None)
        assert row["f1"] == pytest.approx(2 * hits / (len(true) + len(said)), abs=1e-9)
    mean = sum(row["f1"] for row in found["per_class"]) / 3
    assert found["macro_f1"] == pytest.approx(mean, abs=1e-9)
    recalls = sum(row["recall"] for row in found["per_class"]) / 3
    assert found["balanced_accuracy"] == pytest.approx(recalls, abs=1e-9)
    edges = [(n / 15, (n + 1) / 15) for n in range(15)]
    gap = 0.0
    for low, high in edges:
        inside = [r for r in rows if low < float(r["confidence"]) <= high]
        right = sum(r["class"] == r["predicted"] for r in inside)
        gap += abs(right - sum(float(r["confidence"]) for r in inside)) / len(rows)
    assert found["ece"] == pytest.approx(gap, abs=1e-9)


def test_N09_N10_the_same_bits_whatever_workers_hashes_and_language(job: Path, cli: Any) -> None:
    makers.class_folders(job / "more", {"ant": 30, "bee": 24, "cat": 17}, seed=50_000)
    worlds = {
        "a": ("1", {"PYTHONHASHSEED": "0", "LC_ALL": "C"}),
        "b": ("4", {"PYTHONHASHSEED": "4242", "LC_ALL": None, "LANG": "tr_TR.UTF-8"}),
    }
    for name, (workers, env) in worlds.items():
        flags = (*PROBE, "-o", "data.folder=more", "-o", f"data.workers={workers}", "-o", "data.augment=strong")
        result = cli("run", "job.yaml", "--out", name, *flags, cwd=job, env=env)
        no_traceback(result, 0)
    hashes = {record(job / name)["weights_sha256"] for name in worlds}
    assert len(hashes) == 1
    for table in ("data.csv", "report/predictions.csv", "report/metrics.json"):
        assert len({(job / name / table).read_bytes() for name in worlds}) == 1
    every_metric_follows_from_the_predictions(job / "a")


@pytest.mark.parametrize("megabytes", [1500, 8000])
def test_N11_too_little_memory_is_said(job: Path, megabytes: int) -> None:
    """1.5 GB of addresses do not even hold torch; 8 GB hold it and one picture, but not a batch of them."""
    large = ("-o", "model.preprocess={size: 4000}", "-o", "data.augment=none", "-o", "model.unfreeze={all: 0}")
    few = ("-o", "train.cache=off", "-o", "train.batch_size=12", "--epochs", "1")
    limit = ["prlimit", f"--as={megabytes}000000"]
    result = measured("run", "job.yaml", "--out", "o", *large, *few, cwd=job, before=limit, OPENBLAS_NUM_THREADS="1")
    no_traceback(result, 6, "error: ", "memory", "remedy: ")


def test_N13_a_device_that_is_not_there_is_never_replaced(job: Path, cli: Any) -> None:
    nothing = {"CUDA_VISIBLE_DEVICES": ""}
    no_traceback(cli("run", "job.yaml", "--out", "o", "-o", "train.device=cuda:7", cwd=job, env=nothing), 6, "cuda:7")
    assert not (job / "o").exists()


def test_N01_a_weight_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    group = {"lr": 3e38, "params": [0]}
    weights = {"a.weight": torch.tensor([1.0, float("inf")])}
    state = {"epoch": 0, "step": 7, "model_state_dict": weights, "optimizer_state_dict": {"param_groups": [group]}}
    with pytest.raises(DivergedError, match=r"train.lr: a.weight is not finite after step 7, lr 3e\+38"):
        Checkpoints(tmp_path / "checkpoints").save(state)
    assert not (tmp_path / "checkpoints").exists()
