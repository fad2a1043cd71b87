"""Bad input: the exit code of the design, a line naming the culprit, the remedy, and nothing lost."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import makers


def refused(cli: Any, job: Path, *arguments: object, rc: int, culprit: str, env: Any = None) -> Any:
    """Run, and require the exit code, the culprit in an error line, a remedy, no traceback, no folder left."""
    before = makers.tree_hash(job / "images") if (job / "images").exists() else ""
    result = cli("run", "job.yaml", "--out", "o", *arguments, cwd=job, env=env)
    assert result.rc == rc, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert any(culprit in line for line in errors), result.err
    assert "remedy: " in result.err
    assert "Traceback" not in result.err
    assert not (job / "o").exists() or not list((job / "o").iterdir())
    assert before == (makers.tree_hash(job / "images") if (job / "images").exists() else "")
    return result


def test_all_problems_of_a_recipe_at_once(job: Path, cli: Any) -> None:
    wrong = "data: {foldr: images}\nmodel: {backbone: timm/x, head: round}\ntrain: {lr: fast, epochs: -1}\n"
    (job / "job.yaml").write_text(wrong)
    result = refused(cli, job, rc=2, culprit="did you mean 'folder'?")
    for key in ("data.foldr", "model.head", "train.lr", "train.epochs"):
        assert key in result.err
    (job / "job.yaml").write_text("seed: 1\nseed: 2\ndata: {folder: images}\nmodel: {backbone: timm/test_resnet}\n")
    refused(cli, job, rc=2, culprit="seed")


def test_folders_that_cannot_be_trained_on(job: Path, cli: Any) -> None:
    refused(cli, job, "-o", "data.folder=nowhere", rc=3, culprit="nowhere")
    (job / "empty").mkdir()
    refused(cli, job, "-o", "data.folder=empty", rc=3, culprit="empty")
    makers.class_folders(job / "one", {"only": 5})
    refused(cli, job, "-o", "data.folder=one", rc=3, culprit="only")
    makers.class_folders(job / "single", {"lone": 1, "single": 1})
    refused(cli, job, "-o", "data.folder=single", rc=3, culprit="'single'")
    makers.class_folders(job / "hollow", {"full": 5, "more": 5})
    (job / "hollow" / "nothing").mkdir()
    refused(cli, job, "-o", "data.folder=hollow", rc=3, culprit="'nothing'")
    makers.split_folders(job / "extra", {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2, "c": 2}})
    refused(cli, job, "-o", "data.folder=extra", rc=3, culprit="'c'")


def test_broken_images_are_all_named_before_anything_is_learned(job: Path, cli: Any) -> None:
    bad = makers.bad_images(job / "images" / "ant")
    result = refused(cli, job, rc=3, culprit="ant")
    for name in bad:
        assert name in result.err
    skipping = cli("run", "job.yaml", "--out", "o", "-o", "data.on_bad=skip", cwd=job)
    assert skipping.rc == 0, skipping.err
    assert all(name in (job / "o" / "run.json").read_text() for name in bad)
    assert not any(name in (job / "o" / "data.csv").read_text() for name in bad)


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
@pytest.mark.parametrize("env", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
def test_code_in_a_weights_file_is_not_executed(job: Path, cli: Any, name: str, env: dict[str, str]) -> None:
    (job / name).write_bytes(pickle.dumps({"state_dict": Canary(job / "canary")}))
    refused(cli, job, "-o", f"model.weights={name}", rc=4, culprit=name, env=env)
    assert not (job / "canary").exists()


def test_weights_that_do_not_fit(job: Path, cli: Any) -> None:
    refused(cli, job, "-o", "model.weights=absent.pth", rc=4, culprit="absent.pth")
    assert cli("run", "job.yaml", "--out", "donor", "--epochs", "1", cwd=job).rc == 0
    whole = (job / "donor" / "model" / "model.safetensors").read_bytes()
    (job / "cut.safetensors").write_bytes(whole[:-100])
    refused(cli, job, "-o", "model.weights=cut.safetensors", rc=4, culprit="cut.safetensors")
    (job / "whole.safetensors").write_bytes(whole)
    other = ("-o", "model.backbone=timm/test_vit", "-o", "model.weights=whole.safetensors")
    refused(cli, job, *other, rc=4, culprit="whole.safetensors")
    shutil.rmtree(job / "donor")


def test_patterns_and_plans_in_which_nothing_learns(job: Path, cli: Any) -> None:
    refused(cli, job, "--unfreeze", "laeyr4", rc=2, culprit="layer4")
    refused(cli, job, "--freeze", "all", rc=2, culprit="nothing ever learns")
    refused(cli, job, "--unfreeze", "layer4@soon", rc=2, culprit="layer4@soon")


def test_what_the_machine_lacks(job: Path, cli: Any) -> None:
    refused(cli, job, "--device", "cuda", rc=6, culprit="cuda", env={"CUDA_VISIBLE_DEVICES": ""})
    refused(
        cli, job, "-o", "train.precision=fp16", "--device", "cpu", rc=2, culprit="train.precision: fp16 needs a GPU"
    )
    offline = ("-o", "model.backbone=timm/resnet18", "-o", "model.weights=default")
    refused(cli, job, *offline, rc=6, culprit="resnet18")


@pytest.mark.parametrize("named", [("FINETUNE_CACHE", "file"), ("FINETUNE_CACHE", "file/below"), ("HOME", "file")])
def test_a_cache_folder_that_cannot_be_made(job: Path, cli: Any, named: tuple[str, str]) -> None:
    (job / "file").write_text("mine")
    unset = dict.fromkeys(("FINETUNE_CACHE", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"))
    result = refused(cli, job, rc=6, culprit=str(job / "file"), env={**unset, named[0]: str(job / named[1])})
    assert "FINETUNE_CACHE=FOLDER" in result.err
    assert (job / "file").read_text() == "mine"


def test_a_folder_that_is_not_empty_is_never_overwritten(job: Path, cli: Any) -> None:
    makers.put(job / "o" / "mine.txt", b"mine")
    result = cli("run", "job.yaml", "--out", "o", cwd=job)
    assert result.rc == 2
    assert "resume" in result.err
    assert [path.name for path in (job / "o").iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written(job: Path, cli: Any) -> None:
    makers.put(job / "file", b"")
    result = cli("run", "job.yaml", "--out", "file/below", cwd=job)
    assert result.rc == 6
    assert "file/below" in result.err
    assert "Traceback" not in result.err


def test_a_loss_that_is_not_finite_stops_the_run(job: Path, cli: Any) -> None:
    arguments = ("-o", "train.lr=1e30", "-o", "train.optimizer=sgd", "-o", "model.unfreeze={all: 0}")
    result = cli("run", "job.yaml", "--out", "o", *arguments, cwd=job)
    assert result.rc == 5, result.err
    assert "not finite" in result.err
    assert "step" in result.err
    assert cli("verify", "o", cwd=job).rc == 0
