"""Every key of a recipe with its type, default, range and meaning; the one place to add a key.

A key whose feature is not built is not here. None stands for "decided from the rest".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, Tag, model_validator
from pydantic.types import Discriminator


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("expected text without a NUL character")
    return value


Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Text = Annotated[str, Strict(), Field(min_length=1), AfterValidator(_no_nul)]
"""Keeps its literal text when it comes from YAML: 08, no and 1e3 are names."""

Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]

RESERVED_OPTIONS = {
    "num_classes": "the classes of the data",
    "in_chans": "model.in_chans",
    "pretrained": "model.weights",
    "weights": "model.weights",
    "checkpoint_path": "model.weights",
    "pretrained_cfg": "model.weights and model.preprocess",
    "pretrained_cfg_overlay": "model.weights and model.preprocess",
    "cache_dir": "the cache folder",
    "features_only": "the head",
    "scriptable": "the program",
    "exportable": "the program",
}
"""Arguments of the libraries' constructors that would go round the recipe (and load files unchecked)."""


class Section(BaseModel):
    """A mapping of known keys. One that is there but empty is the same as one that is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, value: Any) -> Any:
        return {} if value is None else value


def _name(value: Any) -> Any:
    """A name becomes a folder below runs/, so it must be exactly one step of a path."""
    unfit = isinstance(value, str) and (
        value.startswith(".") or not value.isprintable() or set(value) & set("/\\") or len(value.encode()) > 200
    )
    if unfit:
        raise ValueError("expected a name fit for a folder (no / or \\, not beginning with a dot)")
    return value


def _classes(value: Any) -> Any:
    """A list of at least two different names; tuples are what the frozen recipe holds."""
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        raise ValueError("expected a list of at least two class names")
    names = Counter(name for name in value if isinstance(name, str))
    if twice := [name for name, times in names.items() if times > 1]:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return tuple(value)


def _size(value: Any) -> Any:
    """One side for both, or (height, width); at most 8192 because a batch must fit in memory."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 8192 for side in sides):
        raise ValueError("expected a whole number or [height, width], each from 1 to 8192")
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _numbers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not value or not all(_is_number(item) for item in value):
        raise ValueError("expected a list of numbers, one a channel")
    return tuple(float(item) for item in value)


def _spreads(value: Any) -> Any:
    if any(item <= 0 for item in _numbers(value)):
        raise ValueError("expected numbers above 0, one a channel")
    return _numbers(value)


