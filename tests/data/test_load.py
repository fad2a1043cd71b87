"""Loading: the same pixels whatever the workers, in order, and a clear word when a file has changed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from finetune.data import load
from finetune.data.augment import Augment
from finetune.data.dataset import ImageSet
from finetune.data.decode import decode
from finetune.data.folder import ImageFolder
from finetune.data.load import AHEAD, Images, order, prepare
from finetune.data.preprocess import Preprocess
from finetune.errors import BadImage, DataError

PREPROCESS = Preprocess((16, 24), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 0.9)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Eleven small pictures of several formats and modes."""
    rows = []
    random = np.random.default_rng(0)
    for index in range(11):
        mode, suffix = (("RGB", "jpg"), ("L", "png"), ("RGBA", "png"))[index % 3]
        channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
        pixels = random.integers(0, 256, (20 + index, 50 - index, channels), dtype=np.uint8)
        path = tmp_path / f"{index:02}.{suffix}"
        Image.fromarray(pixels.squeeze()).save(path)
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        rows.append({"path": path.name, "class": "ab"[index % 2], "sha256": sha256, "bytes": len(data)})
    return ImageSet(tmp_path, pd.DataFrame(rows), ["a", "b"])


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_the_order_is_a_permutation_and_stays_what_it_was() -> None:
    assert sorted(order(4, 2, 1000)) == list(range(1000))
    assert order(0, 0, 5).dtype == np.int64
    assert order(0, 0, 0).tolist() == []
    # An interrupted run must go on with the same order after an upgrade of anything.
    assert order(0, 0, 10).tolist() == [2, 5, 8, 9, 3, 1, 0, 7, 6, 4]
    assert order(0, 1, 10).tolist() == [8, 3, 2, 5, 1, 0, 7, 4, 6, 9]
    assert order(1, 0, 10).tolist() == [8, 5, 3, 9, 6, 7, 1, 0, 2, 4]


def test_every_place_is_as_likely() -> None:
    firsts = np.bincount([order(seed, 3, 5)[0] for seed in range(2000)], minlength=5)
    assert (np.abs(firsts - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)).all()


def test_pixels_are_each_image_prepared(images: ImageSet) -> None:
    batch = Images(images, PREPROCESS).pixels([7, 0, 7])
    assert batch.dtype == torch.uint8
    assert batch.shape == (3, 16, 24, 3)
    for row, index in enumerate([7, 0, 7]):
        expected = PREPROCESS.evaluate(decode(images.paths[index], "RGB"))
        np.testing.assert_array_equal(batch[row].numpy(), expected)
        np.testing.assert_array_equal(prepare(images.paths[index], PREPROCESS), expected)


def test_one_channel_loads_grey(images: ImageSet) -> None:
    grey = Preprocess((28, 28), (0.1307,), (0.3081,), "bilinear", 1.0)
    assert Images(images, grey).pixels([0, 1, 2]).shape == (3, 28, 28, 1)


@pytest.mark.parametrize("augment", [None, Augment("none"), Augment("light"), Augment("strong")])
def test_workers_and_batches_change_nothing(images: ImageSet, augment: Augment | None) -> None:
    permuted = order(1, 0, 11)

    def everything(workers: int | None, batch_size: int) -> torch.Tensor:
        loader = Images(images, PREPROCESS, workers)
        batches = [permuted[start : start + batch_size] for start in range(0, 11, batch_size)]
        seen = list(loader.batches(batches, augment, seed=3, view=2))
        np.testing.assert_array_equal(np.concatenate([indices for indices, _ in seen]), permuted)
        return torch.cat([pixels for _, pixels in seen])

    expected = everything(1, 11)
    for workers, batch_size in ((0, 4), (2, 1), (4, 3), (None, 5)):
        assert torch.equal(everything(workers, batch_size), expected)


def test_a_view_depends_on_seed_view_and_content_not_on_name_or_place(images: ImageSet, tmp_path: Path) -> None:
    light = Augment("light")
    loader = Images(images, PREPROCESS)
    first = loader.pixels([4], light, 0, 0)
    assert not torch.equal(first, loader.pixels([4], light, 0, 1))
    assert not torch.equal(first, loader.pixels([4], light, 1, 0))
    (tmp_path / images.table["path"][4]).rename(tmp_path / "another name.png")
    row = images.table.iloc[[4]].assign(path="another name.png")
    assert torch.equal(first, Images(ImageSet(tmp_path, row, ["a", "b"]), PREPROCESS).pixels([0], light, 0, 0))


def test_large_jpegs_are_reduced_while_decoding_but_not_too_far(tmp_path: Path) -> None:
    y, x = np.mgrid[:900, :1200]
    waves = np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 30), x % 256], -1).astype(np.uint8)
    Image.fromarray(waves).save(tmp_path / "big.jpg", quality=95)
    data = (tmp_path / "big.jpg").read_bytes()
    assert decode(data, "RGB", draft=PREPROCESS.draft).size == (150, 113)  # an eighth, still over 2 x 24 / 0.9
    whole = PREPROCESS.evaluate(decode(data, "RGB")).astype(int)
    assert np.abs(prepare(data, PREPROCESS) - whole).mean() < 3
    np.testing.assert_array_equal(prepare(data, PREPROCESS), prepare(tmp_path / "big.jpg", PREPROCESS))


