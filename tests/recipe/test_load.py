"""Recipes from a file, with overrides: what is accepted, and how what is not is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from finetune.errors import UsageError
from finetune.files import write_json
from finetune.recipe import keys
from finetune.recipe import load as recipes
from finetune.recipe.load import load
from finetune.recipe.schema import HeadConfig, Recipe
from finetune.recipe.template import commented

MINIMAL = "data: {folder: pictures}\nmodel: {backbone: timm/resnet18}\n"

Read = Callable[..., Recipe]
Problems = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load a recipe of this text."""

    def reader(text: str, overrides: Sequence[str] = ()) -> Recipe:
        path = tmp_path / "job.yaml"
        path.write_bytes(text.encode())
        return load(path, overrides)

    return reader


@pytest.fixture
def problems(read: Read, tmp_path: Path) -> Problems:
    """The problems of a recipe of this text, without the folder of the file."""

    def reader(text: str, overrides: Sequence[str] = ()) -> list[str]:
        with pytest.raises(UsageError) as caught:
            read(text, overrides)
        assert caught.value.exit_code == 2
        assert caught.value.remedy
        return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]

    return reader


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_a_short_recipe_gets_the_defaults_and_the_name_of_its_file(read: Read) -> None:
    recipe = read(MINIMAL)
    assert (recipe.name, recipe.seed, recipe.data.split.val, recipe.train.lr) == ("job", 0, 0.15, 0.001)
    assert recipe.model.unfreeze is None
    assert recipe.train.checkpoint.model_dump() == {
        "every_epochs": 1,
        "every_minutes": 10,
        "every_steps": None,
        "keep": 2,
    }


def test_numbers_are_numbers(read: Read) -> None:
    train = read(MINIMAL + "train: {lr: 1e-4, weight_decay: 0, momentum: 5e-1}").train
    assert (train.lr, train.weight_decay, train.momentum) == (0.0001, 0.0, 0.5)
    assert isinstance(train.weight_decay, float)


def test_class_names_keep_their_literal_text(read: Read) -> None:
    names = "NO, no, on, 08, 010, 12:30, 1, 1e3, null, true, .nan, 0x1F, ~, 2001-01-01"
    text = f"name: 08\ndata: {{folder: 2024, classes: [{names}]}}\nmodel: {{backbone: timm/x}}"
    recipe = read(text)
    assert recipe.data.classes == tuple(names.split(", "))
    assert (recipe.name, recipe.data.folder) == ("08", "2024")
    again = read(recipes.dump(recipe), ["data.classes=[1, no]", "name=1e3"])
    assert again.data.classes == ("1", "no")
    assert again.name == "1e3"


def test_null_is_absence_where_text_is_wanted(read: Read) -> None:
    assert read(MINIMAL + "name: null").name == "job"
    assert read(MINIMAL, ["data.classes=null"]).data.classes is None


def test_a_section_whose_keys_are_all_commented_out_is_absent(read: Read) -> None:
    assert read(MINIMAL + "train:\n  # lr: 1\n").train == read(MINIMAL).train


def test_unfreeze_keeps_patterns_as_text_and_their_order(read: Read) -> None:
    recipe = read(MINIMAL, ["model.unfreeze={head: 0, last:2: 3, 'layer4.1.*': 6, 08: 7}"])
    assert list((recipe.model.unfreeze or {}).items()) == [("head", 0), ("last:2", 3), ("layer4.1.*", 6), ("08", 7)]


def test_options_are_a_free_mapping_of_plain_values(read: Read) -> None:
    recipe = read(MINIMAL, ["model.options={pad_type: same, bn_eps: 1e-3, deep: true, widths: [1, [2]], none: null}"])
    assert recipe.model.options == {
        "pad_type": "same",
        "bn_eps": 0.001,
        "deep": True,
        "widths": [1, [2]],
        "none": None,
    }


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(read: Read) -> None:
    assert read("\ufeff" + MINIMAL.replace("\n", "\r\n")) == read(MINIMAL)


# --- overrides -------------------------------------------------------------------------------------------------------


def test_an_override_replaces_the_value_whole(read: Read) -> None:
    text = MINIMAL + "train: {lr: 3, checkpoint: {keep: 5, every_steps: 7}}"
    recipe = read(text, ["train.checkpoint={keep: 1}", "train.lr=1e-2", "train.lr=1e-1"])
    assert recipe.train.checkpoint.every_steps is None
    assert recipe.train.checkpoint.keep == 1
    assert recipe.train.lr == 0.1
    assert read(text, ["train.checkpoint.keep=1"]).train.checkpoint.every_steps == 7


