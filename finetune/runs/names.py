"""The names of all files of a run; nothing else in the package spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.model.bundle_files import IN_RUN

RUN_JSON = "run.json"
BEST = "best.pth"


@dataclass(frozen=True)
class ReportNames:
    """The files of a report folder.

    Args:
        folder: in which they lie: `report/` of a run.
    """

    folder: Path

    @property
    def metrics_json(self) -> Path:
        """All figures, per class too."""
        return self.folder / "metrics.json"

    @property
    def per_class_csv(self) -> Path:
        """One row a class: support, rates and their intervals."""
        return self.folder / "per_class.csv"

    @property
    def confusion_csv(self) -> Path:
        """True class × predicted class."""
        return self.folder / "confusion.csv"

    @property
    def predictions_csv(self) -> Path:
        """One row an image: true and predicted class, every probability."""
        return self.folder / "predictions.csv"

    @property
    def page(self) -> Path:
        """The self-contained page."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class RunNames:
    """The files of a run folder.

    Args:
        folder: of the run, such as `runs/vehicles/001`.
    """

    folder: Path

    @property
    def run_json(self) -> Path:
        """The record: status, decisions, hashes, timings."""
        return self.folder / RUN_JSON

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

    @property
    def data_csv(self) -> Path:
        """The manifest: every image with its class, split and hash."""
        return self.folder / "data.csv"

    @property
    def plan_csv(self) -> Path:
        """Layer group × phase → frozen, or a learning rate."""
        return self.folder / "plan.csv"

    @property
    def history_csv(self) -> Path:
        """One row an epoch."""
        return self.folder / "history.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch so far."""
        return self.checkpoints / BEST

    @property
    def model(self) -> Path:
        """The model bundle."""
        return self.folder / IN_RUN

    @property
    def report(self) -> ReportNames:
        """The report folder with its files."""
        return ReportNames(self.folder / "report")

    @property
    def export(self) -> Path:
        """The folder of exported models, one folder a format."""
        return self.folder / "export"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.folder / ".lock"
