"""The model bundle: a folder with the weights and all that is needed to use them.

`model.safetensors` is the whole state dict in float32; its bytes depend on the weights alone. `model.json` holds the
format, architecture, options, classes in order, preprocessing, head, lineage, and the weights' sha256.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from finetune.errors import ArtefactError, UsageError, resuming
from finetune.files import read_json, sha256_file, write_atomic, write_json
from finetune.model.architectures import assemble
from finetune.model.bundle_files import DESCRIPTION, IN_RUN, WEIGHTS
from finetune.model.fitting import some
from finetune.model.lineage import Base, licence_of
from finetune.model.network import HeadSpec, Network
from finetune.model.weights import State, read_weights, tensors_sha256

FORMAT = 1
"""Version of model.json; a reader refuses what is newer than itself."""

_BROKEN = "the bundle is damaged: copy it again, or use another run"


@dataclass(frozen=True)
class Description:
    """The content of model.json; the weights are not read yet."""

    folder: Path
    architecture: str
    options: dict[str, Any]
    classes: list[str]
    in_chans: int
    preprocess: dict[str, Any]
    head: HeadSpec
    features: str
    loss: str
    sha256: str
    weights_sha256: str
    lineage: dict[str, Any]
    temperature: float
    threshold: float | None
    auto_threshold: float | None


def save_bundle(folder: Path, network: Network, lineage: Mapping[str, Any]) -> str:
    """Publish a network as a bundle: the weights first, then their description.

    Args:
        folder: made if absent; a bundle that is there is replaced.
        network: on any device and in any memory format.
        lineage: where it comes from, anything that JSON holds.

    Returns:
        The weights' `tensors_sha256`.

    Raises:
        ResourceError: it cannot be written.
    """
    state = plain_state(network.module.state_dict())
    content = save(state)
    write_atomic(folder / WEIGHTS, content)
    weights_sha256 = tensors_sha256(state)
    description = {
        "format": FORMAT,
        "architecture": network.architecture,
        "options": network.options,
        "classes": network.classes,
        "in_chans": network.in_chans,
        "preprocess": network.preprocess.as_dict(),
        "head": network.head_spec,
        "features": network.features,
        "loss": network.loss,
        "temperature": network.temperature,
        "threshold": network.threshold,
        "auto_threshold": network.auto_threshold,
        "weights": WEIGHTS,
        "sha256": hashlib.sha256(content).hexdigest(),
        "weights_sha256": weights_sha256,
        "lineage": {**lineage, **_origin(network)},
    }
    write_json(folder / DESCRIPTION, description)
    return weights_sha256


def _origin(network: Network) -> dict[str, Any]:
    """The base's chain, and the licence that follows from it."""
    if network.base is None:
        return {}
    return {"base": network.base.as_dict(), "licence": licence_of(network.base)}


def plain_state(state: Mapping[str, Tensor]) -> State:
    """The tensors as a bundle holds them: on the CPU, contiguous, floats as float32, none sharing memory."""
    return {
        name: (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).cpu().contiguous().clone()
        for name, tensor in state.items()
    }


def find_bundle(path: Path) -> Path:
    """The bundle that a model bundle folder or a run folder holds.

    Raises:
        UsageError: there is neither at `path`.
        ArtefactError: a run that has published no model yet.
    """
    for folder in (path, path / IN_RUN):
        if (folder / DESCRIPTION).is_file():
            return folder
    if (path / "recipe.yaml").is_file():
        raise ArtefactError(f"{path}: this run has no model yet", f"let it finish: {resuming(path)}")
    what = "neither a model bundle nor a run folder" if path.is_dir() else "no such folder"
    raise UsageError(f"{path}: {what}", "name a run folder, or a folder with model.safetensors and model.json")