def test_an_override_reaches_below_what_was_a_word_or_absent(read: Read) -> None:
    recipe = read(MINIMAL, ["model.head.hidden=[64]", "model.unfreeze.blocks.6.*=2", "model.preprocess.size=[32, 48]"])
    assert recipe.model.head == HeadConfig(hidden=(64,))
    assert recipe.model.unfreeze == {"blocks.6.*": 2}
    assert recipe.model.preprocess.size == (32, 48)


def test_an_override_heals_what_the_file_has_wrong(read: Read) -> None:
    assert read(MINIMAL + "train: {lr: fast}", ["train.lr=1"]).train.lr == 1
    assert read("data: [{classes: 1}]\nmodel: {backbone: timm/x}", ["data.folder=x"]).data.folder == "x"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epchs=3", "-o train.epchs: unknown key (did you mean 'epochs'?)"),
        ("trian.lr=3", "-o trian.lr: unknown key (did you mean 'train.lr'?)"),
        ("epochs=3", "-o epochs: unknown key (did you mean 'train.epochs'?)"),
        ("seed.x=3", "-o seed.x: unknown key"),
        ("train.lr=fast", "-o train.lr: expected a number, found 'fast'"),
        ("data.classes=[a, null, [b]]", "-o data.classes[2]: expected text, found a list"),
        ("train.lr", "-o train.lr: expected KEY=VALUE, as in -o train.lr=1e-3"),
        ("=3", "-o =3: expected KEY=VALUE, as in -o train.lr=1e-3"),
        ("data.split={val: .2, val: .3}", "-o data.split: val: duplicate key (first on line 1)"),
    ],
)
def test_a_wrong_override_is_named(problems: Problems, override: str, told: str) -> None:
    assert problems(MINIMAL, [override]) == [told]


def test_an_override_that_is_no_yaml_says_how_to_quote(problems: Problems) -> None:
    (line,) = problems(MINIMAL, ["name=*"])
    assert line.startswith("-o name: not valid YAML")
    assert "needs quotes" in line


# --- problems --------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_with_line_key_and_nearest_name(problems: Problems) -> None:
    text = """\
epochs: 3
transform: pkg.fn
data:
  foldr: x
model: os:system
train:
  lr: fast
  batchsize: 2
  optimizer: adamx
  epochs: true
  seed: 1
  momentum: 0.8
  momentum: 0.9
"""
    assert sorted(problems(text, ["train.keep=1", "train.weight_decay=-1"])) == sorted(
        [
            "job.yaml:1: epochs: unknown key (did you mean 'train.epochs'?)",
            "job.yaml:2: transform: unknown key",
            "job.yaml:4: data.foldr: unknown key (did you mean 'folder'?)",
            "job.yaml: data.folder: missing",
            "job.yaml:5: model: expected keys below it (a mapping), found 'os:system'",
            "job.yaml:7: train.lr: expected a number, found 'fast'",
            "job.yaml:8: train.batchsize: unknown key (did you mean 'batch_size'?)",
            "job.yaml:9: train.optimizer: expected adamw, sgd, adam, lbfgs or auto, found 'adamx' "
            "(did you mean 'adam' or 'adamw'?)",
            "job.yaml:10: train.epochs: expected a whole number, found true",
            "job.yaml:11: train.seed: unknown key (did you mean 'seed' or 'data.split.seed'?)",
            "job.yaml:13: train.momentum: duplicate key (first on line 12)",
            "-o train.keep: unknown key (did you mean 'train.checkpoint.keep'?)",
            "-o train.weight_decay: expected a number from 0 up, found -1",
        ]
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.lr=.nan", "expected a finite number, found .nan"),
        ("train.lr=-.inf", "expected a finite number, found -.inf"),
        ("train.lr=1e999", "expected a finite number, found .inf"),
        ("train.lr=-1", "expected a number above 0, found -1"),
        ("train.lr=0", "expected a number above 0, found 0"),
        ("train.lr=true", "expected a number, found true"),
        ("train.lr=null", "expected a number, found nothing"),
        ("train.lr='1e-3'", "expected a number, found '1e-3'"),
        ("train.epochs=0", "expected a number from 1 up, found 0"),
        ("train.epochs=2.5", "expected a whole number, found 2.5"),
        ("train.device=gpu", "expected auto, cpu, cuda, cuda:N or mps, found 'gpu'"),
        ("train.checkpoint=5", "expected keys below it (a mapping), found 5"),
        ("seed=-1", "expected a number from 0 up, found -1"),
        ("name=../../x", "expected a name fit for a folder (no / or \\, not beginning with a dot), found '../../x'"),
        ("data.classes=[a]", "expected a list of at least two class names, found a list"),
        ("data.classes=[a, b, a]", "'a' is listed twice"),
        ("data.split={val: 0.5, test: 0.5}", "val and test together are 1: nothing is left to train on"),
        ("data.folder=", "data.folder: missing"),
        ('data.folder="a\\0b"', "expected text without a NUL character, found 'a\\x00b'"),
        ("model.in_chans=2", "expected 1 (grey) or 3 (colour), found 2"),
        ("model.in_chans=true", "expected 1 (grey) or 3 (colour), found true"),
        ("model.head=wide", "expected 'linear', found 'wide'"),
        ("model.unfreeze=[head]", "expected keys below it (a mapping), found a list"),
        ("model.preprocess.size=[0, 3]", "expected a whole number or [height, width], each from 1 to 8192"),
        ("model.preprocess.std=[0, 1, 1]", "expected numbers above 0, one a channel, found a list"),
        ("model.preprocess.mean=[0, 1]", "preprocess.mean has 2 numbers, a picture has 1 or 3 channels"),
        (
            "model.options={checkpoint_path: x.pth}",
            "checkpoint_path cannot be an option: it follows from model.weights",
        ),
        ("model.options={a: {b: 1}}", "expected a plain value or a list of them, found a mapping"),
    ],
)
def test_wrong_values_are_told_in_plain_words(problems: Problems, override: str, told: str) -> None:
    (line,) = problems(MINIMAL, [override])
    assert told.replace("'linear'", "linear") in line


