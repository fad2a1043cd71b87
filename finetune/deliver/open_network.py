"""Opens the network of a RUN: a model bundle, a finished run, one that was stopped, or a checkpoint."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from finetune.deliver.publish import as_it_was
from finetune.errors import ArtefactError, UsageError, did_you_mean, resuming
from finetune.model.backbones import build
from finetune.model.bundle import load_bundle
from finetune.model.bundle_files import DESCRIPTION
from finetune.model.hub import local_path
from finetune.model.network import Network
from finetune.runs.checkpoints import Checkpoints
from finetune.runs.folder import RunFolder
from finetune.runs.names import RUN_JSON, RunNames


def open_network(path: Path) -> Network:
    """The network, in eval mode on the CPU; its `notes` say what a user should know about it.

    Args:
        path: a model bundle, here or on the hub (`hf://OWNER/NAME`); a run folder, of which the published model is
            taken, or the best checkpoint so far where the run was stopped; or one of a run's checkpoints.

    Raises:
        UsageError: there is none of these.
        ResourceError: the hub is needed and cannot be used.
        ArtefactError: it is broken or of a newer version, or the run has saved nothing yet.
    """
    path = local_path(path)
    if path.suffix == ".pth":
        return _from_checkpoint(path)
    run = RunNames(path)
    if run.run_json.is_file() and not (run.model / DESCRIPTION).is_file():
        return _from_stopped(run)
    if not run.run_json.is_file() and not (path / DESCRIPTION).is_file():
        _refuse(path)
    return load_bundle(path)


def run_of(path: Path) -> Path:
    """The run folder that a RUN belongs to: that of a checkpoint, the bundle here of one on the hub, else the path."""
    path = local_path(path, fetch=False)
    return path.parent.parent if path.suffix == ".pth" else path


def _from_stopped(run: RunNames) -> Network:
    """The best network so far of a run that has published none."""
    checkpoints = Checkpoints(run.checkpoints)
    path = run.best if run.best.is_file() else checkpoints.newest()[0]
    if path is None:
        remedy = f"let it finish: {resuming(run.folder)}"
        raise ArtefactError(f"{run.folder}: this run has no model and no checkpoint yet", remedy)
    network = _from_checkpoint(path)
    network.notes = [f"{run.folder} has not finished: using {network.notes[0]}"]
    return network


def _from_checkpoint(path: Path) -> Network:
    """The network of one of a run's checkpoints, built as the run built it."""
    names = RunNames(run_of(path))
    if not path.is_file():
        there = sorted(file.name for file in path.parent.glob("*.pth"))
        known = f"there are: {', '.join(there)}" if there else "name a run folder, or one of its checkpoints"
        raise UsageError(f"{path}: no such checkpoint{did_you_mean(path.name, there)}", known)
    if not names.run_json.is_file():
        remedy = "name one where it lies, in the checkpoints/ of its run; weights alone are for model.weights"
        raise UsageError(f"{path}: not a checkpoint in a run's folder", remedy)
    record = RunFolder.open(names.folder).record
    checkpoint = Checkpoints(path.parent).load(path)
    model = {**record.recipe["model"], **as_it_was(record, record.recipe["model"])}
    taken = {key: value for key, value in model.items() if key in inspect.signature(build).parameters}
    network = build(**taken | {"classes": record.classes, "load": False, "seed": record.recipe.get("seed", 0)})
    network.module.load_state_dict({**checkpoint["model_state_dict"], **(checkpoint.get("ema") or {})})
    position: dict[str, Any] = checkpoint.get("position", {})
    network.temperature = position.get("temperature", 1.0)
    network.auto_threshold = position.get("auto_threshold")
    network.loss = record.recipe["train"].get("loss") or network.loss
    epoch = f"epoch {checkpoint['epoch'] + 1} of {record.recipe['train'].get('epochs', '?')}"
    network.notes = [f"{'the best checkpoint so far' if path == names.best else path.name} ({epoch})"]
    network.source = str(path)
    return network


def _refuse(path: Path) -> None:
    """Say what is wrong with a RUN that is none."""
    if not path.exists():
        near = sorted(str(run.parent) for run in path.parent.glob(f"*/{RUN_JSON}")) if path.parent.is_dir() else []
        raise UsageError(f"{path}: no such run{did_you_mean(str(path), near)}", "name a run folder, or a model bundle")
    runs = sorted(file.parent.name for file in path.glob(f"*/{RUN_JSON}"))
    if runs:
        span = runs[0] if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
        raise UsageError(f"{path}: a folder of runs: {span}", f"name one of them, such as {path / runs[-1]}")
    remedy = "name a run folder, a checkpoint in it, or a folder with model.safetensors and model.json"
    raise UsageError(f"{path}: neither a model bundle nor a run folder", remedy)
