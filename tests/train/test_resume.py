"""Stopped at any step and gone on with, a run ends in the very same bits."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finetune.errors import ArtefactError, DataError, FinetuneError, ResourceError, Stopped, UsageError
from finetune.runs.folder import RunFolder
from finetune.runs.reporter import Reporter
from finetune.story.resume import open_run, resume
from finetune.story.run import run
from finetune.train.store import Store
from tests import makers


def recipe(folder: Path, **train: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": 0.25}},
        "model": {
            "backbone": "timm/test_resnet",
            "weights": "none",
            "weights_missing": "allow",
            "preprocess": {"size": 32},
            "options": {"drop_rate": 0.2},
            "unfreeze": {"head": 0, "last:2": 1},
        },
        "train": {
            "epochs": 3,
            "batch_size": 4,
            "batchnorm": "update",
            "precision": "fp32",
            "lr": 0.01,
            "optimizer": "adamw",
            **train,
        },
    }


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and pictures take longer than these runs and have tests of their own."""
    monkeypatch.setattr("finetune.story.run.publish_report", lambda *_: [])


def quiet(stop: Any = lambda: None) -> Reporter:
    return Reporter(say=lambda text: None, stop=stop)


def stop_after(calls: int) -> Any:
    """A `stop` that answers SIGTERM from the `calls`-th time on that it is asked."""
    counter = itertools.count(1)
    return lambda: signal.SIGTERM if next(counter) >= calls else None


def sha256(folder: Path) -> str:
    """The hash of the weights, and the temperature that was fitted with them."""
    record = json.loads((folder / "run.json").read_text())
    return f"{record['weights_sha256']} {record['temperature']!r}"


