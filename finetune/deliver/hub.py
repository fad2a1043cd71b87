"""Pushing a model to the Hugging Face hub: its bundle, its card and its exports, in one commit.

A repository holds one model: exports that it had of another are taken away in the same commit, everything else that
lies there is left alone, and a repository with something else than a bundle of ours is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import finetune
from finetune.deliver.export.publish import FORMATS, RECORD
from finetune.errors import ArtefactError, UsageError
from finetune.files import read_json, sha256_file
from finetune.model.bundle import Description, read_description
from finetune.model.bundle_files import CARD, DESCRIPTION, IN_RUN, WEIGHTS
from finetune.model.hub import MAIN, Repository, hub_errors, local_path, quiet, require_hub, require_token
from finetune.runs.names import RunNames

EXPORTS = "export/"
"""Where exports lie in a repository, as in a run."""

_OFFLINE = "push where there is a network, and with no HF_HUB_OFFLINE"


@dataclass(frozen=True)
class Pushed:
    """The result of a push: repository, commit and files.

    Attributes:
        repository: on the hub.
        url: its page.
        commit: its hash.
        files: path in the repository → the file here.
        removed: paths of earlier exports that were taken away.
    """

    repository: Repository
    url: str
    commit: str
    files: Mapping[str, Path]
    removed: list[str]


def push(run: Path, repo: str, *, private: bool = False) -> Pushed:
    """Put the model of a run or bundle, with its card and its exports, on the hub.

    Args:
        run: a run folder that has a model, or a bundle.
        repo: OWNER/NAME; made if it is not there.
        private: of a repository that is made: only its owner sees it.

    Raises:
        UsageError: no such run, no name of a repository, or one that holds something else.
        ArtefactError: a run without a model, or files that are not what was published.
        ResourceError: no network, no token or one that may not write there, a package that is missing.
    """
    repository = Repository.of(repo)
    if repository.revision != MAIN:
        raise UsageError(f"{repo}: a push makes a commit of its own", f"leave out the @{repository.revision}")
    files = files_of(local_path(run))
    hub = require_hub()
    require_token()
    api = hub.HfApi(library_name="finetune-toolkit", library_version=finetune.__version__)
    with hub_errors(str(repository), _OFFLINE), quiet(hub):
        parent, there = _state(api, hub, repository, private)
        _require_ours(repository, there)
        removed = sorted(path for path in there if path.startswith(EXPORTS) and path not in files)
        changes = [hub.CommitOperationAdd(name, str(path)) for name, path in files.items()]
        changes += [hub.CommitOperationDelete(path) for path in removed]
        message = f"Model of finetune {finetune.__version__}"
        done = api.create_commit(repository.id, changes, commit_message=message, parent_commit=parent)
    return Pushed(repository, f"{api.endpoint}/{repository.id}", done.oid, files, removed)


def files_of(run: Path) -> dict[str, Path]:
    """The files to push: path in the repository → local file, all checked against their hashes.

    Raises:
        UsageError, ArtefactError: as for `push`.
    """
    bundle = read_description(run)
    weights = bundle.folder / WEIGHTS
    _require_whole(weights, bundle.sha256)
    files = {DESCRIPTION: bundle.folder / DESCRIPTION, WEIGHTS: weights}
    if (card := bundle.folder / CARD).is_file():
        files[CARD] = card
    home = run if bundle.folder.name == IN_RUN and bundle.folder != run else bundle.folder
    for name in FORMATS:
        folder = RunNames(home).export / name
        if (folder / RECORD).is_file():
            files |= {f"{EXPORTS}{name}/{part}": path for part, path in _exported(folder, bundle).items()}
    return files


def _exported(folder: Path, bundle: Description) -> dict[str, Path]:
    """The files of an export, which must be whole and of this network."""
    record: Any = read_json(folder / RECORD)
    listed = record.get("files") if isinstance(record, dict) else None
    if not isinstance(listed, dict) or record.get("weights_sha256") != bundle.weights_sha256:
        remedy = "export again (finetune export RUN), or remove the folder"
        raise ArtefactError(f"{folder}: not an export of the network that is pushed", remedy)
    for name, file in listed.items():
        if Path(name).name != name:
            raise ArtefactError(f"{folder / RECORD}: {name!r} is no name of a file", "export again")
        _require_whole(folder / name, file.get("sha256"))
    return {name: folder / name for name in (*listed, RECORD)}


def _require_whole(file: Path, sha256: object) -> None:
    if not file.is_file() or sha256_file(file) != sha256:
        raise ArtefactError(
            f"{file}: not the file that was published", "`finetune verify` tells what of a run is whole"
        )


def _state(api: Any, hub: Any, repository: Repository, private: bool) -> tuple[str | None, list[str]]:
    """The newest commit of a repository and the paths in it; it is made if it is not there."""
    try:
        info = api.model_info(repository.id)
    except hub.errors.RepositoryNotFoundError:
        api.create_repo(repository.id, private=private, exist_ok=True)
        info = api.model_info(repository.id)
    return info.sha, [file.rfilename for file in info.siblings or []]


def _require_ours(repository: Repository, there: list[str]) -> None:
    strange = sorted(set(there) - {".gitattributes", CARD})
    if strange and DESCRIPTION not in there:
        shown = ", ".join(strange[:3]) + (", …" if len(strange) > 3 else "")
        raise UsageError(f"{repository}: holds something else than a model of finetune's: {shown}", "name another")
