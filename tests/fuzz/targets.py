"""The three places where foreign bytes are read, and what may come of it: a result, or a documented exception."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from finetune.data.decode import decode, inspect
from finetune.errors import ArtefactError, BadImage, FinetuneError, UsageError
from finetune.recipe import yaml
from finetune.recipe.load import load, resolve
from tests import makers
from tests.fuzz.mutate import mutated

SECONDS = 5.0
"""Longest time that one input may take."""


@dataclass
class Target:
    """What is fuzzed, and what came of it so far.

    Attributes:
        name: also of its folder in the corpus.
        inputs: how hypothesis makes them.
        attempt: reads one, from bytes and a folder to work in; raises what the reader raises.
        allowed: the documented exceptions.
        full: how many inputs a full pass tries.
        counts: accepted, and each exception by name.
        slowest: seconds of processor time of the input that took longest.
        last: the input tried last; after a find, hypothesis has made it small.
    """

    name: str
    inputs: st.SearchStrategy[bytes]
    attempt: Callable[[bytes, Path], object]
    allowed: tuple[type[FinetuneError], ...]
    full: int
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    last: bytes = b""

    def __call__(self, content: bytes) -> None:
        """Read `content`; anything but a result, or an allowed exception with its problem told, goes up."""
        begin, self.last = time.process_time(), content
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.attempt(content, Path(folder))
                self.counts["accepted"] += 1
            except self.allowed as error:
                if not error.problems or not all(error.problems):
                    raise AssertionError("an exception that does not say what is wrong") from error
                self.counts[type(error).__name__] += 1
        seconds = time.process_time() - begin
        self.slowest = max(self.slowest, seconds)
        assert seconds < SECONDS, f"{seconds:.1f} s"


# --- recipes ---------------------------------------------------------------------------------------------------------

RECIPES = (
    b"data: {folder: images, split: {val: 0.25, test: 0.25}}\nmodel: {backbone: timm/test_resnet, weights: none}\n",
    b"""\
name: all
seed: 3
data:
  folder: "images"
  classes: [a, 'b', 08, no]
  split: {val: 0.15, test: 0.15, seed: 1}
  augment: strong
  on_bad: skip
model:
  backbone: torchvision/resnet18
  options: {pad_type: same, n: [1, 2.5]}
  preprocess: {size: 224, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], interpolation: bicubic}
  head: {hidden: [128, 64], activation: relu, dropout: 0.2}
  unfreeze: {head: 0, "layer4.*": 3, last:2: 5}
train:
  epochs: 7
  lr: 1e-3
  schedule: one_cycle
  cache: {views: 4, ram_gb: 4, disk_gb: 20}
  early_stop: null
  checkpoint: {every_epochs: 1, every_minutes: 10, every_steps: ~, keep: 2}
