"""What a first hour needs: no empty screen, the nearest thing to what was typed, early refusals, the next commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests import makers

RECIPE = "data: {folder: images}\nmodel: {backbone: small/mlp}\ntrain: {epochs: 1, device: cpu}\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    makers.class_folders(tmp_path / "images", {"ant": 8, "bee": 8})
    (tmp_path / "job.yaml").write_text(RECIPE)
    return tmp_path


def test_the_first_line_comes_before_anything_is_read_and_the_last_can_be_pasted(place: Path, cli: Any) -> None:
    done = cli("run", "job.yaml", cwd=place)
    assert done.rc == 0, done.err
    assert done.err.startswith("finetune run job.yaml")
    assert "epoch 1/1 " in done.err
    assert "Kept epoch 1 (best validation macro F1: " in done.err
    steps = [shlex.split(line) for line in done.err.split("next:\n")[1].splitlines()]
    assert len(steps) == 3
    assert (place / steps[0][1]).is_file()
    assert [step[1] for step in steps[1:]] == ["predict", "evaluate"]
    assert all((place / step[2]).is_dir() for step in steps[1:])
    timings = json.loads((place / "runs/job/001/run.json").read_text())["timings"]
    assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"], abs=0.1)
    assert {"start", "load", "scan", "build", "train", "judge", "report"} <= timings.keys()


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["train", "job.yaml"], "'run'"),
        (["fit"], "'run'"),
        (["test"], "'evaluate'"),
        (["pridict"], "'predict'"),
        (["trian", "job.yaml"], "'run'"),
        (["run", "images", "--backbone", "ResNet-50"], "'timm/resnet50'"),
        (["run", "job.yaml", "--lr", "3"], "-o train.lr=VALUE"),
        (["run", "job.yaml", "--amp"], "train.precision"),
        (["run", "job.yaml", "--label_smoothing", "0.1"], "-o train.label_smoothing=VALUE"),
        (["run", "imags"], "did you mean 'images'"),
        (["models", "zzz"], "no model of this name"),
    ],
)
def test_the_nearest_thing_is_named(place: Path, cli: Any, arguments: list[str], nearest: str) -> None:
    done = cli(*arguments, cwd=place)
    assert done.rc == 2
    assert nearest in done.err


def test_what_is_near_by_letters_alone_is_not_named(place: Path, cli: Any) -> None:
    assert "--help'?" not in cli("run", "job.yaml", "--lr", "3", cwd=place).err


def test_a_failed_check_is_one_json_object_and_one_line_a_problem(place: Path, cli: Any) -> None:
    makers.put(place / "images/ant/000.jpg", b"no image")
    done = cli("check", "images", "--json", cwd=place)
    said = json.loads(done.out)
    assert (done.rc, said["images"], said["error"]["exit_code"]) == (3, 15, 3)
    assert "unreadable" in {finding["kind"] for finding in said["findings"]}
    shown = cli("check", "images", cwd=place)
    assert (shown.rc, (shown.out + shown.err).count("000.jpg")) == (3, 1)


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("data:\n\tfolder: images\n", [], "YAML has no tabs"),
        (RECIPE, ["-o", "train.optimizer=lbfgs", "-o", "train.ema=0.9"], "lbfgs solves the head at once"),
    ],
)
def test_each_slip_gets_the_line_that_helps(place: Path, cli: Any, text: str, arguments: list[str], words: str) -> None:
    (place / "job.yaml").write_text(text)
    done = cli("plan", "job.yaml", *arguments, cwd=place)
    assert done.rc == 2
    assert words in done.err


def test_a_picture_is_no_recipe_and_a_shipped_recipe_is_shown_where_it_is(place: Path, cli: Any) -> None:
    done = cli("check", "images/ant/000.jpg", cwd=place)
    assert (done.rc, "a picture, not a recipe" in done.err) == (2, True)
    done = cli("plan", "vehicles.yaml", cwd=place)
    assert done.rc == 2
    assert "there is /" in done.err
    assert "did you mean 'vehicles.yaml'" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "model.unfreeze={haed: 0}"], 2, "did you mean 'head'"),
        (["-o", "model.unfreeze={haed: 0}", "--dry-run"], 2, "did you mean 'head'"),
        (["-o", "model.unfreeze={haed: 0}", "--nproc", "2"], 2, "did you mean 'head'"),
        (["--backbone", "small/mpl"], 2, "did you mean 'mlp'"),
        (["-o", "model.weights=gone.pth"], 4, "gone.pth"),
    ],
)
def test_a_typo_shows_before_pictures_are_read_and_leaves_no_folder(
    place: Path, cli: Any, arguments: list[str], code: int, words: str
) -> None:
    for name in ("ant", "bee"):
        (place / "images" / name / "000.jpg").write_bytes(b"no picture")  # which reading the images would refuse
    done = cli("run", "job.yaml", *arguments, "--json", cwd=place)
    assert done.rc == code, done.err
    assert words in done.err
    assert "no picture" not in done.err
    assert "000.jpg" not in done.err
    assert json.loads(done.out)["error"]["exit_code"] == code
    assert not (place / "runs").exists()


def test_a_dry_run_whose_sample_is_not_there_yet_shows_the_plan(place: Path, cli: Any) -> None:
    (place / "job.yaml").write_text("{data: {sample: digits, folder: drawn}, model: {backbone: small/mlp}}")
    done = cli("run", "job.yaml", "--dry-run", cwd=place)
    assert done.rc == 0, done.err
    assert "fc1" in done.out
    assert not (place / "drawn").exists()


def test_a_tilde_that_the_shell_did_not_see_is_the_home_folder(place: Path, cli: Any) -> None:
    done = cli("run", "job.yaml", "--out=~/run", cwd=place, env={"HOME": str(place / "home")})
    assert done.rc == 0, done.err
    assert (place / "home" / "run" / "run.json").is_file()
    assert not (place / "~").exists()