@pytest.mark.parametrize("value", ["-1", "true", "1.5", "x"])
def test_unfreeze_wants_epochs(problems: Problems, value: str) -> None:
    (line,) = problems(MINIMAL, [f"model.unfreeze={{layer4.1.*: {value}}}"])
    assert line.startswith("-o model.unfreeze.layer4.1.*: expected a")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("learning_rate", "'train.lr'"),
        ("train.learning_rate", "'lr'"),
        ("lr", "'train.lr'"),
        ("model.lr", "'train.lr'"),
        ("amp", "'train.precision'"),
        ("train.amp", "'precision'"),
        ("train.patience", "'early_stop'"),
        ("model.arch", "'backbone'"),
        ("train.epoch", "'epochs'"),
        ("data.batch_size", "'train.batch_size'"),
        ("train.num_workers", "'data.workers'"),
    ],
)
def test_keys_of_other_tools_and_of_another_level_get_ours(problems: Problems, key: str, told: str) -> None:
    (line,) = problems(MINIMAL, [f"{key}=1"])
    assert f"(did you mean {told}" in line


def test_what_other_tools_call_a_key_is_a_key_here() -> None:
    for name, key in keys.OTHER_NAMES.items():
        assert keys.place_of(key), name
        assert name not in {place[-1] for place in keys.known() if len(place) > 1}, f"{name} is found by itself"


def test_an_empty_recipe_says_what_is_missing(problems: Problems) -> None:
    assert problems("") == ["job.yaml: data.folder: missing", "job.yaml: model.backbone: missing"]


def test_control_characters_do_not_reach_the_terminal(problems: Problems) -> None:
    (line,) = problems(MINIMAL + '"a\\e[31m\\nb": 1')
    assert line == "job.yaml:3: a\\x1b[31m\\nb: unknown key"


def test_thousands_of_problems_are_cut_short_and_quick(problems: Problems) -> None:
    began = time.process_time()
    lines = problems(MINIMAL + "".join(f"unknown{n}: 1\n" for n in range(10_000)))
    assert lines[-1] == "... and 9,900 more"
    assert time.process_time() - began < 5


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1\nname: \xe9")
    (tmp_path / "big.yaml").write_bytes(b"\xc3\xa9" * 1_000_000)
    os.mkfifo(tmp_path / "pipe.yaml")
    told = {"latin.yaml": "latin.yaml:2: not UTF-8", "big.yaml": "larger than", "no": "no such"}
    for name, what in {**told, "pipe.yaml": "no regular file", "a\0b": "cannot be read"}.items():
        with pytest.raises(UsageError, match=what):
            load(tmp_path / name)