def read_description(path: Path) -> Description:
    """Read the description of the bundle at `path` (a bundle or a run folder).

    Raises:
        UsageError, ArtefactError: see `find_bundle`; or model.json is broken or of a newer format.
    """
    folder = find_bundle(path)
    where = folder / DESCRIPTION
    try:
        value = read_json(where)
    except ArtefactError as error:
        raise ArtefactError(error.problems, _BROKEN) from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{where}: not the description of a model", _BROKEN)
    if not isinstance(value.get("format"), int) or value["format"] > FORMAT:
        raise ArtefactError(
            f"{where}: format {value.get('format')!r}; this version reads formats up to {FORMAT}",
            "install a newer version of finetune-toolkit",
        )
    problems = [f"{where}: {key}: missing or not {what}" for key, what in _problems(value)]
    if problems:
        raise ArtefactError(problems, _BROKEN)
    return Description(
        folder=folder,
        lineage=value.get("lineage") or {},
        temperature=float(value.get("temperature", 1.0)),  # a bundle of old has none
        threshold=value.get("threshold"),
        auto_threshold=value.get("auto_threshold"),
        features=value.get("features", "last"),
        **{key: value[key] for key in _KINDS},
    )


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "architecture": (str, "text"),
    "options": (dict, "a mapping"),
    "classes": (list, "a list of names"),
    "in_chans": (int, "a number"),
    "preprocess": (dict, "a mapping"),
    "head": ((str, dict), "a head"),
    "loss": (str, "text"),
    "sha256": (str, "text"),
    "weights_sha256": (str, "text"),
}


def _problems(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    problems = [(key, what) for key, (kind, what) in _KINDS.items() if not isinstance(value.get(key), kind)]
    classes = value.get("classes")
    if isinstance(classes, list):
        whole = classes and all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes)
        problems += [] if whole else [("classes", "a list of different names")]
    if not _is_number(temperature := value.get("temperature", 1.0)) or not 0 < temperature < math.inf:
        problems.append(("temperature", "a number above 0"))
    for key in ("threshold", "auto_threshold"):
        if (given := value.get(key)) is not None and not (_is_number(given) and 0 <= given <= 1):
            problems.append((key, "a number from 0 to 1"))
    if value.get("features", "last") not in ("last", "stages"):
        problems.append(("features", "last or stages"))
    return problems


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_state(description: Description) -> State:
    """The bundle's tensors, after its hash has been checked.

    Raises:
        ArtefactError: missing, or not the bytes that were published.
    """
    path = description.folder / WEIGHTS
    if not path.is_file():
        raise ArtefactError(f"{path}: missing", _BROKEN)
    if (found := sha256_file(path)) != description.sha256:
        raise ArtefactError(f"{path}: sha256 is {found}, {DESCRIPTION} says {description.sha256}", _BROKEN)
    return read_weights(path)


def load_bundle(folder: Path) -> Network:
    """The network of a bundle or run folder as it was saved, head included, in eval mode on the CPU.

    Raises:
        UsageError: no bundle there.
        ArtefactError: it is damaged, of a newer format, or does not fit what it says it is.
    """
    description = read_description(folder)
    state = read_state(description)
    where = description.folder / DESCRIPTION
    try:
        network = assemble(
            description.architecture,
            description.classes,
            options=description.options,
            preprocess=description.preprocess,
            in_chans=description.in_chans,
            head=description.head,
            features=description.features,
            proven=True,
            trained=True,
        )
    except UsageError as error:  # here the user has said nothing wrong: the artefact has
        raise ArtefactError([f"{where}: {problem}" for problem in error.problems], _BROKEN) from error
    own = {name: tensor.shape for name, tensor in network.module.state_dict().items()}
    given = {name: tensor.shape for name, tensor in state.items()}
    if unlike := [name for name in {**own, **given} if own.get(name) != given.get(name)]:
        raise ArtefactError(f"{description.folder / WEIGHTS}: not the weights of {where}: {some(unlike)}", _BROKEN)
    network.module.load_state_dict(state)
    network.loss, network.temperature = description.loss, description.temperature
    network.threshold, network.auto_threshold = description.threshold, description.auto_threshold
    network.base = Base.of(description.lineage.get("base"))
    network.source = f"{description.folder} (weights_sha256 {description.weights_sha256[:12]}…)"
    return network
