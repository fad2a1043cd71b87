"""The content of `run.json`, with types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class RunRecord:
    """The content of `run.json`; what is None is not written.

    Attributes:
        id: a random number by which the run's checkpoints are told from those of others.
        status: running, finished, stopped or failed.
        recipe: the resolved recipe, as JSON holds it.
        recipe_before: the one before, while a new one is being published.
        freeze: layer patterns that were frozen by `--freeze`.
        classes: their names, in the order of the network's outputs.
        device: cpu, cuda:0, mps.
        precision: of training: fp32, bf16 or fp16.
        precision_reason: why that one.
        speed: auto, or off: trained by plain PyTorch.
        batchnorm: keep or update, for thawed layers.
        source: where the weights came from.
        network: what was built, so that a checkpoint can be loaded again: architecture, options, preprocess.
        weights_sha256: over the final weights.
        freeze_proof: layer group → {sha256_before, sha256_after} of its frozen tensors.
        best: {"epoch", "value"} of the best epoch.
        features: what the head reads: layer group → width, the last output under `last`.
        temperature: by which the network's logits are divided.
        threshold: confidence below which its answer is "not sure".
        stopped_early: which phases `early_stop` has ended and why, one line each.
        gate: what a paired test has said of the solved head and the tuned network, and which was kept.
        metrics: the headline: split, accuracy, macro_f1.
        cache: what the feature cache did.
        timings: seconds by stage.
        versions: of Python and the libraries.
        notes: of the images.
        warnings: that a reader of the report should know.
        error: what ended the run, one line a problem.
        finished: when it ended, ISO 8601.
        more: keys that another version of finetune has written.
    """

    id: str | None = None
    status: str = "running"
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_before: dict[str, Any] | None = None
    freeze: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    device: str | None = None
    precision: str | None = None
    precision_reason: str | None = None
    speed: str | None = None
    batchnorm: str | None = None
    source: str | None = None
    network: dict[str, Any] | None = None
    weights_sha256: str | None = None
    freeze_proof: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    features: dict[str, int] | None = None
    temperature: float | None = None
    threshold: float | None = None
    stopped_early: list[str] | None = None
    gate: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: list[str] | None = None
    finished: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunRecord:
        """The record that a `run.json` holds."""
        own = {item.name for item in fields(cls)} - {"more"}
        known = {name: value for name, value in values.items() if name in own and value is not None}
        return cls(**known, more={name: value for name, value in values.items() if name not in own})

    def as_dict(self) -> dict[str, Any]:
        """The record as `run.json` holds it."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "more"}
        return {**{name: value for name, value in values.items() if value is not None}, **self.more}

    def __getitem__(self, key: str) -> Any:
        """A value by its key in `run.json`.

        Raises:
            KeyError: there is no such key.
        """
        return self.as_dict()[key]
