"""The figures of a run where those of others are: TensorBoard, MLflow, Weights & Biases.

What `history.csv` gets at the end of an epoch, a tracker gets too; at the end the report. A tracker that fails is said
and left alone from then on: no run ends for it.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.errors import FinetuneError, ResourceError
from finetune.files import cache_folder
from finetune.runs.names import RunNames

MODULES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""Tracker → what must be installed."""

LONGEST = 400
"""Characters of a recipe's value that are handed on; MLflow takes no more than 500."""


@dataclass(frozen=True)
class Tracker:
    """A destination for figures.

    Attributes:
        name: as in the recipe.
        epoch: takes a row of `history.csv`.
        report: takes the files of a run when all are there, and what `metrics.json` holds.
    """

    name: str
    epoch: Callable[[Mapping[str, Any]], None]
    report: Callable[[RunNames, Mapping[str, Any]], None]


def require_trackers(names: Sequence[str]) -> None:
    """Refuse early what is not installed.

    Raises:
        ResourceError: with the command that installs it.
    """
    missing = [name for name in names if find_spec(MODULES[name]) is None]
    if missing:
        raise ResourceError(
            [f"log: {name}: is not installed" for name in missing],
            f"pip install 'finetune-toolkit[{','.join(missing)}]', or leave it out",
        )


class Trackers:
    """All trackers of a run.

    Args:
        names: of `MODULES`.
        files: of the run.
        run: its identity, by which a resumed run finds its own figures again.
        name: of the recipe.
        recipe: as JSON holds it.
        say: takes a line for each tracker that fails.
    """

    def __init__(
        self,
        names: Sequence[str],
        files: RunNames,
        *,
        run: str,
        name: str,
        recipe: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._trackers: list[Tracker] = []
        for one in names:
            with self._tolerated(one):
                self._trackers.append(MAKERS[one](files, run, name, recipe))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Hand on a row of `history.csv`."""
        for tracker in list(self._trackers):
            with self._tolerated(tracker.name):
                tracker.epoch(row)

    def report(self, files: RunNames, metrics: Mapping[str, Any]) -> None:
        """Hand on the report; there is nothing more to come."""
        for tracker in list(self._trackers):
            with self._tolerated(tracker.name):
                tracker.report(files, metrics)

    @contextlib.contextmanager
    def _tolerated(self, name: str) -> Iterator[None]:
        try:
            yield
        except FinetuneError:
            raise
        except Exception as error:  # somebody else's service: whatever it raises, the run goes on
            self._trackers = [tracker for tracker in self._trackers if tracker.name != name]
            what = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
            self._say(f"log: {name} failed and is left out from here on ({what}); the run goes on")


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers of a row of `history.csv` or of `metrics.json`, but for the epoch."""
    numbers = {key: value for key, value in row.items() if key != "epoch" and isinstance(value, int | float)}
    return {key: float(value) for key, value in numbers.items() if not isinstance(value, bool) and np.isfinite(value)}


def flat(recipe: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Every key of a recipe by its dotted path."""
    params: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            params |= flat(value, f"{above}{key}.")
        else:
            params[f"{above}{key}"] = str(value)[:LONGEST]
    return params


def _pictures(files: RunNames) -> list[Path]:
    return sorted(files.report.folder.glob("*.png"))


def _tensorboard(files: RunNames, run: str, name: str, recipe: Mapping[str, Any]) -> Tracker:
    """Event files in the run folder, `tensorboard/`; what a resumed run adds lies beside."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(files.folder / "tensorboard"))

    def epoch(row: Mapping[str, Any]) -> None:
        for key, value in figures(row).items():
            writer.add_scalar(key, value, int(row["epoch"]))
        writer.flush()

    def report(files: RunNames, metrics: Mapping[str, Any]) -> None:
        for key, value in figures(metrics).items():
            writer.add_scalar(f"report/{key}", value, 0)
        writer.add_text("report", f"The whole report: {files.report.page}", 0)
        for path in _pictures(files):
            with Image.open(path) as image:
                writer.add_image(f"report/{path.stem}", np.asarray(image.convert("RGB")), 0, dataformats="HWC")
        writer.close()

    return Tracker("tensorboard", epoch, report)


def _mlflow(files: RunNames, run: str, name: str, recipe: Mapping[str, Any]) -> Tracker:
    """The server or folder that MLFLOW_TRACKING_URI names, else a store in the run folder, `mlflow/`."""
    from mlflow.tracking import MlflowClient

    own = (files.folder / "mlflow").absolute().as_uri()
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for a word before it writes files
    client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or own)
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    known = client.search_runs([number], f"tags.finetune_run = '{run}'")
    tags = {"finetune_run": run, "mlflow.runName": f"{name}/{files.folder.name}"}
    place = (known[0] if known else client.create_run(number, tags=tags)).info.run_id
    if not known:
        for key, value in flat(recipe).items():
            client.log_param(place, key, value)

    def epoch(row: Mapping[str, Any]) -> None:
        for key, value in figures(row).items():
            client.log_metric(place, key, value, step=int(row["epoch"]))

    def report(files: RunNames, metrics: Mapping[str, Any]) -> None:
        for key, value in figures(metrics).items():
            client.log_metric(place, f"report_{key}", value)
        client.log_artifacts(place, str(files.report.folder), "report")
        client.set_terminated(place)

    return Tracker("mlflow", epoch, report)


def _wandb(files: RunNames, run: str, name: str, recipe: Mapping[str, Any]) -> Tracker:
    """The account that WANDB_API_KEY or `wandb login` names; without one, or with WANDB_MODE=offline, files in the run
    folder, `wandb/`, for `wandb sync`. Nobody is asked for a key: a run may stand in a queue."""
    for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(variable, str(cache_folder() / "wandb"))  # before the import, which makes the folders
    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would stand between ours
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    quiet = wandb.Settings(console="off", disable_git=True, save_code=False)
    shown = f"{name}/{files.folder.name}"
    tracked: Any = wandb.init(
        project=name,
        id=run,
        name=shown,
        resume="allow",
        config=dict(recipe),
        dir=files.folder,
        mode=mode,
        settings=quiet,
    )

    def epoch(row: Mapping[str, Any]) -> None:
        tracked.log(figures(row), step=int(row["epoch"]))

    def report(files: RunNames, metrics: Mapping[str, Any]) -> None:
        tracked.summary.update({f"report/{key}": value for key, value in figures(metrics).items()})
        artifact: Any = wandb.Artifact(f"report-{run}", type="report")
        artifact.add_dir(str(files.report.folder))
        tracked.log_artifact(artifact)
        tracked.finish()

    return Tracker("wandb", epoch, report)


MAKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
"""Tracker → what makes it."""
