"""Models on the Hugging Face hub: `hf://OWNER/NAME`, and `hf://OWNER/NAME@REVISION` for a branch, a tag or a commit.

Of such a repository three files are read and no other: the bundle's description, its weights in safetensors, and its
card. They lie in our cache folder, as the hub's own library keeps them; without a network, what lies there is used.
Whoever reads the bundle checks the weights against the hash in its description, as for any other bundle.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ResourceError, UsageError, from_os_error
from finetune.files import cache_folder, visible

MAIN = "main"
_SCHEME = re.compile(r"hf:(/+|$)")  # a pathlib.Path makes one slash of two
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        owner: a user or an organisation.
        name: of the repository.
        revision: a branch, a tag or a commit.
    """

    owner: str
    name: str
    revision: str = MAIN

    @property
    def id(self) -> str:
        """OWNER/NAME."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        """As it is written where a RUN or a backbone is asked for."""
        return f"hf://{self.id}" + ("" if self.revision == MAIN else f"@{self.revision}")

    @classmethod
    def of(cls, text: str) -> Repository:
        """Read OWNER/NAME, with or without `hf://` before it and `@REVISION` after it.

        Raises:
            UsageError: it is no name that the hub takes.
        """
        plain, at, revision = _SCHEME.sub("", text, count=1).partition("@")
        owner, _, name = plain.partition("/")
        problem = None
        if not all(map(_NAME.fullmatch, (owner, name))) or re.search(r"--|\.\.", plain) or name.endswith(".git"):
            problem = "is no OWNER/NAME of a repository: letters, digits and single - . _ between them"
        elif len(plain) > 96:
            problem = f"has {len(plain)} characters; the hub takes 96"
        elif at and not re.fullmatch(r"[\w][\w./-]*", revision, re.ASCII):
            problem = f"names no branch, tag or commit after the @: {revision!r}"
        if problem:
            raise UsageError(f"{visible(text)}: {visible(problem)}", "write it as in hf://ada/vehicles")
        return cls(owner, name, revision or MAIN)


def on_hub(path: str | os.PathLike[str]) -> Repository | None:
    """The repository that a path names, or None where it is an ordinary path.

    Raises:
        UsageError: it begins with `hf:/` and goes on with no name of a repository.
    """
    text = os.fspath(path)
    return Repository.of(text) if _SCHEME.match(text) else None


def shown(path: Path) -> str:
    """A RUN as it was written."""
    return str(on_hub(path) or path)


def local_path(path: Path, *, fetch: bool = True) -> Path:
    """The path of a RUN on this machine: the bundle's folder in the cache if it is on the hub, else the path itself.

    Args:
        path: of a run or bundle, or `hf://OWNER/NAME`.
        fetch: False where it has been fetched just now: the hub is not asked again, so that all of one command comes
            from one commit.

    Raises:
        UsageError: no such repository, or one without a bundle.
        ResourceError: it is neither in the cache nor to be had, or a package is missing.
    """
    repository = on_hub(path)
    if repository is None:
        return path
    hub = require_hub()
    from finetune.model.bundle_files import CARD, DESCRIPTION, WEIGHTS

    cache = str(cache_folder() / "hub")
    if not fetch:
        kept = hub.try_to_load_from_cache(repository.id, DESCRIPTION, cache_dir=cache, revision=repository.revision)
        if isinstance(kept, str):
            return Path(kept).parent

    def get(name: str, revision: str) -> Path:
        return Path(hub.hf_hub_download(repository.id, name, revision=revision, cache_dir=cache))

    with hub_errors(str(repository), "have it in the cache folder, or a network and no HF_HUB_OFFLINE"), quiet(hub):
        folder = get(DESCRIPTION, repository.revision).parent
        get(WEIGHTS, folder.name)  # a snapshot's folder is named after its commit
        with contextlib.suppress(hub.errors.EntryNotFoundError):
            get(CARD, folder.name)
    return folder


def require_hub() -> Any:
    """The package `huggingface_hub`.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ResourceError(
            f"the hub needs {error.name}, which is not installed", "install it: pip install 'finetune-toolkit[hub]'"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def hub_errors(repository: str, offline: str) -> Iterator[None]:
    """Turn what the hub's library raises into errors that say what to do.

    Args:
        repository: about which it is asked.
        offline: what to do where the hub cannot be reached.
    """
    errors = require_hub().errors
    try:
        yield
    # A ValueError is an answer that is no JSON, a RuntimeError a file that could not be sent, with the reason as cause.
    except (OSError, ValueError, RuntimeError, *errors.HfHubHTTPError.__bases__) as error:
        if isinstance(error, OSError) and error.errno:
            raise from_os_error(error, error.filename or cache_folder()) from error
        wraps = isinstance(error, errors.LocalEntryNotFoundError | RuntimeError)
        cause = error.__cause__ if wraps else None
        raise _hub_error(repository, cause or error, offline) from error


def _hub_error(repository: str, error: BaseException, offline: str) -> UsageError | ResourceError:
    errors = require_hub().errors
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repository}: there is no such branch, tag or commit", "correct what follows the @")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        remedy = "name a model that `finetune push` has put there; published networks of timm are timm/NAME"
        return UsageError(f"{repository}: not a model bundle: model.json or the weights are missing", remedy)
    if status == 404:
        return UsageError(f"{repository}: there is no such repository", "correct the name")
    if status in (401, 403):
        return ResourceError(
            f"{repository}: no such repository, or this token (or none) gives no right to it [{status}]",
            f"correct the name, or {_LOG_IN}",
        )
    reason = visible(str(error).strip().partition("\n")[0]) or type(error).__name__
    return ResourceError(f"{repository}: the hub cannot be used: {reason}", offline)


def require_token() -> None:
    """Refuse early what needs a token.

    Raises:
        ResourceError: there is none.
    """
    if not require_hub().get_token():
        raise ResourceError("no token of the hub, without which nothing can be pushed", _LOG_IN)


@contextlib.contextmanager
def quiet(hub: Any) -> Iterator[None]:
    """No progress bars where nobody watches."""
    quiet = not sys.stderr.isatty() and not hub.utils.are_progress_bars_disabled()
    if quiet:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            hub.utils.enable_progress_bars()
