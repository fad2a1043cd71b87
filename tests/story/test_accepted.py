"""What scripts may give to the public functions: usual forms are understood, anything else is refused by its name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import finetune as ft
from finetune.runs.reporter import Reporter
from tests import makers

TINY = {"backbone": "small/mlp", "classes": ["ant", "bee"]}
QUIET = Reporter(say=lambda text: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.class_folders(tmp_path_factory.mktemp("accepted") / "images", {"ant": 8, "bee": 8})


@pytest.fixture(scope="module")
def data(folder: Path) -> Any:
    return ft.ImageFolder(folder).split(val=0.25, test=0.25, seed=0)


@pytest.fixture(scope="module")
def fitted(data: Any) -> ft.Classifier:
    return ft.Classifier(**TINY).fit(data, epochs=1, class_weights="balanced", workers=1, reporter=QUIET)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"classes": "cat"}, "classes"),
        ({"classes": 2}, "classes"),
        ({"classes": None}, "classes"),
        ({"classes": [1, 2]}, "classes"),
        ({"classes": {"ant", "bee"}}, "classes"),
        ({"backbone": 5}, "backbone"),
        ({"backbone": None}, "backbone"),
        ({"weights": 3}, "weights"),
        ({"unfreeze": 3}, "unfreeze"),
        ({"unfreeze": {"head": "x"}}, "unfreeze"),
        ({"unfreeze": {3: 0}}, "unfreeze"),
        ({"unfreeze": {"head": -1}}, "unfreeze"),
        ({"unfreeze": "hed"}, "hed"),
        ({"freeze": "stemm"}, "stemm"),
        ({"freeze": 3}, "freeze"),
        ({"freeze": [3]}, "freeze"),
        ({"head": 0.5}, "head"),
        ({"head": None}, "head"),
        ({"options": "x"}, "options"),
        ({"preprocess": "big"}, "preprocess"),
        ({"seed": "x"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"in_chans": "grey"}, "in_chans"),
    ],
)
def test_what_no_user_would_mean_is_refused_by_its_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ft.FinetuneError) as refused:
        ft.Classifier(**{**TINY, **given})
    assert refused.value.exit_code == 2
    assert refused.value.problems[0].startswith(f"{named}: ")
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"classes": ("ant", "bee")}, lambda clf: clf.classes == ["ant", "bee"]),
        ({"classes": np.array(["ant", "bee"])}, lambda clf: clf.classes == ["ant", "bee"]),
        ({"unfreeze": "head"}, lambda clf: clf.unfreeze == {"head": 0}),
        ({"unfreeze": ["head", "fc1"]}, lambda clf: clf.unfreeze == {"head": 0, "fc1": 0}),
        ({"freeze": "fc1"}, lambda clf: clf.freeze == ("fc1",)),
        ({"weights": None}, lambda clf: not clf.network.pretrained),
        ({"head": [16]}, lambda clf: clf.network.head_spec["hidden"] == [16]),
        ({"seed": np.int64(3)}, lambda clf: clf.seed == 3),
        ({"preprocess": 28}, lambda clf: tuple(clf.network.preprocess.size) == (28, 28)),
    ],
)
def test_the_usual_forms_are_understood(given: dict[str, Any], seen: Any) -> None:
    assert seen(ft.Classifier(**{**TINY, **given}))


def test_a_data_set_is_evaluated_by_its_test_images(fitted: ft.Classifier, data: Any, folder: Path) -> None:
    assert fitted.evaluate(data).n == len(data.test)
    assert fitted.evaluate(data).accuracy == fitted.evaluate(data.test).accuracy
    assert fitted.evaluate(str(folder)).n == fitted.evaluate(folder).n == 16


def test_without_test_images_none_are_evaluated_silently(fitted: ft.Classifier, folder: Path) -> None:
    without = ft.ImageFolder(folder).split(val=0.25, test=0.0, seed=0)
    for images in (without, without.test, 5):
        with pytest.raises(ft.FinetuneError, match="images") as refused:
            fitted.evaluate(images)
        assert refused.value.exit_code == 2


def test_a_picture_in_any_form_has_the_answer_of_its_file(fitted: ft.Classifier, folder: Path) -> None:
    file = folder / "ant" / "000.jpg"
    image = Image.open(file).convert("RGB")
    forms: list[Any] = [str(file), file, file.read_bytes(), io.BytesIO(file.read_bytes()), image, np.asarray(image)]
    wanted = fitted.predict(file)
    assert all(abs(fitted.predict(form).confidence - wanted.confidence) < 1e-6 for form in forms)
    forms[3].seek(0)
    assert [row.label for row in fitted.predict(forms)] == [wanted.label] * len(forms)


@pytest.mark.parametrize("wrong", [None, 5, object()])
def test_what_is_no_picture_no_path_and_no_data_is_refused(
    fitted: ft.Classifier, data: Any, wrong: object, tmp_path: Path
) -> None:
    calls: list[Any] = [
        lambda: fitted.predict(wrong),
        lambda: fitted.fit(wrong, reporter=QUIET),
        lambda: fitted.save(wrong),
        lambda: fitted.fit(data, augment=wrong, reporter=QUIET),
        lambda: ft.load(wrong),
        lambda: ft.run(wrong),
        lambda: ft.resume(wrong),
        lambda: ft.open_run(wrong),
        lambda: ft.Run.open(wrong),
        lambda: ft.ImageFolder(wrong),
    ]
    for call in calls:
        with pytest.raises(ft.FinetuneError) as refused:
            call()
        assert refused.value.exit_code in (2, 3)


def test_a_misspelled_key_of_fit_gets_one_that_fit_takes(fitted: ft.Classifier, data: Any) -> None:
    with pytest.raises(ft.FinetuneError, match="'class_weights'") as refused:
        fitted.fit(data, class_weight="balanced", reporter=QUIET)
    assert "data.class_weights" not in str(refused.value)


def test_fit_shows_progress_and_a_classifier_shows_itself(data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    clf = ft.Classifier(**TINY).fit(data, epochs=2)
    assert sum(line.startswith("epoch ") for line in capsys.readouterr().err.splitlines()) == 2
    assert repr(clf) == "<Classifier small/mlp: 2 classes (ant, bee), learns: all from epoch 0>"
