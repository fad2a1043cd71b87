"""The `data` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from finetune.recipe.values import Number, Positive, Section, Seed, Text, Whole, as_classes, as_extensions, as_range


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

    source: Literal["folder", "mnist"] = Field(default="folder", description="mnist: 28x28 handwritten digits")
    folder: Annotated[Text | None, Field(validate_default=True)] = Field(
        default=None,
        description="class folders, or train/ val/ [test/] each with class folders; of mnist, what holds MNIST/raw "
        "(null: the cache, fetched if absent)",
    )
    sample: Literal["vehicles", "digits"] | None = Field(
        default=None, description="built-in images, written into an absent folder"
    )
    classes: Annotated[tuple[Text, ...], BeforeValidator(as_classes)] | None = Field(
        default=None, description="only these classes, in this order; names are text, as written"
    )
    positive: Text | None = Field(default=None, description="a class: it against the rest")
    split: SplitConfig = Field(default=SplitConfig(), description="used where the folder is not split")
    augment: Literal["none", "light", "strong"] = Field(
        default="light", description="random changes of training images"
    )
    on_bad: Literal["stop", "skip"] = Field(default="stop", description="what to do about unreadable images")
    class_weights: Literal["none", "balanced"] = Field(default="none", description="balanced: rare classes weigh more")
    group: Text | None = Field(
        default=None, description="what stays in one split: a regular expression on paths, folder, or a CSV file"
    )
    links: Literal["follow", "refuse"] = Field(
        default="follow", description="follow: links to files and folders inside the folder, or of the same owner"
    )
    range: Annotated[Literal["auto", "dtype"] | tuple[float, float], BeforeValidator(as_range)] = Field(
        default="auto", description="black and white of images of more than 8 bits: auto, dtype, or [black, white]"
    )
    extensions: Annotated[tuple[Text, ...], BeforeValidator(as_extensions)] | None = Field(
        default=None, description="endings of the images' names; null: the usual ones, else the content decides"
    )
    max_megapixels: Annotated[Positive, Field(le=10_000)] = Field(default=100.0, description="larger ones are refused")
    workers: Annotated[Whole, Field(ge=0, le=1024)] | None = Field(default=None, description="threads that read images")

    @field_validator("folder", mode="after")
    @classmethod
    def _only_mnist_has_a_place_of_its_own(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("source") == "folder":
            raise PydanticKnownError("missing")
        return value

    @model_validator(mode="after")
    def _samples_are_folders(self) -> DataConfig:
        if self.sample is not None and self.source != "folder":
            raise ValueError(f"sample is for folders, source is {self.source}")
        return self
