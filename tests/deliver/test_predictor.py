"""One picture, however it is held, gets one answer; and a predictor may be shared between threads."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune import Classifier, load
from finetune.cli.main import cli as commands
from finetune.deliver.predictor import Predictor
from finetune.errors import DataError, UsageError

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    options = {"preprocess": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}, "device": "cpu"}
    found = Classifier("timm/mobilenetv3_small_050", CLASSES, weights="none", **options)
    for name, parameter in found.network.module.named_parameters():
        if found.network.head in name:  # answers far from one third, so that differences can be seen
            torch.nn.init.normal_(parameter, std=3.0)
    return found


@pytest.fixture(scope="module")
def predictor(classifier: Classifier) -> Predictor:
    return classifier.predictor()


def drawn(size: tuple[int, int] = (90, 70), seed: int = 0) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    drawn().save(folder / "plain.jpg")
    drawn((1200, 900)).save(folder / "large.jpg")  # decoded at a reduced scale
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn().save(folder / "turned.jpg", exif=exif)
    drawn().convert("L").save(folder / "grey.png")
    clear = drawn().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    deep = (np.asarray(drawn().convert("L"), np.uint16) * 257).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    return folder


def chances(prediction: Any) -> list[float]:
    return list(prediction.probabilities.values())


@pytest.mark.parametrize("name", ["plain.jpg", "large.jpg", "turned.jpg", "grey.png", "clear.png", "deep.png"])
def test_a_file_in_any_form_gets_the_files_answer(predictor: Predictor, folder: Path, name: str) -> None:
    path = folder / name
    expected = predictor.predict(path)
    assert expected.label in CLASSES
    assert expected.path == str(path)
    with open(path, "rb") as file, Image.open(path) as opened:
        forms = [str(path), path.read_bytes(), bytearray(path.read_bytes()), file, opened]
        forms += [io.BytesIO(path.read_bytes()), Image.open(io.BytesIO(path.read_bytes()))]
        for form in forms:
            assert chances(predictor.predict(form)) == chances(expected), type(form)


def test_a_loaded_image_and_its_array_get_the_files_answer(predictor: Predictor, folder: Path) -> None:
    for name in ("plain.jpg", "grey.png", "clear.png"):
        image = Image.open(folder / name)
        image.load()
        array = np.asarray(image)
        forms = [image, array, np.asfortranarray(array), torch.from_numpy(array.copy())]
        if array.ndim == 3:
            channels_first = torch.from_numpy(array.copy()).permute(2, 0, 1)
            forms += [channels_first, channels_first / 255]
        expected = chances(predictor.predict(folder / name))
        for form in forms:
            assert chances(predictor.predict(form)) == expected, (name, type(form))


def test_opened_images_are_left_as_they_are(predictor: Predictor, folder: Path) -> None:
    with Image.open(folder / "large.jpg") as image:
        predictor.predict(image)
        assert image.size == (1200, 900)
        assert np.asarray(image).shape == (900, 1200, 3)
    turned = Image.open(folder / "turned.jpg")
    turned.load()
    predictor.predict(turned)
    assert turned.getexif()[0x0112] == 6


def test_several_in_order_with_errors_in_their_rows(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    rows = predictor.predict([folder / "plain.jpg", tmp_path / "broken.jpg", folder / "grey.png"])
    assert [row.error is None for row in rows] == [True, False, True]
    assert chances(rows[2]) == pytest.approx(chances(predictor.predict(folder / "grey.png")), abs=1e-5)
    assert len(predictor.predict(folder)) == 6
    assert len(predictor.predict(str(folder / "*.jpg"))) == 3
    assert len(predictor.predict(np.zeros((5, 8, 8, 3), np.uint8))) == 5
    assert len(predictor.predict(path for path in sorted(folder.iterdir()))) == 6


def test_one_that_cannot_be_read_raises(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.jpg: not a readable"):
        predictor.predict(tmp_path / "broken.jpg")
    with pytest.raises(DataError, match="no such file"):
        predictor.predict(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="the picture: not a readable"):
        predictor.predict(b"no picture")


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (3, "int is no picture"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), "shape"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.full((4, 4, 3), -1.0), "0 to 1"),
        (np.full((4, 4, 3), np.nan), "0 to 1"),
        (io.StringIO("x"), "text"),
        (np.zeros((0, 4), np.uint8), "shape"),
    ],
)
def test_what_is_no_picture_is_refused(predictor: Predictor, thing: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        predictor.predict(thing)


def test_below_the_threshold_there_is_no_label(classifier: Classifier, folder: Path) -> None:
    sure = classifier.predict(folder / "plain.jpg")
    unsure = classifier.predictor(threshold=sure.confidence + 1e-6).predict(folder / "plain.jpg")
    assert (unsure.label, unsure.abstained, unsure.error) == (None, True, None)
    assert unsure.confidence == pytest.approx(sure.confidence, abs=1e-6)
    assert not classifier.predictor(threshold=sure.confidence - 1e-4).predict(folder / "plain.jpg").abstained


def test_the_networks_own_threshold_counts_in_scripts_as_it_does_in_the_command(
    tmp_path: Path, classifier: Classifier, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, bundle = folder / "plain.jpg", classifier.save(tmp_path / "model")
    sure = classifier.predict(picture).confidence
    described = json.loads((bundle / "model.json").read_text())
    own = {"threshold": sure + 1e-3, "auto_threshold": sure - 1e-3}
    (bundle / "model.json").write_text(json.dumps({**described, **own}))
    clf = load(bundle)
    flags = {"bundle": [], "auto": ["--threshold", "auto"], None: ["--threshold", "0"], 1.0: ["--threshold", "1"]}
    for asked, abstains in (("bundle", True), ("auto", False), (None, False), (1.0, True)):
        assert clf.predict(picture, threshold=asked).abstained is abstains, asked
        commands.main(["predict", str(bundle), str(picture), "--json", *flags[asked]], standalone_mode=False)
        (row,) = json.loads(capsys.readouterr().out)["predictions"]
        assert (row["abstained"], row["label"] is None) == (abstains, abstains), asked
    assert clf.predict(picture).abstained, "what the recipe asked for is the default"
    assert not classifier.predict(picture).abstained, "and most networks have none"


@pytest.mark.parametrize("asked", ["auto", "own", -0.1, 1.5, True, [0.5]])
def test_a_threshold_that_is_none_is_refused(classifier: Classifier, folder: Path, asked: Any) -> None:
    with pytest.raises(UsageError, match="threshold: "):
        classifier.predict(folder / "plain.jpg", threshold=asked)


def test_threads_share_a_predictor(predictor: Predictor, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    expected = [chances(predictor.predict(path)) for path in paths]
    found: list[tuple[int, list[float]]] = []

    def ask(start: int) -> None:
        for turn in range(12):
            place = (start + turn) % len(paths)
            found.append((place, chances(predictor.predict(paths[place]))))

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 72
    assert all(given == pytest.approx(expected[place], abs=1e-5) for place, given in found)
