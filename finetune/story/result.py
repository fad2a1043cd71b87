"""What `ft.run` and `ft.resume` return: a run folder with its record, figures and classifier at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.classifier.accept import path_of
from finetune.errors import UsageError, resuming
from finetune.files import escape_html, read_json
from finetune.runs.folder import RunFolder
from finetune.runs.history import read_history
from finetune.runs.names import RunNames
from finetune.runs.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from finetune.classifier import Classifier
    from finetune.deliver.predict import Prediction


class Run(os.PathLike[str]):
    """One run: what it left behind, read from its folder when asked for.

    It is a path, too: `run / "report"`, `open(run / "run.json")`, `finetune.load(run)`.

    Args:
        path: of the run folder; `Run.open` looks first whether there is a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run in a folder, finished or not.

        Raises:
            UsageError: there is none.
            ArtefactError: its run.json is not readable.
        """
        return cls(RunFolder.open(path_of(path, "path")).path)

    @property
    def record(self) -> RunRecord:
        """The content of `run.json`: status, decisions, hashes, timings; `record["status"]` is `record.status`."""
        return RunFolder.open(self.path).record

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`: split, n, accuracy, accuracy_ci95, macro_f1, …, per_class.

        Raises:
            UsageError: the run has no report yet.
        """
        values: dict[str, Any] = read_json(self._written(self._names.report.metrics_json))
        return values

    @property
    def per_class(self) -> pd.DataFrame:
        """One row a class: class, support, precision, recall, f1 and their intervals; NaN where undefined."""
        return self._table(self._names.report.per_class_csv)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row an image: path, class, predicted, confidence, then `p:CLASS` for each class."""
        return self._table(self._names.report.predictions_csv)

    @property
    def history(self) -> pd.DataFrame:
        """One row a finished epoch: epoch, phase, lr, train_loss, val_loss, val_accuracy, …."""
        return read_history(self._written(self._names.history_csv))

    @property
    def report(self) -> Path:
        """The page, `report/report.html`."""
        return self._written(self._names.report.page)

    def classifier(self) -> Classifier:
        """The trained classifier.

        Raises:
            ArtefactError: the run has published no model yet.
        """
        from finetune.classifier import load

        return load(self.path)

    def predict(
        self, source: str | Path | Sequence[str | Path], *, threshold: float | str | None = "bundle"
    ) -> Prediction | list[Prediction]:
        """The label and confidence of one image file, or a list of them for several; see `Classifier.predict`."""
        predictions: Prediction | list[Prediction] = self.classifier().predict(source, threshold=threshold)
        return predictions

    @property
    def _names(self) -> RunNames:
        return RunNames(self.path)

    def _written(self, file: Path) -> Path:
        """The file, which the run must have written by now."""
        if not file.is_file():
            raise UsageError(f"{file}: not written yet", f"let the run finish: {resuming(self.path)}")
        return file

    def _table(self, file: Path) -> pd.DataFrame:
        import pandas as pd

        # a class may be called "nan" or "007": names stay text
        text_columns = {"path": str, "class": str, "predicted": str}
        table: pd.DataFrame = pd.read_csv(
            self._written(file), dtype=text_columns, keep_default_na=False, na_values=[""]
        )
        return table

    def _headline(self) -> str:
        """Status, backbone, and the figures if there are some."""
        record = self.record
        backbone = record.recipe.get("model", {}).get("backbone", "?")
        if not self._names.report.metrics_json.is_file():
            return f"{record.status}, {backbone}"
        metrics = self.metrics
        rates = (("accuracy", metrics["accuracy"]), ("macro F1", metrics["macro_f1"]))
        figures = ", ".join(f"{name} {value:.3f}" for name, value in rates if value is not None)
        return f"{record.status}, {backbone}, {figures} on {metrics['n']:,} {metrics['split']} images"

    def __fspath__(self) -> str:
        """The folder, so that a run can be given wherever a path can."""
        return str(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        """A file of the folder: `run / "report"`."""
        return self.path / name

    def __str__(self) -> str:
        """The folder."""
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same folder."""
        return isinstance(other, Run) and self.path == other.path

    def __hash__(self) -> int:
        """By the folder."""
        return hash(self.path)

    def __repr__(self) -> str:
        """One line: where it is and how good it is."""
        return f"<Run {self.path}: {self._headline()}>"

    def _repr_html_(self) -> str:
        """The headline and the per-class table, for notebooks."""
        heading = f"<p><b>{escape_html(self.path)}</b>: {escape_html(self._headline())}</p>"
        if not self._names.report.per_class_csv.is_file():
            return heading
        table: str = self.per_class.to_html(index=False, border=0, float_format=lambda value: f"{value:.3f}")
        return heading + table
