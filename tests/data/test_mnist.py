"""MNIST from IDX files, kept in memory: tables, splits, batches, views, and what is said where it is absent."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from finetune.data import mnist
from finetune.data.augment import Augment
from finetune.data.batches import load_images
from finetune.data.folder import ImageFolder
from finetune.data.memory import MOTIONS, MemoryImages, draws, moved
from finetune.data.preprocess import Preprocess
from finetune.data.source import class_names, read_source, reopen
from finetune.data.wanted import Wanted
from finetune.errors import DataError, ResourceError
from tests.makers import class_folders, idx_files

GREY = Preprocess((28, 28), (0.1307,), (0.3081,), "bilinear", 1.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return idx_files(tmp_path / "data")


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_official_test_images_evaluate_and_a_share_of_the_others_chooses(root: Path) -> None:
    data = mnist.read_mnist(root, val=0.1)
    assert {name: len(part) for name, part in data.parts()} == {"train": 180, "val": 20, "test": 50}
    assert np.bincount(data.val.labels).tolist() == [2] * 10
    assert data.classes == list("0123456789")
    assert data.test is not None
    assert list(data.test.table["path"][:2]) == ["test/00000", "test/00001"]
    row = data.table.iloc[7]
    content = (root / "MNIST/raw/train-images-idx3-ubyte").read_bytes()[16 + 7 * 784 : 16 + 8 * 784]
    assert (row["path"], row["class"], row["mode"]) == ("train/00007", "7", "L")
    assert (row["bytes"], row["width"], row["height"]) == (784, 28, 28)
    assert row["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_split_is_a_function_of_its_seed(root: Path) -> None:
    first, again, other = (mnist.read_mnist(root, val=0.1, seed=seed).table["split"] for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_only_some_classes(root: Path) -> None:
    data = read_source("mnist", root, Wanted(("7", "3")))
    assert data.classes == ["7", "3"]
    assert len(data.table) == 50
    assert set(data.train.labels) == {0, 1}
    assert data.pixels is not None
    assert len(data.pixels) == 50
    with pytest.raises(DataError, match="no such class"):
        read_source("mnist", root, Wanted(("3", "x")))


def test_a_class_against_the_rest(root: Path) -> None:
    data = read_source("mnist", root, Wanted(), "5")
    assert data.classes == class_names("mnist", root, Wanted(), "5") == ["not 5", "5"]
    assert data.test is not None
    assert data.test.base_rate() == ("not 5", 0.9)
    assert any("always answering 'not 5' would be right for 0.9000 of test" in line for line in data.warnings)
    with pytest.raises(DataError, match="data.positive"):
        read_source("mnist", root, Wanted(), "15")


def test_a_folder_has_a_positive_class_too(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "f", {"ant": 8, "bee": 8, "cat": 8})
    data = read_source("folder", folder, Wanted(val=0.25, test=0.25), "bee")
    assert data.classes == class_names("folder", folder, Wanted(), "bee") == ["not bee", "bee"]
    plain = ImageFolder(folder).split(0.25, 0.25)
    assert data.table["split"].equals(plain.table["split"])
    assert (data.table["class"] == "bee").equals(plain.table["class"] == "bee")


# --- batches ---------------------------------------------------------------------------------------------------------


def loaded(root: Path, preprocess: Preprocess = GREY) -> MemoryImages:
    images = load_images(mnist.read_mnist(root, val=0.1).train, preprocess)
    assert isinstance(images, MemoryImages)
    return images


def test_batches_come_in_the_order_asked_for(root: Path) -> None:
    images = loaded(root)
    given = [[3, 1], np.array([0, 2, 4])]
    found = list(images.batches(given))
    assert [indices.tolist() for indices, _ in found] == [[3, 1], [0, 2, 4]]
    assert found[0][1].shape == (2, 28, 28, 1)
    assert found[0][1].dtype == torch.uint8
    whole = images.pixels(np.arange(len(images)))
    assert torch.equal(torch.cat([pixels for _, pixels in found]), whole[[3, 1, 0, 2, 4]])
    assert [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in whole[:3]] == images.hashes[:3]
    assert len(images.labels) == len(images.names) == len(images)


def test_a_network_of_another_size_sees_what_it_would_see_of_a_file(root: Path) -> None:
    colour = Preprocess((40, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9)
    images = loaded(root, colour)
    from PIL import Image

    picture = Image.fromarray(loaded(root).pixels([5])[0, :, :, 0].numpy()).convert("RGB")
    assert np.array_equal(images.pixels([5])[0].numpy(), colour.evaluate(picture))


def test_a_view_is_a_function_of_seed_view_and_content(root: Path) -> None:
    images, augment = loaded(root), Augment("light")
    alone = images.pixels([7], augment, seed=2, view=3)[0]
    assert torch.equal(images.pixels(np.arange(50), augment, seed=2, view=3)[7], alone)
    assert not torch.equal(images.pixels([7], augment, seed=2, view=4)[0], alone)
    assert not torch.equal(images.pixels([7], augment, seed=1, view=3)[0], alone)
    other_split = load_images(mnist.read_mnist(root, val=0.3, seed=9).train, GREY)
    place = other_split.names.index(images.names[7]) if images.names[7] in other_split.names else None
    if place is not None:
        assert torch.equal(other_split.pixels([place], augment, seed=2, view=3)[0], alone)
    assert torch.equal(images.pixels([7], Augment("none"), seed=2, view=3), images.pixels([7]))


def test_the_random_numbers_are_spread_evenly() -> None:
    contents = np.arange(4000, dtype=np.uint64) << np.uint64(20)
    found = draws(5, 1, contents).numpy()
    assert found.min() >= 0
    assert found.max() < 1
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.06
    for column in found.T:
        assert np.abs(np.histogram(column, 10, (0, 1))[0] - 400).max() < 100


def one_dot(down: int, across: int, height: int = 28, width: int = 28) -> torch.Tensor:
    picture = torch.zeros(1, height, width, 1, dtype=torch.uint8)
    picture[0, down, across] = 200
    return picture


def where(batch: torch.Tensor) -> tuple[float, float]:
    """Centre of mass, down and across."""
    ink = batch[0, :, :, 0].double()
    rows, columns = torch.meshgrid(*(torch.arange(side).double() for side in ink.shape), indexing="ij")
    return float((ink * rows).sum() / ink.sum()), float((ink * columns).sum() / ink.sum())


def test_a_view_shifts_turns_and_scales_and_never_mirrors() -> None:
    motion, half = MOTIONS["light"], 0.5
    still = torch.full((1, 4), half)
    dot = one_dot(10, 17, 28, 40)
    assert torch.equal(moved(dot, still, motion), dot)
    right = moved(dot, torch.tensor([[0.0, half, half, half]]), motion)  # the least of the first: all the way left
    assert where(right) == pytest.approx((10, 17 + 40 * motion.shift), abs=0.1)
    low = moved(dot, torch.tensor([[half, 0.0, half, half]]), motion)
    assert where(low) == pytest.approx((10 + 28 * motion.shift, 17), abs=0.1)
    turned = moved(dot, torch.tensor([[half, half, 1.0, half]]), motion)
    angle = np.radians(motion.rotate)
    down, across = 10 - 13.5, 17 - 19.5
    expected = (
        13.5 + np.cos(angle) * down + np.sin(angle) * across,
        19.5 + np.cos(angle) * across - np.sin(angle) * down,
    )
    assert where(turned) == pytest.approx(expected, abs=0.2)
    larger = moved(dot, torch.tensor([[half, half, half, 1.0]]), motion)
    assert where(larger) == pytest.approx((13.5 + 1.1 * down, 19.5 + 1.1 * across), abs=0.25)


# --- absent, damaged, changed ----------------------------------------------------------------------------------------


def test_absent_and_offline_is_a_lack_of_resources_told_quickly(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ResourceError) as caught:
        read_source("mnist", tmp_path / "nowhere", Wanted())
    assert time.monotonic() - begun < 30
    assert caught.value.exit_code == 6
    assert str(tmp_path / "nowhere/MNIST/raw/train-images-idx3-ubyte") in caught.value.problems[0]
    assert "folder='ROOT'" in caught.value.remedy
    assert not (tmp_path / "nowhere").exists()


def test_mirrors_that_cannot_be_reached_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # the discard port: nobody listens
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:9.*refused"):
        mnist.find(tmp_path)


def test_what_is_absent_is_fetched_checked_and_unpacked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    from torchvision.datasets import MNIST

    files = {
        name: gzip.compress((root / "MNIST/raw" / name.removesuffix(".gz")).read_bytes()) for name in mnist._names()
    }
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, content in files.items():
        (mirror / name).write_bytes(content)
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in files:
        (bad / name).write_bytes(b"an error page")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(MNIST, "mirrors", [f"{bad.as_uri()}/", f"{mirror.as_uri()}/"])
    monkeypatch.setattr(MNIST, "resources", sums)
    target = mnist.find(tmp_path / "fetched")
    assert mnist.read_mnist(target).table.equals(mnist.read_mnist(root).table)


@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_damaged_file_is_a_data_error(root: Path, keep: int) -> None:
    file = root / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="the train files are damaged"):
        mnist.read_mnist(root)


def test_the_images_of_a_run_are_found_again(root: Path, tmp_path: Path) -> None:
    data = mnist.read_mnist(root)
    rows = data.table[data.table["split"] == "val"]
    again = reopen("mnist", root, rows, data.classes)
    assert data.val.pixels is not None
    assert again.pixels is not None
    assert np.array_equal(again.pixels, data.val.pixels)
    assert again.labels.tolist() == data.val.labels.tolist()
    other = idx_files(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="is not the image that the run saw"):
        reopen("mnist", other, rows, data.classes)
    gone = pd.concat([rows, rows.head(1).assign(path="train/99999")])
    with pytest.raises(DataError, match="train/99999"):
        reopen("mnist", root, gone, data.classes)


def test_the_real_one(real_data: Path) -> None:
    data = mnist.read_mnist(real_data, val=0.05)
    assert {name: len(part) for name, part in data.parts()} == {"train": 57000, "val": 3000, "test": 10000}
    five = data.against_rest("5")
    assert five.test is not None
    assert five.test.base_rate() == ("not 5", 0.9108)