def test_an_image_deleted_since_the_scan_is_named(images: ImageSet) -> None:
    images.paths[5].unlink()
    batches = Images(images, PREPROCESS, 2).batches([[0, 1], [2, 3], [4, 5], [6, 7]])
    assert [indices.tolist() for indices, _ in (next(batches), next(batches))] == [[0, 1], [2, 3]]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert caught.value.exit_code == 3
    assert str(images.paths[5]) in caught.value.problems[0]
    assert "ENOENT" in caught.value.problems[0]
    assert "ft.resume(run)" in caught.value.remedy
    assert decoding_threads() == []


def test_an_image_of_another_size_or_no_longer_one_is_named(images: ImageSet) -> None:
    good = images.paths[3].read_bytes()
    images.paths[3].write_bytes(good + b"\0")
    with pytest.raises(DataError, match=r"03\.jpg: changed since .* bytes, but"):
        Images(images, PREPROCESS).pixels([2, 3])
    images.paths[3].write_bytes(b"\0" * len(good))
    with pytest.raises(DataError, match=r"03\.jpg: changed since .* not a readable"):
        Images(images, PREPROCESS).pixels([2, 3])
    images.paths[3].write_bytes(good)
    assert len(Images(images, PREPROCESS).pixels([2, 3])) == 2


def test_looking_whether_the_images_are_still_there_reads_none(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(path: Path) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(load, "read", never)
    loader = Images(images, PREPROCESS)
    loader.require_unchanged()
    good = images.paths[3].read_bytes()
    images.paths[3].write_bytes(good + b"\0")
    with pytest.raises(DataError, match=r"03\.jpg: changed since .* bytes, but"):
        loader.require_unchanged()
    images.paths[3].unlink()
    with pytest.raises(DataError, match=r"03\.jpg: changed since .*ENOENT"):
        loader.require_unchanged()
    images.paths[3].mkdir()
    with pytest.raises(DataError, match=r"03\.jpg: changed since .*not a regular file"):
        loader.require_unchanged()


def test_of_several_bad_images_the_first_of_the_batch_is_named(images: ImageSet) -> None:
    for index in (8, 2, 6):
        images.paths[index].unlink()
    for _ in range(5):
        with pytest.raises(DataError, match=r"06\.jpg"):
            Images(images, PREPROCESS, 4).pixels([0, 6, 2, 8])


def test_what_cannot_be_decoded_is_a_bad_image() -> None:
    with pytest.raises(BadImage):
        prepare(b"no image", PREPROCESS)


def test_closing_drops_what_is_not_begun(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def slow(data: bytes, *rest: object) -> np.ndarray:
        begun.append(len(data))
        time.sleep(0.02)
        return np.zeros((16, 24, 3), np.uint8)

    monkeypatch.setattr(load, "prepare", slow)
    batches = Images(images, PREPROCESS, 2).batches([[0] * 40] * 50)
    next(batches)
    batches.close()
    assert decoding_threads() == []
    assert len(begun) <= 40 + 10  # the first batch, and a few of the next that were in hand
    number = len(begun)
    time.sleep(0.1)
    assert len(begun) == number


def test_a_failure_does_not_wait_for_the_batches_behind_it(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(data: bytes, *rest: object) -> np.ndarray:
        time.sleep(0.05)
        return np.zeros((16, 24, 3), np.uint8)

    monkeypatch.setattr(load, "prepare", slow)
    images.paths[1].unlink()
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"01\.png"):
        next(Images(images, PREPROCESS, 2).batches([[1, *[0] * 99]] * 3))
    assert time.perf_counter() - start < 2  # all 297 others would take over 7 s


def test_it_reads_only_a_little_ahead(images: ImageSet) -> None:
    asked: list[int] = []

    def forever() -> Iterator[list[int]]:
        while True:
            asked.append(1)
            yield [0, 1]

    batches = Images(images, PREPROCESS).batches(forever())
    assert asked == []
    for taken in range(1, 5):
        next(batches)
        assert len(asked) == taken + AHEAD
    batches.close()


def test_an_error_of_the_sampler_comes_through(images: ImageSet) -> None:
    def stopping() -> Iterator[list[int]]:
        yield [0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Images(images, PREPROCESS).batches(stopping()))
    assert decoding_threads() == []


def test_an_empty_batch_and_no_batch(images: ImageSet) -> None:
    loader = Images(images, PREPROCESS)
    assert loader.pixels([]).shape == (0, 16, 24, 3)
    assert list(loader.batches([])) == []
    assert len(loader) == 11


def test_labels_and_names_go_with_the_indices(images: ImageSet) -> None:
    loader = Images(images, PREPROCESS)
    assert loader.labels.tolist() == [0, 1] * 5 + [0]
    assert loader.names[3] == "03.jpg"


def test_real_photographs(real_data: Path) -> None:
    part = ImageFolder(real_data / "hymenoptera_data").split().val
    preprocess = Preprocess((64, 64), interpolation="bicubic")
    permuted = order(0, 0, len(part))[:24]
    loaded = [Images(part, preprocess, workers).pixels(permuted, Augment("light"), 0, 1) for workers in (1, 3)]
    assert torch.equal(loaded[0], loaded[1])
    assert loaded[0].float().std() > 20
