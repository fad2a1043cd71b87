"""Published weights: from the caches of this machine, else from the network, verified either way."""

from __future__ import annotations

import hashlib
import http.client
import math
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import huggingface_hub
import huggingface_hub.constants
import torch

from finetune.errors import FROM_SCRATCH, ArtefactError, ResourceError, setting, settings
from finetune.files import cache_folder, sha256_file, write_atomic, write_text

OPEN_SECONDS = 20
"""Time for the name look-up, the connection and the first answer together."""

READ_SECONDS = 20
_BLOCK = 2**20
_HUB_NAMES = ("model.safetensors", "pytorch_model.bin")
_HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,64})\.")


def hub_weights(repo: str, filename: str | None = None, *, seconds: float = math.inf) -> Path:
    """A weights file of a Hugging Face repository.

    Looked for in the cache that timm and others share, then in our own, then fetched into our own.

    Args:
        repo: OWNER/NAME.
        filename: in the repository; by default its weights.
        seconds: after which a download is given up although something still comes.

    Raises:
        ResourceError: neither cached nor to be had over the network.
        ArtefactError: the cached file is damaged.
    """
    cached = cached_hub_weights(repo, filename)
    if cached is not None:
        return _verified(*cached)
    name = filename or _HUB_NAMES[0]
    return _fetch(huggingface_hub.hf_hub_url(repo, name), _own(repo, name), repo, seconds=seconds)


def cached_hub_weights(repo: str, filename: str | None = None) -> tuple[Path, str] | None:
    """The weights file of a repository if it is on this machine, with the sha256 it should have ("" if unknown)."""
    names = (filename,) if filename else _HUB_NAMES
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repo, name)
        if isinstance(cached, str) and Path(cached).is_file():
            blob = Path(cached).resolve().name  # large files lie under their sha256
            return Path(cached), blob if re.fullmatch(r"[0-9a-f]{64}", blob) else ""
    for path in (_own(repo, name) for name in names):
        if _sidecar(path).is_file() and path.is_file():
            return path, _sidecar(path).read_text().strip()
    return None


def hub_answers(seconds: float) -> bool:
    """Whether the model hub gives any answer within so many seconds."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        _open(huggingface_hub.constants.ENDPOINT, "the model hub", seconds).close()
    except ResourceError:
        return False
    return True


def _own(repo: str, name: str) -> Path:
    return cache_folder() / "weights" / repo.replace("/", "--") / name


def url_weights(url: str) -> Path:
    """A weights file by its address, from torch.hub's cache, then our own, then fetched into our own.

    Torch's convention holds: the hexadecimal digits at the end of the name are the start of the file's sha256.

    Raises:
        ResourceError: neither cached nor to be had over the network.
        ArtefactError: the cached file is damaged.
    """
    name = url.rpartition("/")[2]
    expected = match.group(1) if (match := _HASH_IN_NAME.search(name)) else ""
    own = cache_folder() / "weights" / name
    for path in (Path(torch.hub.get_dir()) / "checkpoints" / name, own):
        if path.is_file():
            return _verified(path, expected)
    return _fetch(url, own, name, expected)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _verified(path: Path, expected: str) -> Path:
    if expected and not (digest := sha256_file(path)).startswith(expected):
        raise ArtefactError(
            f"{path}: damaged: its sha256 is {digest}, expected {expected}…",
            "delete the file; the next run fetches it anew",
        )
    return path


# --- over the network ------------------------------------------------------------------------------------------------


def _fetch(url: str, path: Path, what: str, expected: str = "", seconds: float = math.inf) -> Path:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unreachable(what, url, "HF_HUB_OFFLINE is set")
    end = time.monotonic() + seconds
    response = _open(url, what, min(seconds, OPEN_SECONDS))
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        for block in _blocks(response, what, url):
            if time.monotonic() > end:
                raise _unreachable(what, url, f"not whole after {seconds:g} s")
            digest.update(block)
            file.write(block)
        if not digest.hexdigest().startswith(expected):
            raise _unreachable(what, url, "what arrived has another sha256 than expected")

    with response:
        write_atomic(path, write)
    # after the file, and what `cached_hub_weights` asks for: a kill in between costs a download and nothing else
    write_text(_sidecar(path), digest.hexdigest() + "\n")
    return path


def _open(url: str, what: str, seconds: float) -> Any:
    """The answer to a request, or an error within `seconds`.

    In a thread, because the time limit of a socket counts for each address of a name anew and not for the look-up.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=READ_SECONDS))
        except Exception as error:  # handed over to the caller, who tells network errors from others
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # a daemon: one that hangs does not keep the program alive
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise _unreachable(what, url, f"no answer in {seconds:g} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
    if isinstance(answer, (OSError, http.client.HTTPException)):
        raise _unreachable(what, url, getattr(answer, "reason", answer)) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _blocks(response: Any, what: str, url: str) -> Iterator[bytes]:
    expected, received = response.headers.get("Content-Length"), 0
    try:
        while block := response.read1(_BLOCK):  # what has come so far; `read` would wait for a whole block
            received += len(block)
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(what, url, error) from error
    if expected is not None and int(expected) != received:
        raise _unreachable(what, url, f"the connection ended after {received:,} of {int(expected):,} bytes")


def _unreachable(what: str, url: str, reason: object) -> ResourceError:
    return ResourceError(
        f"model.weights: the published weights of {what} are not in the local cache and cannot be fetched from {url}: "
        f"{reason}",
        "fetch them once on a machine with network and copy its cache folder, or name what you have "
        f"({setting('model.weights', 'FILE.safetensors')}, or {setting('model.backbone', 'CARD.yaml')}), or take the "
        f"small network that comes with this tool ({setting('model.backbone', 'models/small-resnet')}), or train from "
        f"scratch ({settings(FROM_SCRATCH)})",
    )