""",
)
RECIPE_WORDS = (
    *(b"&a |*a|<<: *a|!!python/object/apply:os.system [x]|!!set |%YAML 1.1\n|---\n|...\n|? |: |- |[|]|{|}".split(b"|")),
    *(b"'|\"|#|\t|\n|\n  |\xff|\xe2\x80\xa8|\x00|.nan|-.inf|1e999|0x10|1_000|{}|[]|null|~|lr: |data: ".split(b"|")),
    *(b"seed: |train: |../..|@x|`|%|99999999999999999999|1:30|2001-01-01|!!binary |>\n|\\".split(b"|")),
)


def _recipe_inputs() -> st.SearchStrategy[bytes]:
    """Damaged text, and whole recipes with a few values of another kind or size in them."""
    words = st.sampled_from(
        ["none", "auto", "all", "head", "default", "", "a" * 300, "../x", "\x1b[2J", "timm/x", "1e-3"]
    )
    numbers = st.sampled_from([0, 1, -1, 2, 10**9, 10**30, 0.0, 0.5, 1e-300, 1e300, float("nan"), float("inf")])
    scalars = st.none() | st.booleans() | words | numbers | st.integers() | st.floats() | st.text(max_size=8)
    values = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=4
    )
    documents = [yaml.parse(content.decode(), "seed") for content in RECIPES]
    places = [(section, key) for section in ("data", "model", "train") for key in documents[1][section]]
    places += [
        ("train", key) for key in ("batch_size", "optimizer", "loss", "warmup_epochs", "clip_norm", "ema", "select")
    ]

    def whole(document: dict[str, Any], found: dict[tuple[str, str], Any]) -> bytes:
        changed = {section: dict(keys) if isinstance(keys, dict) else keys for section, keys in document.items()}
        for (section, key), value in found.items():
            changed.setdefault(section, {})[key] = value
        return yaml.dump(changed).encode("utf-8", "surrogatepass")

    chosen = st.dictionaries(st.sampled_from(places), values, min_size=1, max_size=3)
    return mutated(RECIPES, RECIPE_WORDS, most=3) | st.builds(whole, st.sampled_from(documents), chosen)


def _recipe(content: bytes, folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    recipe = load(path)
    again = yaml.parse(yaml.dump(recipe.model_dump()), "again")
    assert again == json.loads(json.dumps(recipe.model_dump())), "what is written out reads back as it was"
    resolve(recipe, folder)


# --- weights ---------------------------------------------------------------------------------------------------------


def weight_seeds() -> tuple[bytes, ...]:
    """Small weights files, "S" before safetensors and "P" before what torch saves, in both its formats."""
    import torch
    from safetensors.torch import save

    state = {"a.weight": torch.ones(4, 3), "a.bias": torch.zeros(4), "n": torch.tensor(7)}
    seeds = [b"S" + save({name: value.contiguous() for name, value in state.items()})]
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        buffer = io.BytesIO()
        torch.save({"epoch": 1, "state_dict": state}, buffer, **options)
        seeds.append(b"P" + buffer.getvalue())
    return tuple(seeds)


def _headers() -> st.SearchStrategy[bytes]:
    """Safetensors whose header is JSON, but seldom true."""
    numbers = st.sampled_from([0, 1, 2, 4, 8, 12, 48, 64, -1, 2**31, 2**62, 2**64, 1.5])
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "X", None, 3]),
            "shape": st.lists(numbers, max_size=3) | numbers,
            "data_offsets": st.lists(numbers, max_size=3),
        },
    )
    tensors = st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", "\x1b", "a" * 300]), entry | numbers, max_size=3
    )

    def whole(header: dict[str, Any], data: bytes, more: int) -> bytes:
        text = json.dumps(header).encode()
        return b"S" + struct.pack("<Q", max(0, len(text) + more)) + text + data

    return st.builds(whole, tensors, st.binary(max_size=64), st.sampled_from([0, 0, 0, 1, -1, 2**40]))


def _weights(content: bytes, folder: Path) -> None:
    import torch

    from finetune.model.weights import read_weights

    path = folder / ("w.safetensors" if content[:1] == b"S" else "w.pth")
    path.write_bytes(content[1:])
    state = read_weights(path)
    assert state
    assert all(isinstance(value, torch.Tensor) for value in state.values())


WEIGHT_WORDS = tuple(
    b"cos\nsystem\n(S'touch canary'\ntR.|c__builtin__\neval\n|PK\x03\x04|PK\x05\x06|\x80\x02}q\x00.".split(b"|")
)


def _weight_inputs() -> st.SearchStrategy[bytes]:
    kept = mutated(weight_seeds(), WEIGHT_WORDS).map(
        lambda content: content if content[:1] in b"SP" else b"P" + content
    )
    return kept | kept | _headers()


# --- images ----------------------------------------------------------------------------------------------------------


def _image_seeds() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        paths = [*makers.odd_images(Path(folder))]
        makers.bad_images(Path(folder) / "bad")
        paths += [path for path in (Path(folder) / "bad").iterdir() if path.stat().st_size]
        return tuple(path.read_bytes() for path in sorted(paths))


def _image(content: bytes, folder: Path) -> None:
    facts = inspect(content)
    assert facts.width > 0
    assert facts.height > 0
    for mode in ("RGB", "L"):
        assert decode(content, mode, draft=(32, 32)).mode == mode
    assert decode(content, "RGB").size == (facts.width, facts.height)


IMAGE_WORDS = tuple(
    b"\xff\xd8|\xff\xd9|\xff\xc0|IHDR|IDAT|IEND|tRNS|acTL|RIFF|WEBP|VP8X|II*\x00|MM\x00*|Exif\x00\x00|P6 1".split(b"|")
)


TARGETS: dict[str, Callable[[], Target]] = {
    "recipes": lambda: Target("recipes", _recipe_inputs(), _recipe, (UsageError,), 10_000),
    "weights": lambda: Target("weights", _weight_inputs(), _weights, (ArtefactError,), 2_000),
    "images": lambda: Target("images", mutated(_image_seeds(), IMAGE_WORDS), _image, (BadImage,), 10_000),
}
"""Name → a fresh target."""