def _widths(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not value or not all(type(n) is int and n >= 1 for n in value):
        raise ValueError("expected a list of whole numbers from 1, one a hidden layer")
    return tuple(value)


def _channels(value: Any) -> Any:
    if type(value) is not int or value not in (1, 3):
        raise ValueError("expected 1 (grey) or 3 (colour)")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _option(value: Any) -> Any:
    plain = isinstance(value, (str, bool, int)) or value is None or _is_number(value)
    if not plain and not isinstance(value, (list, tuple)):
        raise ValueError("expected a plain value or a list of them")
    return [_option(item) for item in value] if isinstance(value, (list, tuple)) else value


Option = Annotated[str | bool | int | float | list[Any] | None, BeforeValidator(_option)]


def _options(value: Any) -> Any:
    for name in value if isinstance(value, Mapping) else ():
        if name in RESERVED_OPTIONS:
            raise ValueError(f"{name} cannot be an option: it follows from {RESERVED_OPTIONS[name]}")
        if not str(name).isidentifier():
            raise ValueError(f"{name!r} cannot be the name of an option")
    return {} if value is None else value


def _device(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("expected auto, cpu, cuda, cuda:N or mps")
    return value


def _head_kind(value: Any) -> str:
    return "<layers>" if isinstance(value, (Mapping, BaseModel)) else "<word>"


# --- data ------------------------------------------------------------------------------------------------------------


class SplitConfig(Section):
    """How a folder without train/ and val/ is divided."""

    val: Positive = Field(default=0.15, lt=1, description="fraction of the images for validation")
    test: Number = Field(default=0.15, ge=0, lt=1, description="fraction of the images for the final test; 0: none")
    seed: Seed = Field(default=0, description="another seed, another split")

    @model_validator(mode="after")
    def _leaves_training_images(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError(f"val and test together are {self.val + self.test:g}: nothing is left to train on")
        return self


class DataConfig(Section):
    """The images."""

    folder: Text = Field(description="class folders, or train/ val/ [test/] each with class folders")
    sample: Literal["vehicles"] | None = Field(default=None, description="built-in images, drawn into an absent folder")
    classes: Annotated[tuple[Text, ...], BeforeValidator(_classes)] | None = Field(
        default=None, description="only these classes, in this order; names are text, as written"
    )
    split: SplitConfig = Field(default=SplitConfig(), description="used where the folder is not split")
    augment: Literal["none", "light", "strong"] = Field(
        default="light", description="random changes of training images"
    )
    on_bad: Literal["stop", "skip"] = Field(default="stop", description="what to do about unreadable images")
    class_weights: Literal["none", "balanced"] = Field(default="none", description="balanced: rare classes weigh more")
    workers: Annotated[Whole, Field(ge=0, le=1024)] | None = Field(default=None, description="threads that read images")


# --- model -----------------------------------------------------------------------------------------------------------


class PreprocessConfig(Section):
    """Where the preprocessing differs from the weights' own; null: as the weights were trained."""

    size: Annotated[int | tuple[int, int], BeforeValidator(_size)] | None = Field(
        default=None, description="pixels: one number, or [height, width]"
    )
    mean: Annotated[tuple[float, ...], BeforeValidator(_numbers)] | None = Field(
        default=None, description="one number a channel, of pixels from 0 to 1"
    )
    std: Annotated[tuple[float, ...], BeforeValidator(_spreads)] | None = Field(
        default=None, description="one number a channel, of pixels from 0 to 1"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = Field(
        default=None, description="how images are resized"
    )
    crop: Annotated[Positive, Field(le=1)] | None = Field(
        default=None, description="part of the resized image that is kept"
    )


class HeadConfig(Section):
    """A head of several layers."""

    hidden: Annotated[tuple[int, ...], BeforeValidator(_widths)] = Field(description="width of each hidden layer")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(default="relu", description="after each hidden layer")
    dropout: Number = Field(default=0.0, ge=0, lt=1, description="before each linear layer")


class ModelConfig(Section):
    """The network, what it has learned already and what may learn now."""

    backbone: Text = Field(description="timm/NAME, torchvision/NAME, models/NAME, a card, a bundle or a run folder")
    options: Annotated[dict[str, Option], BeforeValidator(_options)] = Field(
        default_factory=dict, description="passed to the architecture, e.g. {pad_type: same}"
    )
    weights: Text = Field(default="default", description="default (the published ones, or the card's), none, or a file")
    preprocess: PreprocessConfig = Field(
        default=PreprocessConfig(), description="only where it differs from the weights' own"
    )
    in_chans: Annotated[Literal[1, 3], BeforeValidator(_channels)] = Field(default=3, description="1: grey, 3: colour")
    head: Annotated[
        Annotated[Literal["linear"], Tag("<word>")] | Annotated[HeadConfig, Tag("<layers>")],
        Discriminator(_head_kind),
    ] = Field(default="linear", description="linear, or {hidden: [128], activation: relu, dropout: 0.2}")
    unfreeze: dict[Text, Annotated[Whole, Field(ge=0)]] | None = Field(
        default=None,
        description="layer pattern: epoch at which it starts to learn; null: the head, or all without weights",
    )

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> ModelConfig:
        for key in ("mean", "std"):
            numbers = getattr(self.preprocess, key)
            if numbers is not None and len(numbers) != self.in_chans:
                raise ValueError(f"preprocess.{key} has {len(numbers)} numbers, in_chans is {self.in_chans}")
        return self


# --- train -----------------------------------------------------------------------------------------------------------


class CheckpointConfig(Section):
    """When the run saves itself; null: not for that reason."""

    every_epochs: Count | None = Field(default=1, description="at the end of every so many epochs")
    every_minutes: Positive | None = Field(default=10.0, description="after so many minutes")
    every_steps: Count | None = Field(default=None, description="after so many optimizer steps")
    keep: Count = Field(default=2, description="how many are kept, besides the best")


class TrainConfig(Section):
    """How it learns."""

    epochs: Count = Field(default=10, description="passes over the training images")
    batch_size: Count = Field(default=32, description="images a step")
    accumulate: Count = Field(default=1, description="batches a step of the optimizer")
    optimizer: Literal["adamw", "sgd", "adam"] = Field(default="adamw", description="the optimizer")
    lr: Positive = Field(default=1e-3, description="learning rate of the head")
    backbone_lr: Positive | None = Field(default=None, description="of the groups below the head; null: a tenth of lr")
    layer_decay: Positive = Field(default=1.0, le=1, description="factor from each layer group to the one below")
    weight_decay: Number = Field(default=0.05, ge=0, description="not applied to norms and biases")
    momentum: Number = Field(default=0.9, ge=0, lt=1, description="of sgd")
    schedule: Literal["cosine", "constant", "step", "one_cycle"] = Field(
        default="cosine", description="of the learning rate"
    )
    warmup_epochs: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="epochs of rising learning rate"
    )
    loss: Literal["cross_entropy"] = Field(default="cross_entropy", description="the loss")
    label_smoothing: Number = Field(default=0.0, ge=0, lt=1, description="of the training loss only")
    clip_norm: Positive | None = Field(default=None, description="largest norm of the gradient; null: not clipped")
    ema: Annotated[Positive, Field(lt=1)] | None = Field(
        default=None, description="decay of averaged weights; null: none"
    )
    batchnorm: Literal["auto", "update", "keep"] = Field(default="auto", description="statistics of layers that learn")
    early_stop: Count | None = Field(default=None, description="stop after so many epochs without a better one")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="of training")
    device: Annotated[Text, BeforeValidator(_device)] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps"
    )
    select: Literal["val_macro_f1", "val_accuracy", "val_loss"] = Field(
        default="val_macro_f1", description="which epoch is the best"
    )
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="when the run saves itself")


class Recipe(Section):
    """One run, from images to a report."""

    name: Annotated[Text, BeforeValidator(_name)] | None = Field(
        default=None, description="of the runs; null: the file's name"
    )
    seed: Seed = Field(default=0, description="of initialisation, order and augmentation")
    data: DataConfig = Field(description="the images")
    model: ModelConfig = Field(description="the network")
    train: TrainConfig = Field(default=TrainConfig(), description="how it learns")
