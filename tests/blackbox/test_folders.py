"""Folders as people have them: split names, levels, runs among the images, links, names, numbers, iPhones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import finetune as ft
from finetune.data.layout import split_of
from finetune.data.levels import QUANTILES, eight_bits, find_range
from finetune.data.listing import list_folder
from finetune.errors import DataError
from tests import makers

TWO = {"cat": 6, "dog": 6}


def checked(cli: Any, folder: Path, *options: str, rc: int = 0) -> dict[str, Any]:
    """The JSON of `finetune check FOLDER`."""
    result = cli("check", folder, "--json", *options)
    assert result.rc == rc, result.err
    return dict(json.loads(result.out)) if result.out else {"error": result.err}


# --- split folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Train", "Val", None),
        ("training", "validation", "testing"),
        ("train_set", "val_set", "Test Set"),
        ("TRAINING DATA", "dev", "hold-out"),
        ("01_trainset", "02_devset", "03_testset"),
        ("train", None, "test"),
    ],
)
def test_the_usual_names_of_splits_are_splits(tmp_path: Path, train: str, val: str | None, test: str | None) -> None:
    makers.split_folders(tmp_path, {name: TWO for name in (train, val, test) if name})
    found = list_folder(tmp_path)
    assert found.classes == ["cat", "dog"]
    wanted = {"train": train, "val": val, "test": test}
    assert found.bases == {split: name for split, name in wanted.items() if name}


def test_train_and_test_alone_give_up_images_for_validation(tmp_path: Path, cli: Any) -> None:
    from finetune.data.folder import ImageFolder

    makers.split_folders(tmp_path / "d", {"training": {"cat": 12, "dog": 12}, "holdout": TWO})
    data = ImageFolder(tmp_path / "d").split(val=0.25, test=0.25)
    assert {name: len(part) for name, part in data.parts()} == {"train": 18, "val": 6, "test": 12}
    assert data.test is not None
    assert set(data.test.table["path"].str.split("/").str[0]) == {"holdout"}
    assert any("validation are taken out of training/" in note for note in data.notes)


@pytest.mark.parametrize("inside", ["", "unknown"])
def test_a_test_folder_without_labels_is_a_note(tmp_path: Path, cli: Any, inside: str) -> None:
    root = makers.split_folders(tmp_path / "d", {"train": TWO, "val": TWO})
    for number in range(3):
        makers.put(root / "test" / inside / f"{number}.jpg", makers.jpeg(900 + number))
    found = checked(cli, root)
    assert found["classes"] == {"cat": 12, "dog": 12}
    assert "no labels" in "\n".join(found["notes"])


@pytest.mark.parametrize(
    "tree",
    [
        ["train/cat", "train/dog", "eval/cat", "eval/dog"],
        ["val/cat", "val/dog", "valid/cat", "valid/dog", "train/cat", "train/dog"],
        ["test/cat", "test/dog", "dev/cat", "dev/dog"],
        ["images/train/cat", "images/train/dog", "images/val/cat", "images/val/dog", "extra"],
        ["cat/train", "cat/test", "dog/train", "dog/test"],
        ["train", "test"],
        ["flowers/flowers/rose", "flowers/flowers/tulip"],
        ["flowers/rose", "flowers/tulip"],
        ["train/rose", "train/tulip"],
        ["rose", "tulip", "flowers/rose", "flowers/tulip"],
        ["train/images/cat", "train/images/dog", "val/images/cat", "val/images/dog"],
        ["trainA/cat", "trainA/dog", "trainB/cat", "trainB/dog", "testA/cat", "testA/dog", "testB/cat", "testB/dog"],
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(tmp_path: Path, cli: Any, tree: list[str]) -> None:
    for index, folder in enumerate(tree):
        makers.class_folders(tmp_path / "d" / Path(folder).parent, {Path(folder).name: 3}, seed=10_000 * index)
    result = cli("check", tmp_path / "d")
    assert result.rc == 3, result.out
    assert str(tmp_path / "d") in result.err


def test_the_level_that_was_meant_is_named(tmp_path: Path) -> None:
    makers.class_folders(tmp_path / "flowers/flowers", {"rose": 3, "tulip": 3})
    with pytest.raises(DataError) as caught:
        list_folder(tmp_path)
    assert str(tmp_path / "flowers/flowers") in str(caught.value.remedy)


def test_folders_that_are_classes_stay_classes(tmp_path: Path) -> None:
    makers.class_folders(tmp_path / "toys", {"train": 3, "bus": 3, "car": 3})
    assert list_folder(tmp_path / "toys").classes == ["bus", "car", "train"]
    makers.split_folders(tmp_path / "odd", {"dev": TWO, "test": TWO})
    assert list_folder(tmp_path / "odd", ["test", "dev"]).classes == ["dev", "test"]


@pytest.mark.parametrize("pattern", ["birds_{}", "{}.v1", "my-{}-2024", "{}Birds", "Birds {}"])
def test_a_word_that_all_splits_share_changes_nothing(tmp_path: Path, pattern: str) -> None:
    names = {split: pattern.format(split) for split in ("train", "val", "test")}
    makers.split_folders(tmp_path, {name: TWO for name in names.values()})
    found = list_folder(tmp_path)
    assert found.bases == names
    assert found.classes == sorted(TWO)


def test_classes_of_two_words_stay_classes(tmp_path: Path) -> None:
    """Trains and test tubes are no splits, whatever folders there are in them."""
    makers.split_folders(tmp_path, {"steam_train": {"old": 2}, "test_tube": {"new": 2}, "bus": {"red": 2}})
    assert list_folder(tmp_path).classes == ["bus", "steam_train", "test_tube"]


def test_folders_that_all_hold_the_same_are_said(tmp_path: Path) -> None:
    makers.split_folders(tmp_path, dict.fromkeys(("entrenamiento", "prueba"), TWO))
    found = list_folder(tmp_path)
    assert found.classes == ["entrenamiento", "prueba"]
    assert any("entrenamiento, prueba" in line and "train, val and test" in line for line in found.notes)


def test_a_folder_beside_the_splits_is_called_a_folder(tmp_path: Path, cli: Any) -> None:
    makers.split_folders(tmp_path / "d", {"train": TWO, "val": TWO, "extra": TWO})
    assert "1 folder beside those of the splits is not used: extra" in cli("check", tmp_path / "d").out


def test_images_of_one_content_are_counted(tmp_path: Path) -> None:
    for name, seed in (("cat", 100), ("dog", 200)):
        for index in range(4):
            makers.put(tmp_path / name / f"{index}.jpg", makers.jpeg(seed))
    with pytest.raises(DataError, match="class 'cat' has 4 images of the same content"):
        ft.ImageFolder(tmp_path).split(val=0.25, test=0, seed=0)


@given(st.sampled_from(["train", "val", "test"]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_split_is_known_in_any_spelling(split: str, data: st.DataObject) -> None:
    names = {"train": ["train", "training"], "val": ["val", "valid", "validation", "dev"]}
    word = data.draw(st.sampled_from(names.get(split, ["test", "testing", "holdout"])))
    cased = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in word)
    before = data.draw(st.sampled_from(["", "01_", "my-dataset-".replace("my-", ""), "images "]))
    after = data.draw(st.sampled_from(["", "_set", "set", "-images", " data", ".2"]))
    assert split_of(before + cased + after) == split


@given(st.sampled_from(["cat", "trains", "trainer", "valley", "testa", "protest", "device", "holder", "set", "images"]))
def test_other_words_are_no_splits(word: str) -> None:
    assert split_of(word) is None


# --- numbers ---------------------------------------------------------------------------------------------------------


def deep_folder(root: Path, low: float, high: float, kind: str, count: int = 6, suffix: str = "tif") -> Path:
    """Two classes of gradients from `low` to `high`, one lying, one standing."""
    rng = np.random.default_rng(0)
    for index in range(count):
        ramp = np.linspace(low, high, 32)[None, :].repeat(32, 0) + rng.uniform(0, (high - low) / 50, (32, 32))
        for name, picture in (("across", ramp), ("down", ramp.T)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.clip(low, high).astype(kind)).save(root / name / f"{index}.{suffix}")
    return root


NUMBERS = [
    (0, 4095, "uint16", "png"),
    (0, 4095, "uint16", "tif"),
    (0, 1023, "uint16", "png"),
    (0, 255, "uint16", "tif"),
    (7000, 9000, "uint16", "tif"),
    (0, 60000, "uint16", "png"),
    (0, 1000, "int32", "tif"),
    (-500, 500, "int32", "tif"),
    (280, 320, "float32", "tif"),
    (0, 1.4, "float32", "tif"),
    (0, 0.2, "float32", "tif"),
    (0, 10_000, "float32", "tif"),
]


@pytest.mark.parametrize(("low", "high", "kind", "suffix"), NUMBERS)
def test_numbers_of_any_size_keep_their_grey_levels(
    tmp_path: Path, low: float, high: float, kind: str, suffix: str
) -> None:
    from finetune.data.decode import decode
    from finetune.data.folder import ImageFolder

    folder = ImageFolder(deep_folder(tmp_path, low, high, kind, suffix=suffix))
    data = folder.split(0.3, 0.0)
    levels = np.asarray(decode(tmp_path / "down" / f"0.{suffix}", "L", decoding=data.decoding))
    assert levels.max() - levels.min() > 100
    assert len(np.unique(levels)) > 30
    assert not [finding for finding in folder.findings if finding.kind == "nearly uniform"]


def test_one_bright_pixel_changes_nothing_else(tmp_path: Path) -> None:
    from finetune.data.decode import decode
    from finetune.data.folder import ImageFolder

    deep_folder(tmp_path, 0, 1, "float32")
    before = ImageFolder(tmp_path).split(0.3, 0.0)
    plain = np.asarray(decode(tmp_path / "down/0.tif", "L", decoding=before.decoding))
    hot = np.asarray(Image.open(tmp_path / "down/0.tif")).copy()
    hot[3, 3] = 1e6
    Image.fromarray(hot).save(tmp_path / "down/0.tif")
    after = ImageFolder(tmp_path).split(0.3, 0.0)
    assert after.decoding == before.decoding
    spoilt = np.asarray(decode(tmp_path / "down/0.tif", "L", decoding=after.decoding)).astype(int)
    assert (spoilt != plain).sum() == 1


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.lists(st.floats(0, 1), min_size=2, max_size=40),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_range_holds_what_it_was_found_in(low: float, width: float, shares: list[float], floats: bool) -> None:
    pictures = [tuple(np.quantile([low + width * share, low + width], QUANTILES)) for share in shares]
    black, white = find_range(pictures, floats)
    assert black < white
    assert black <= low + width * min(shares) + 1e-6 * width + abs(low) * 1e-9
    assert white >= low + width - 1e-6 * width - abs(low) * 1e-9
    scaled = eight_bits(np.array([[black, white]]), "F", (black, white))
    assert scaled.tolist() == [[0, 255]]


def test_the_range_is_shown_kept_and_used_again(tmp_path: Path, cli: Any) -> None:
    root = deep_folder(tmp_path / "d", 7000, 9000, "uint16", count=8)
    found = checked(cli, root)
    assert "7000 is black, 9000 is white" in "\n".join(found["notes"])
    (tmp_path / "r.yaml").write_text(
        "data: {folder: d, augment: none}\nmodel: {backbone: small/mlp}\ntrain: {epochs: 8, lr: 0.01, batch_size: 4}\n"
    )
    done = cli("run", "r.yaml", "--out", "run")
    assert done.rc == 0, done.err
    bundle = json.loads((tmp_path / "run/model/model.json").read_text())
    assert bundle["preprocess"]["range"] == [7000, 9000]
    assert "- 9000.0" in (tmp_path / "run/recipe.yaml").read_text()
    shown = cli("predict", tmp_path / "run", root / "down/0.tif", root / "across/0.tif", "--json")
    assert [row["label"] for row in json.loads(shown.out)["predictions"]] == ["down", "across"]


def test_pictures_that_come_out_uniform_are_a_finding(tmp_path: Path, cli: Any) -> None:
    root = deep_folder(tmp_path / "d", 0, 1000, "uint16")
    (finding,) = [f for f in checked(cli, root, "-o", "data.range=dtype")["findings"] if f["kind"] == "nearly uniform"]
    assert len(finding["paths"]) == 12
    assert "data.range" in finding["message"]
    assert not [f for f in checked(cli, root)["findings"] if f["kind"] == "nearly uniform"]
    assert "lower number first" in cli("check", root, "-o", "data.range=[9, 3]").err


# --- our own runs ----------------------------------------------------------------------------------------------------


def test_runs_never_lie_among_the_images(tmp_path: Path, cli: Any) -> None:
    root = makers.class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    written = cli("init", ".", "--backbone", "small/mlp", cwd=root)
    assert written.rc == 0, written.err
    recipe = Path(written.out.strip())
    assert (recipe.parent if recipe.is_absolute() else (root / recipe).parent.resolve()) == tmp_path
    before = makers.tree_hash(root)
    done = cli("run", recipe, "--epochs", "1", "-o", "model.weights_missing=allow", cwd=root)
    assert done.rc == 0, done.err
    assert makers.tree_hash(root) == before
    assert (tmp_path / "runs/photos/001/run.json").is_file()
    inside = cli("run", recipe, "--epochs", "1", "--out", "cat/out", cwd=root)
    assert (inside.rc, (root / "cat/out").exists()) == (2, False)
    assert "inside the data folder" in inside.err
    for place in (root / "runs/photos/001", root / "cat/out"):
        shutil.copytree(tmp_path / "runs/photos/001", place)
    found = checked(cli, root)
    assert found["classes"] == {"cat": 8, "dog": 8}
    assert "2 files hold runs of finetune and were skipped: cat/out, runs" in found["notes"]
    rows = json.loads(cli("predict", tmp_path / "runs/photos/001", root, "--json").out)["predictions"]
    assert len(rows) == 16


# --- links -----------------------------------------------------------------------------------------------------------


def test_links_are_followed_the_same_way_everywhere(tmp_path: Path, cli: Any) -> None:
    store = makers.class_folders(tmp_path / "store", {"cat": 5, "more": 4, "dog": 5})
    root = tmp_path / "photos"
    root.mkdir()
    (root / "cat").symlink_to(store / "cat")
    shutil.copytree(store / "dog", root / "dog")
    (root / "dog/more").symlink_to(store / "more")
    (root / "dog/round").symlink_to("..")
    (root / "dog/up").symlink_to(tmp_path)
    (root / "dog/again.jpg").symlink_to("000.jpg")
    found = checked(cli, root)
    assert found["classes"] == {"cat": 5, "dog": 9}
    notes = "\n".join(found["notes"])
    assert "2 files are links out of the folder and were followed: cat, dog/more" in notes
    assert "3 files are links to what is counted already: dog/again.jpg, dog/round, dog/up" in notes
    refusing = cli("check", root, "-o", "data.links=refuse")
    assert refusing.rc == 3
    assert "data.links is refuse" in refusing.err
    from finetune.data.find import Files
    from finetune.data.walk import Rules

    files = Files([root])
    assert len(list(files)) == 14
    assert "followed" in "\n".join(files.notes)
    assert len(list(Files([root / "dog"], Rules("refuse")))) == 6  # the refused link to a file says so itself


# --- names and formats -----------------------------------------------------------------------------------------------


def test_content_decides_where_the_name_does_not(tmp_path: Path, cli: Any) -> None:
    root = makers.class_folders(tmp_path / "d", TWO)
    good = ["a.jfif", "b.jpe", "photo", "x.jpg?w=200", "y.jpg_large", "ÜBER.JFIF"]
    for index, name in enumerate(good):
        makers.put(root / "cat" / name, makers.jpeg(500 + index))
    makers.put(root / "cat/z.jp2", makers.encoded(makers.photo(77), "JPEG2000"))
    for name in ("LICENSE", "notes", "list.txt", "a.gif"):
        makers.put(root / "cat" / name, b"BM words about P5 pictures")
    found = checked(cli, root)
    assert found["classes"]["cat"] == 6 + len(good) + 1
    assert "4 files are not samples: cat/LICENSE, cat/a.gif, cat/list.txt, cat/notes" in found["notes"]
    only = checked(cli, root, "-o", "data.extensions=[jfif, .JPG]")
    assert only["classes"] == {"cat": 8, "dog": 6}


def test_large_images_are_read_where_the_limit_is_raised(tmp_path: Path, cli: Any) -> None:
    root = makers.class_folders(tmp_path / "d", TWO)
    Image.fromarray(np.arange(300 * 400, dtype=np.uint8).reshape(300, 400)).save(root / "cat/large.png")
    assert "0.1 megapixels (data.max_megapixels" in cli("check", root, "-o", "data.max_megapixels=0.1").err
    assert checked(cli, root)["classes"]["cat"] == 7


def test_warnings_of_the_decoder_are_counted_with_a_name(tmp_path: Path, cli: Any) -> None:
    root = makers.class_folders(tmp_path / "d", TWO)
    broken = makers.jpeg(3)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\0\0\x10\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    for index in range(3):
        makers.put(root / f"cat/warned{index}.jpg", broken[:2] + segment + broken[2:] + bytes(index))
    result = cli("check", root)
    assert "Warning" not in result.err
    lines = [line for line in result.out.splitlines() if "warning of the decoder" in line]
    assert 0 < len(lines) <= 3  # a line a kind
    assert all("3 images" in line and "cat/warned" in line for line in lines)


def test_photographs_of_iphones_are_read_or_named(tmp_path: Path, cli: Any) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    root = makers.class_folders(tmp_path / "d", {"dog": 4})
    for index in range(4):
        path = root / f"cat/IMG_{index}.HEIC"
        path.parent.mkdir(exist_ok=True)
        pillow_heif.from_pillow(makers.photo(index, 64, 48)).save(path)
    Image.open(root / "dog/000.jpg").save(root / "dog/x.avif")
    assert checked(cli, root)["classes"] == {"cat": 4, "dog": 5}
    env = {"PYTHONPATH": str(tmp_path / "hide"), "FINETUNE_CACHE": str(tmp_path / "other")}
    code = "import importlib.util as u\nf = u.find_spec\n"
    code += "u.find_spec = lambda n, *a: None if n == 'pillow_heif' else f(n, *a)"
    makers.put(tmp_path / "hide/sitecustomize.py", code.encode())
    result = cli("check", root, env=env)
    assert result.rc == 3
    assert "finetune-toolkit[formats]" in result.err
    assert "IMG_0.HEIC" in result.err
    assert "0 images" not in cli("init", root, "--out", tmp_path / "r.yaml", env=env).out


# --- the crop --------------------------------------------------------------------------------------------------------


def test_a_crop_that_hides_much_is_a_hint(tmp_path: Path, cli: Any) -> None:
    for name in TWO:
        for index in range(6):
            makers.put(tmp_path / "long" / name / f"{index}.jpg", makers.jpeg(index + len(name), 96, 32))
            makers.put(tmp_path / "square" / name / f"{index}.jpg", makers.jpeg(index + len(name), 40, 36))
    hints = {
        name: [f for f in checked(cli, tmp_path / name)["findings"] if f["kind"] == "hidden by the crop"]
        for name in ("long", "square")
    }
    assert len(hints["long"]) == 1
    assert "crop_mode=squash" in hints["long"][0]["message"]
    assert not hints["square"]
    squashed = checked(cli, tmp_path / "long", "-o", "model.preprocess.crop_mode=squash")
    assert not [f for f in squashed["findings"] if f["kind"] == "hidden by the crop"]