def test_nothing_in_a_recipe_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"name: !!python/object/apply:os.system [touch canary]\n" + MINIMAL.encode())
    with pytest.raises(UsageError, match=r"r\.yaml:1"):
        load(Path("r.yaml"))
    assert not (tmp_path / "canary").exists()


# --- resolving, showing ----------------------------------------------------------------------------------------------


def _resolved(folder: Path, backbone: str, **model: str) -> Recipe:
    value = {"data": {"folder": "../data/x"}, "model": {"backbone": backbone, **model}}
    return recipes.resolve(recipes.from_mapping(value), folder)


def test_resolving_makes_paths_absolute_and_names_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    recipe = _resolved(folder, "weights/card.yaml", weights="w.pth")
    assert recipe.data.folder == str(tmp_path / "data" / "x")
    assert recipe.model.backbone == str(folder / "weights" / "card.yaml")
    assert recipe.model.weights == str(folder / "w.pth")
    assert recipe.name == "x"
    assert recipes.resolve(recipe, tmp_path) == recipe


def test_resolving_follows_links_where_dots_would_not(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    value = {"data": {"folder": "link/../x"}, "model": {"backbone": "timm/x"}}
    found = recipes.resolve(recipes.from_mapping(value), tmp_path).data.folder
    assert Path(found).resolve() == tmp_path / "far" / "x"


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "torchvision/vgg16"])
def test_names_of_networks_and_words_for_weights_stay(tmp_path: Path, name: str) -> None:
    for word in ("default", "none"):
        model = _resolved(tmp_path, name, weights=word).model
        assert (model.backbone, model.weights) == (name, word)


def test_a_models_name_is_the_card_here_else_the_one_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, package = tmp_path / "here", tmp_path / "package"
    for home in (here, package):
        (home / "models").mkdir(parents=True)
    monkeypatch.setattr(recipes, "CARRIED", package)
    (package / "models" / "ships.yaml").touch()
    assert _resolved(here, "models/ships").model.backbone == str(package / "models" / "ships.yaml")
    (here / "models" / "ships.yaml").touch()
    assert _resolved(here, "models/ships").model.backbone == str(here / "models" / "ships.yaml")
    with pytest.raises(UsageError, match="did you mean 'models/ships'"):
        _resolved(here, "models/shisp")


@pytest.mark.parametrize("spelling", ["models/ships", "./models/ships", "../{0}/models/ships", "{1}/models/ships"])
@pytest.mark.parametrize("ending", ["", ".yaml", "/"])
def test_a_card_may_be_written_in_any_way_that_a_path_can(tmp_path: Path, spelling: str, ending: str) -> None:
    card = tmp_path / "models" / "ships.yaml"
    card.parent.mkdir()
    card.touch()
    text = spelling.format(tmp_path.name, tmp_path) + ending
    assert _resolved(tmp_path, text).model.backbone == str(card)


def test_a_cards_name_may_have_dots_and_the_other_ending(tmp_path: Path) -> None:
    (tmp_path / "net.in1k.yml").touch()
    assert _resolved(tmp_path, "net.in1k").model.backbone == str(tmp_path / "net.in1k.yml")
    (tmp_path / "net.in1k").mkdir()
    assert _resolved(tmp_path, "net.in1k").model.backbone == str(tmp_path / "net.in1k")


def test_a_card_that_the_package_carries_may_be_named_with_its_ending(tmp_path: Path) -> None:
    carried = str(recipes.CARRIED / "models" / "small-resnet.yaml")
    assert _resolved(tmp_path, "models/small-resnet.yaml").model.backbone == carried


def test_weights_named_as_a_backbone_are_told_their_card(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").touch()
    with pytest.raises(UsageError, match=r"its card does: .*net\.yaml"):
        _resolved(tmp_path, "net.safetensors")


def test_a_folder_may_be_a_backbone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert _resolved(tmp_path, "run").model.backbone == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        ("resnet50", "did you mean 'timm/resnet50' or 'torchvision/resnet50'"),
        ("tim/resnet50", "did you mean 'timm/resnet50'"),
        ("EfficientNet_B0", "did you mean 'timm/efficientnet_b0' or 'torchvision/efficientnet_b0'"),
        ("google/vit-base-patch16-224", "'timm/vit_base_patch16_224'"),
        ("small-resent", "did you mean 'models/small-resnet'"),
        ("os:system", "is no name of a network"),
        ("weights.pth", "it goes into model.weights"),
    ],
)
def test_any_other_backbone_is_refused(tmp_path: Path, backbone: str, told: str) -> None:
    with pytest.raises(UsageError, match=r"model\.backbone: ") as caught:
        _resolved(tmp_path, backbone)
    assert told in caught.value.problems[0]