def rows(folder: Path) -> list[str]:
    return [line.split(",")[0] for line in (folder / "history.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    "train",
    [
        {"checkpoint": {"every_steps": 2}},
        {"accumulate": 2, "ema": 0.9, "early_stop": 2, "checkpoint": {"every_epochs": None, "every_steps": 1}},
        {"optimizer": "sgd", "schedule": "one_cycle", "clip_norm": 1.0, "label_smoothing": 0.1},
    ],
    ids=["plain", "accumulate-ema-early_stop", "sgd"],
)
def test_stopping_wherever_and_going_on_gives_the_same_bits(tiny: Path, tmp_path: Path, train: dict[str, Any]) -> None:
    given = recipe(tiny, **train)
    run(given, out=tmp_path / "whole", reporter=quiet())
    stops = 0
    for calls in itertools.count(27, 7):  # the first 24 questions come from the scan
        out = tmp_path / f"stopped-{calls}"
        with contextlib.suppress(Stopped):
            run(given, out=out, reporter=quiet(stop_after(calls)))
            break
        stops += 1
        resume(out, reporter=quiet())
        assert sha256(out) == sha256(tmp_path / "whole"), f"stopped at question {calls}"
        assert rows(out) == rows(tmp_path / "whole")
    assert stops >= 2


def test_every_step_can_be_the_last_before_a_stop(tiny: Path, tmp_path: Path) -> None:
    given = recipe(tiny, checkpoint={"every_steps": 1, "keep": 99})
    run(given, out=tmp_path / "whole", reporter=quiet())
    checkpoints = sorted((tmp_path / "whole" / "checkpoints").glob("epoch-*.pth"))
    assert len(checkpoints) == 9
    for number, checkpoint in enumerate(checkpoints):
        resume(tmp_path / "whole", checkpoint=checkpoint, reporter=quiet())
        assert rows(tmp_path / "whole") == ["0", "1", "2"]
        if number == 0:
            reference = sha256(tmp_path / "whole")
        assert sha256(tmp_path / "whole") == reference


def test_a_pretrained_backbone_is_still_one_after_a_stop(tiny: Path, tmp_path: Path) -> None:
    run(recipe(tiny), out=tmp_path / "taught", reporter=quiet())
    given = recipe(tiny, batchnorm="auto", checkpoint={"every_steps": 2, "keep": 99})
    given["model"] |= {"backbone": str(tmp_path / "taught"), "weights": "default"}
    run(given, out=tmp_path / "o", reporter=quiet())
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["batchnorm"] == "keep"  # few images: the statistics that it came with are better
    shutil.rmtree(tmp_path / "taught")  # a checkpoint has all weights, run.json how they are used
    model, _ = open_run(tmp_path / "o")
    assert set(model.state_dict()) == set(load_file(tmp_path / "o" / "model" / "model.safetensors"))
    for checkpoint in sorted((tmp_path / "o" / "checkpoints").glob("epoch-*.pth")):
        resume(tmp_path / "o", checkpoint=checkpoint, reporter=quiet())
        again = json.loads((tmp_path / "o" / "run.json").read_text())
        assert {key: again[key] for key in ("weights_sha256", "batchnorm", "source")} == {
            key: record[key] for key in ("weights_sha256", "batchnorm", "source")
        }


def test_a_recipe_that_names_another_backbone_is_not_answered_with_the_old_one(tiny: Path, tmp_path: Path) -> None:
    run(recipe(tiny), out=tmp_path / "o", reporter=quiet())
    text = (tmp_path / "o" / "recipe.yaml").read_text()
    name = recipe(tiny)["model"]["backbone"]
    (tmp_path / "o" / "recipe.yaml").write_text(text.replace(name, str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match="nowhere: nothing there"):
        resume(tmp_path / "o", accept_changes=True, reporter=quiet())


def test_a_checkpoint_of_another_run_is_refused(tiny: Path, tmp_path: Path) -> None:
    run(recipe(tiny), out=tmp_path / "o", reporter=quiet())
    other = recipe(tiny)
    other["data"]["classes"] = ["cat", "bee", "ant"]  # the same classes in another order: a head of the same shape
    run(other, out=tmp_path / "p", reporter=quiet())
    foreign = next((tmp_path / "p" / "checkpoints").glob("epoch-*.pth"))
    kept = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    with pytest.raises(ArtefactError, match="another run"):
        resume(tmp_path / "o", checkpoint=foreign, reporter=quiet())
    assert {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()} == kept


def test_the_history_is_whole_though_it_stopped_between_a_checkpoint_and_its_row(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunFolder.write_history

    def stop_at_the_last(folder: RunFolder, history: list[dict[str, Any]]) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt
        write(folder, history)

    monkeypatch.setattr(RunFolder, "write_history", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tiny), out=tmp_path / "o", reporter=quiet())
    monkeypatch.setattr(RunFolder, "write_history", write)
    assert rows(tmp_path / "o") == ["0", "1"]
    resume(tmp_path / "o", reporter=quiet())
    assert rows(tmp_path / "o") == ["0", "1", "2"]
    assert "error" not in json.loads((tmp_path / "o" / "run.json").read_text())


def test_a_finished_run_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    run(recipe(tiny), out=tmp_path / "o", reporter=quiet())
    before = makers.tree_hash(tmp_path / "o")
    resume(tmp_path / "o", reporter=quiet())
    assert makers.tree_hash(tmp_path / "o") == before


def stopped(tiny: Path, tmp_path: Path, calls: int = 34) -> Path:
    out = tmp_path / "o"
    with pytest.raises(Stopped) as caught:
        run(recipe(tiny, checkpoint={"every_steps": 1}), out=out, reporter=quiet(stop_after(calls)))
    assert caught.value.exit_code == 143
    assert f"ft.resume({str(out)!r})" in caught.value.remedy
    return out


@pytest.mark.parametrize("damage", ["cut", "flip", "no manifest"])
def test_a_broken_checkpoint_is_passed_over(tiny: Path, tmp_path: Path, damage: str) -> None:
    run(recipe(tiny), out=tmp_path / "whole", reporter=quiet())
    out = stopped(tiny, tmp_path)
    newest = sorted((out / "checkpoints").glob("epoch-*.pth"))[-1]
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(content[:-1])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.with_suffix(".json").unlink()
    said: list[str] = []
    with pytest.raises(ArtefactError, match=newest.name):
        resume(out, checkpoint=newest, reporter=quiet())
    resume(out, reporter=Reporter(say=said.append))
    assert any(line.startswith("warning") and newest.name in line for line in said)
    assert sha256(out) == sha256(tmp_path / "whole")


def test_with_no_whole_checkpoint_left_nothing_is_started_over(tiny: Path, tmp_path: Path) -> None:
    out = stopped(tiny, tmp_path)
    names = sorted((out / "checkpoints").glob("*.pth"))
    for path in names:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError) as caught:
        resume(out, reporter=quiet())
    assert all(any(path.name in line for line in caught.value.problems) for path in names)
    assert sorted((out / "checkpoints").glob("*.pth")) == names


def test_a_changed_recipe_is_refused_with_its_changes(tiny: Path, tmp_path: Path) -> None:
    out = stopped(tiny, tmp_path)
    text = (out / "recipe.yaml").read_text()
    text = text.replace("lr: 0.01\n", "lr: 0.02\n", 1).replace("batch_size: 4", "batch_size: 5")
    (out / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        resume(out, reporter=quiet())
    assert len(caught.value.problems) == 2
    assert "train.lr: 0.01" in str(caught.value)
    assert "ft.resume(run, accept_changes=True)" in caught.value.remedy
    resume(out, accept_changes=True, reporter=quiet())
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on there is room for no table."""
    monkeypatch.setattr("finetune.train.cache_decision.free_memory", lambda: 0)
    monkeypatch.setattr(Store, "has_room", lambda *_: False)


@pytest.mark.parametrize("crowded", ["at first", "later"])
def test_what_is_kept_is_decided_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowded: str
) -> None:
    """Whether there is room may change meanwhile; the views that the network learns from must not."""
    given = recipe(tiny, epochs=6, cache={"views": 2}, checkpoint={"every_steps": 1})
    with monkeypatch.context() as patch:
        if crowded == "at first":
            crowd(patch)
        run(given, out=tmp_path / "whole", reporter=quiet())
        with pytest.raises(Stopped):
            run(given, out=tmp_path / "o", reporter=quiet(stop_after(40)))
    assert (json.loads((tmp_path / "whole" / "run.json").read_text())["cache"]["views"] == 0) == (crowded == "at first")
    if crowded == "later":
        with monkeypatch.context() as patch:
            crowd(patch)
            with pytest.raises(ResourceError, match="has used the cache so far"):
                resume(tmp_path / "o", reporter=quiet())
    resume(tmp_path / "o", reporter=quiet())
    assert sha256(tmp_path / "o") == sha256(tmp_path / "whole")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("optimizer: adamw", "optimizer: sgd"),
        ("optimizer: sgd", "optimizer: adamw"),
        ("optimizer: sgd", "optimizer: adam"),
        ("ema: null", "ema: 0.9"),
        ("ema: 0.9", "ema: null"),
        ("    last:2: 1", "    all: 0"),
        ("cache: auto", "cache: off"),
        ("loss: cross_entropy", "loss: hinge"),
    ],
)
@pytest.mark.parametrize("calls", [3, 40])
def test_a_run_goes_on_with_another_recipe(tiny: Path, tmp_path: Path, before: str, after: str, calls: int) -> None:
    key, _, value = before.rpartition(": ")
    given = recipe(tiny, **({} if "last" in key else {key: yaml.safe_load(value)}))
    with pytest.raises(Stopped):
        run(given, out=tmp_path / "o", reporter=quiet(stop_after(calls)))
    text = (tmp_path / "o" / "recipe.yaml").read_text()
    assert text.count(before) == 1, text
    (tmp_path / "o" / "recipe.yaml").write_text(text.replace(before, after))
    resume(tmp_path / "o", accept_changes=True, reporter=quiet())
    assert json.loads((tmp_path / "o" / "run.json").read_text())["status"] == "finished"
    assert len(rows(tmp_path / "o")) == 3


@pytest.mark.parametrize(("epochs", "jumps"), [(9, True), (4, False)])
def test_a_rate_that_jumps_with_more_epochs_is_told(tiny: Path, tmp_path: Path, epochs: int, jumps: bool) -> None:
    given = recipe(tiny, schedule="cosine" if jumps else "constant", warmup_epochs=0)
    given["model"]["unfreeze"] = {"all": 0}
    run(given, out=tmp_path / "o", reporter=quiet())
    text = (tmp_path / "o" / "recipe.yaml").read_text()
    (tmp_path / "o" / "recipe.yaml").write_text(text.replace("epochs: 3", f"epochs: {epochs}", 1))
    said: list[str] = []
    resume(tmp_path / "o", accept_changes=True, reporter=Reporter(say=said.append))
    assert len(rows(tmp_path / "o")) == epochs
    told = [line for line in said if line.startswith("note: learning rate: ")]
    assert len(told) == jumps, said
    assert all(f"now runs over {epochs} epochs" in line for line in told)


def test_changed_images_are_refused_and_counted(tiny: Path, tmp_path: Path) -> None:
    out = stopped(tiny, tmp_path)
    images = sorted((tiny / "ant").iterdir())
    images[0].write_bytes(makers.jpeg(12345))
    images[1].unlink()
    makers.put(tiny / "bee" / "new.jpg", makers.jpeg(54321))
    with pytest.raises(DataError) as caught:
        resume(out, reporter=quiet())
    assert [line.split(": ", 1)[1].split(" since")[0] for line in caught.value.problems] == [
        "1 added",
        "1 removed",
        "1 changed",
    ]
    resume(out, accept_changes=True, reporter=quiet())


def test_moved_images_are_accepted_where_they_are_the_same(tiny: Path, tmp_path: Path) -> None:
    run(recipe(tiny), out=tmp_path / "whole", reporter=quiet())
    out = stopped(tiny, tmp_path)
    moved = tiny.rename(tmp_path / "moved")
    with pytest.raises(FinetuneError):
        resume(out, reporter=quiet())
    resume(out, data=moved, reporter=quiet())
    assert sha256(out) == sha256(tmp_path / "whole")


def test_the_four_lines_of_the_notebook_work_on_every_checkpoint(tiny: Path, tmp_path: Path) -> None:
    run(recipe(tiny, checkpoint={"every_steps": 1, "keep": 99}), out=tmp_path / "o", reporter=quiet())
    paths = sorted((tmp_path / "o" / "checkpoints").glob("*.pth"))
    assert len(paths) == 10
    for path in paths:
        model, optimizer = open_run(tmp_path / "o")
        checkpoint = torch.load(path)
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        epoch = checkpoint["epoch"]
        loss = checkpoint["loss"]
        assert epoch in (0, 1, 2)
        assert loss > 0
        learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert learning <= {id(p) for p in model.parameters()}


def test_two_processes_cannot_work_on_one_run(tiny: Path, tmp_path: Path) -> None:
    from finetune.errors import ResourceError
    from finetune.runs.folder import RunFolder

    out = stopped(tiny, tmp_path)
    holder = RunFolder.open(out)
    holder.lock()
    with pytest.raises(ResourceError, match=r"process \d+ is at work"):
        resume(out, reporter=quiet())
    holder.unlock()
    resume(out, reporter=quiet())
