"""Every key of a recipe with its type, default, range and meaning; the one place to add a key.

A key whose feature is not built is not here. None stands for "decided from the rest".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    Tag,
    model_validator,
)
from pydantic.types import Discriminator

from finetune.recipe.data_section import DataConfig
from finetune.recipe.values import (
    Count,
    Number,
    Option,
    Positive,
    Section,
    Seed,
    Text,
    Whole,
    as_channels,
    as_device,
    as_name,
    as_numbers,
    as_options,
    as_size,
    as_spreads,
    as_threshold,
    as_weights,
    as_widths,
    head_kind,
)

# --- model -----------------------------------------------------------------------------------------------------------


class PreprocessConfig(Section):
    """Where the preprocessing differs from the weights' own; null: as the weights were trained."""

    size: Annotated[int | tuple[int, int], BeforeValidator(as_size)] | None = Field(
        default=None, description="pixels: one number, or [height, width]"
    )
    mean: Annotated[tuple[float, ...], BeforeValidator(as_numbers)] | None = Field(
        default=None, description="one number a channel, of pixels from 0 to 1"
    )
    std: Annotated[tuple[float, ...], BeforeValidator(as_spreads)] | None = Field(
        default=None, description="one number a channel, of pixels from 0 to 1"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = Field(
        default=None, description="how images are resized"
    )
    crop: Annotated[Positive, Field(le=4)] | None = Field(
        default=None, description="part of the resized image that is kept; above 1: a black margin around it"
    )
    crop_mode: Literal["center", "squash", "border"] | None = Field(
        default=None,
        description="center: the ends of the long side are cut off; squash: proportions change; "
        "border: margins are added",
    )


class HeadConfig(Section):
    """A head of several layers."""

    hidden: Annotated[tuple[int, ...], BeforeValidator(as_widths)] = Field(description="width of each hidden layer")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(default="relu", description="after each hidden layer")
    dropout: Number = Field(default=0.0, ge=0, lt=1, description="before each linear layer")


class ModelConfig(Section):
    """The network, what it has learned already and what may learn now."""

    backbone: Text = Field(
        description="auto (the best at hand), timm/NAME, torchvision/NAME, small/NAME, models/NAME, a card, a bundle, "
        "a run folder or hf://OWNER/NAME"
    )
    options: Annotated[dict[str, Option], BeforeValidator(as_options)] = Field(
        default_factory=dict, description="passed to the architecture, e.g. {pad_type: same}"
    )
    weights: Annotated[Text, BeforeValidator(as_weights)] = Field(default="default", description="or none, or a file")
    weights_missing: Literal["stop", "allow"] = Field(default="stop", description="allow: random features may freeze")
    preprocess: PreprocessConfig = Field(
        default=PreprocessConfig(), description="only where it differs from the weights' own"
    )
    in_chans: Annotated[Literal[1, 3], BeforeValidator(as_channels)] | None = Field(
        default=None, description="1: grey, 3: colour; null: as the weights, 1 for small/..."
    )
    head: Annotated[
        Annotated[Literal["linear"], Tag("<word>")] | Annotated[HeadConfig, Tag("<layers>")],
        Discriminator(head_kind),
    ] = Field(default="linear", description="linear, or {hidden: [128], activation: relu, dropout: 0.2}")
    features: Literal["last", "stages", "auto"] = Field(
        default="last",
        description="what the head reads: the last output, that and the last three stages, or the better of both",
    )
    unfreeze: dict[Text, Annotated[Whole, Field(ge=0)]] | None = Field(
        default=None,
        description="layer pattern: epoch at which it starts to learn; null: the head, or all without weights",
    )

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> ModelConfig:
        for key in ("mean", "std"):
            numbers = getattr(self.preprocess, key)
            if numbers is not None and len(numbers) not in ((1, 3) if self.in_chans is None else (self.in_chans,)):
                wanted = "a picture has 1 or 3 channels" if self.in_chans is None else f"in_chans is {self.in_chans}"
                raise ValueError(f"preprocess.{key} has {len(numbers)} numbers, {wanted}")
        return self


# --- train -----------------------------------------------------------------------------------------------------------


class CheckpointConfig(Section):
    """When the run saves itself; null: not for that reason."""

    every_epochs: Count | None = Field(default=1, description="at the end of every so many epochs")
    every_minutes: Positive | None = Field(default=10.0, description="after so many minutes")
    every_steps: Count | None = Field(default=None, description="after so many optimizer steps")
    keep: Count = Field(default=2, description="how many are kept, besides the best")


class CacheConfig(Section):
    """What is kept of the work on frozen layers."""

    views: Count | None = Field(default=None, description="augmented views of each training image; null: 4")
    ram_gb: Number = Field(default=4.0, ge=0, description="gigabytes of main memory")
    disk_gb: Number = Field(default=20.0, ge=0, description="gigabytes in the cache folder, for all runs together")


class TrainConfig(Section):
    """How it learns."""

    epochs: Count = Field(default=10, description="passes over the training images")
    batch_size: Count = Field(default=32, description="images a step")
    accumulate: Count = Field(default=1, description="batches a step of the optimizer")
    optimizer: Literal["adamw", "sgd", "adam", "lbfgs", "auto"] = Field(
        default="auto",
        description="auto: the head is solved exactly in the phases in which only it learns, else adamw; "
        "lbfgs: solved as logistic regression",
    )
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
    loss: Literal["cross_entropy", "bce", "hinge"] | None = Field(
        default=None,
        description="bce, hinge: each class against the rest; null: hinge for small/perceptron, else softmax",
    )
    margin: Number = Field(default=1.0, ge=0, description="of hinge; 0: Rosenblatt's rule")
    label_smoothing: Number = Field(default=0.0, ge=0, lt=1, description="of cross_entropy, in training only")
    clip_norm: Positive | None = Field(default=None, description="largest norm of the gradient; null: not clipped")
    ema: Annotated[Positive, Field(lt=1)] | None = Field(
        default=None, description="decay of averaged weights; null: none"
    )
    batchnorm: Literal["auto", "update", "keep"] = Field(default="auto", description="statistics of layers that learn")
    early_stop: Count | None = Field(default=None, description="stop after so many epochs without a better one")
    cache: Annotated[
        Annotated[Literal["auto", "off"], Tag("<word>")] | Annotated[CacheConfig, Tag("<layers>")],
        Discriminator(head_kind),
    ] = Field(default="auto", description="work on frozen layers, done once: auto, off, or {views: 4, ram_gb: 4}")
    speed: Literal["auto", "off"] = Field(
        default="auto", description="off: plain PyTorch, without our work-arounds for particular processors"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of training; fp16 on a GPU only"
    )
    device: Annotated[Text, BeforeValidator(as_device)] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps"
    )
    select: Literal["val_macro_f1", "val_accuracy", "val_loss"] = Field(
        default="val_macro_f1", description="which epoch is the best"
    )
    gate: Literal["none", "paired"] = Field(
        default="none",
        description="paired: what is trained after a solved head is kept only where a paired test on validation images "
        "says that it is better; its last epoch counts, so that no image has a say in both",
    )
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="when the run saves itself")

    @model_validator(mode="after")
    def _smooths_what_can_be_smoothed(self) -> TrainConfig:
        if self.label_smoothing and self.loss in ("bce", "hinge"):
            raise ValueError(f"label_smoothing belongs to cross_entropy, loss is {self.loss}")
        return self

    @model_validator(mode="after")
    def _a_gate_tests_one_candidate(self) -> TrainConfig:
        idle = [key for key in ("early_stop", "ema") if getattr(self, key) is not None]
        if self.gate == "paired" and idle:
            raise ValueError(f"{' and '.join(idle)}: not with gate: paired, which tests the last epoch as it is")
        return self

    @model_validator(mode="after")
    def _a_solver_takes_no_steps(self) -> TrainConfig:
        idle = [key for key in ("ema", "clip_norm") if getattr(self, key) is not None]
        if self.optimizer == "lbfgs" and idle:
            raise ValueError(f"{' and '.join(idle)}: for optimizers that take steps, and lbfgs solves the head at once")
        return self


# --- report ----------------------------------------------------------------------------------------------------------


class ReportConfig(Section):
    """What the figures are used for."""

    threshold: Annotated[float | Literal["auto"] | None, BeforeValidator(as_threshold)] = Field(
        default=None,
        description="confidence below which the answer is 'not sure'; auto: where 95 % of the answers were right",
    )


class Recipe(Section):
    """One run, from images to a report."""

    name: Annotated[Text, BeforeValidator(as_name)] | None = Field(
        default=None, description="of the runs; null: the file's name"
    )
    seed: Seed = Field(default=0, description="of initialisation, order and augmentation")
    data: DataConfig = Field(description="the images")
    model: ModelConfig = Field(description="the network")
    train: TrainConfig = Field(default=TrainConfig(), description="how it learns")
    report: ReportConfig = Field(default=ReportConfig(), description="how answers are evaluated and given")
    log: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        default=[], description="trackers that get figures and report"
    )
    export: list[Literal["onnx", "torch", "timm"]] = Field(default=[], description="formats, made at the end")