def test_a_dumped_recipe_has_every_key_and_loads_back_equal(read: Read) -> None:
    recipe = read(MINIMAL, ["model.head={hidden: [8]}", "data.classes=[no, '1']", "model.preprocess.size=[2, 3]"])
    text = recipes.dump(recipe)
    assert read(text) == recipe
    assert recipes.dump(read(text)) == text
    assert "backbone_lr: null" in text


def test_differences_name_the_changed_keys() -> None:
    old = {"train": {"lr": 0.001, "epochs": 3}, "model": {"unfreeze": None}, "gone": 1}
    new = {"train": {"lr": 0.01, "epochs": 3}, "model": {"unfreeze": {"head": 0}}, "new": [1, "1"]}
    assert recipes.differences(old, new) == [
        "train.lr: 0.001 → 0.01",
        "model.unfreeze: null → {head: 0}",
        "gone: 1 → absent",
        "new: absent → [1, '1']",
    ]
    assert recipes.differences(old, old) == []


def test_a_mapping_from_python_is_checked_as_a_file_is(tmp_path: Path) -> None:
    value = {"data": {"folder": tmp_path, "classes": ("a", "b")}, "model": {"backbone": "timm/x"}}
    recipe = recipes.from_mapping(value, "script", ["train.lr=1"])
    assert (recipe.data.folder, recipe.data.classes, recipe.train.lr) == (str(tmp_path), ("a", "b"), 1.0)
    assert recipes.from_mapping(recipe.model_dump()) == recipe
    with pytest.raises(UsageError, match=r"script: data\.clases: unknown key"):
        recipes.from_mapping({**value, "data": {"folder": "x", "clases": []}}, "script")


def test_every_key_is_described_in_the_json_schema() -> None:
    schema = recipes.json_schema()
    sections = [schema, *schema["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section.get("properties", {}).items()]
    assert len(keys) > 50
    assert [name for name, key in keys if not key.get("description")] == []


def test_the_command_writes_the_schema_and_needs_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    subprocess.run([sys.executable, "-m", "finetune.recipe.load", str(path)], check=True, timeout=60)
    assert '"folder"' in path.read_text()
    code = "import sys, finetune.recipe.load; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_schema_for_editors_is_up_to_date(tmp_path: Path) -> None:
    write_json(tmp_path / "schema.json", recipes.json_schema())
    shipped = recipes.CARRIED / "recipes" / "schema.json"
    assert shipped.read_text() == (tmp_path / "schema.json").read_text(), "run python -m finetune.recipe.load"


def test_a_folder_of_images_needs_no_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    found = recipes.resolve(recipes.load(folder, ["seed=3"]), tmp_path)
    assert (found.name, found.seed, found.data.folder, found.data.augment) == ("my_photos", 3, str(folder), "none")
    model = found.model
    assert (model.backbone, model.features, model.unfreeze, found.train.optimizer) == (
        "auto",
        "auto",
        {"head": 0},
        "auto",
    )


def test_init_writes_what_a_folder_is_run_by(tmp_path: Path) -> None:
    from finetune.recipe.template import commented

    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "photos.yaml").write_text(commented(str(folder), "photos", ["a", "b"], 4, "auto"))
    written, without = (recipes.resolve(recipes.load(path), tmp_path) for path in (tmp_path / "photos.yaml", folder))
    assert written == without


def test_init_explains_each_key_and_names_a_schema_that_an_editor_finds() -> None:
    from finetune.recipe.template import commented

    first, *lines = commented("photos", "photos", ["a", "b"], 4, "auto").splitlines()
    assert all("#" in line for line in lines if not line.endswith(("data:", "model:", "train:")))
    address = first.removeprefix("# yaml-language-server: $schema=")
    assert json.loads(Path(unquote(urlsplit(address).path)).read_text()) == recipes.json_schema()


def test_a_folder_is_learned_as_the_recipe_says_that_init_writes(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(commented(str(tmp_path), "job", ["bee", "ant"], 20, "auto"))
    written, none = load(file), load(tmp_path)
    assert written.model_copy(update={"name": none.name}) == none
    assert none.data.class_weights == "balanced"
