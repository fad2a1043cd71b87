"""Checkpoints: one file each that plain PyTorch opens safely, with a manifest that says whether it is whole.

A manifest is published before its checkpoint, so no checkpoint is ever without one. Where `best.pth` is replaced, the
new manifest also holds the previous one's hash: whichever file a crash leaves behind is known.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ArtefactError, DivergedError, called
from finetune.files import TEMPORARY, fsync_folder, read_json, sha256_file, write_json, written
from finetune.model.weights import read_pickle
from finetune.runs.names import BEST

FORMAT = 1
NAME = re.compile(r"epoch-(\d{4,})-step-(\d{7,})\.pth")


@dataclass(frozen=True)
class Broken:
    """A checkpoint that is not to be used, and why."""

    path: Path
    reason: str


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many of the newest are kept (besides `best.pth`).
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = max(1, keep)
        self.warnings: list[str] = []
        self._known: dict[Path, tuple[int, int]] = {}

    @property
    def best(self) -> Path:
        """The path of the best checkpoint, whether or not it exists yet."""
        return self.folder / BEST

    def save(self, checkpoint: Mapping[str, Any], *, best: bool = False, numbered: bool = True) -> Path:
        """Publish a checkpoint (a dict with `epoch` and `step`), then drop what is too old.

        Args:
            checkpoint: of this moment.
            best: under the name of the best one.
            numbered: under a name of its own, which says its epoch and step.

        Returns:
            The path of the numbered one, else of the best.

        Raises:
            ResourceError: it could not be written; what was there before is whole.
            DivergedError: it holds a weight that is not finite.
        """
        _require_finite(checkpoint)
        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        content = buffer.getbuffer()
        moment = {key: checkpoint[key] for key in ("epoch", "step")}
        name = f"epoch-{checkpoint['epoch']:04d}-step-{checkpoint['step']:07d}.pth"
        paths = [self.best] * best + [self.folder / name] * numbered
        with ThreadPoolExecutor(1) as beside:  # hashing and writing each take long, and wait for different things
            sha256 = beside.submit(lambda: hashlib.sha256(content).hexdigest())
            for path in paths:
                # inside, the file is on disk under a temporary name: its manifest is published before its own name is
                with written(path, content, forget=True):
                    self._announce(path, {"format": FORMAT, **moment, "bytes": len(content), "sha256": sha256.result()})
                self._known[path] = _stamp(path)
        if numbered:
            self._retain(checkpoint["step"])
        return paths[-1]

    def _announce(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Publish the manifest; where it replaces one, it also says what `path` holds until it is replaced too."""
        previous = {}
        if path.exists():
            with contextlib.suppress(ArtefactError):
                old = read_json(path.with_suffix(".json"))
                sha256 = old["sha256"] if self._known.get(path) == _stamp(path) else _whole_hash(path, old)
                previous = {"previous": {"bytes": path.stat().st_size, "sha256": sha256}}
        write_json(path.with_suffix(".json"), {**manifest, **previous})

    def newest(self) -> tuple[Path | None, list[Broken]]:
        """The whole checkpoint with the highest step (`best.pth` if no other is), and the broken ones above it."""
        broken: list[Broken] = []
        for path in [*self.listed(), *([self.best] if self.best.exists() else [])]:
            reason = self.reason_broken(path)
            if reason is None:
                return path, broken
            broken.append(Broken(path, reason))
        return None, broken

    def latest(self, say: Callable[[str], None], path: str | Path | None = None) -> dict[str, Any] | None:
        """The checkpoint to go on from: the one in `path`, else the newest whole one; None if the run has none yet.

        Args:
            say: told of broken ones that are passed over.
            path: of the one to take.

        Raises:
            ArtefactError: `path` is not whole, or none of several is; all are listed with the reason.
        """
        if path is not None:
            return self.load(Path(path))
        self.tidy()
        newest, broken = self.newest()
        for item in broken:
            self.warnings.append(f"{item.path}: {item.reason}; not used")
            say(f"warning: {self.warnings[-1]}")
        if newest is not None:
            return self.load(newest)
        if broken:
            raise ArtefactError(
                [f"{item.path}: {item.reason}" for item in broken],
                "no whole checkpoint is left, and nothing was deleted: start a new run",
            )
        return None

    def listed(self) -> list[Path]:
        """All published names but `best.pth`, highest step first."""
        found = [(path, NAME.fullmatch(path.name)) for path in self.folder.glob("epoch-*.pth")]
        known = [(int(m[2]), int(m[1]), path) for path, m in found if m]
        return [path for _, _, path in sorted(known, reverse=True)]

    def reason_broken(self, path: Path) -> str | None:
        """Why `path` is not whole, or None if it is."""
        try:
            manifest = read_json(path.with_suffix(".json"))
        except ArtefactError:
            return "its manifest is missing or not readable"
        if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
            return "its manifest is not one of ours"
        if manifest["format"] > FORMAT:
            return f"it was written by a newer version (format {manifest['format']}, this one reads up to {FORMAT})"
        try:
            _whole_hash(path, manifest)
        except (ArtefactError, OSError) as error:
            return str(error)
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """The checkpoint in `path`, verified; nothing in it is executed.

        Raises:
            ArtefactError: it is not whole, or not a checkpoint.
        """
        if not path.is_file():
            raise ArtefactError(f"{path}: no such checkpoint", f"name one of those in {self.folder}")
        if reason := self.reason_broken(path):
            raise ArtefactError(
                f"{path}: {reason}",
                f"resume without {called('--from', 'checkpoint=')} to use the newest whole checkpoint",
            )
        checkpoint: dict[str, Any] = read_pickle(path)
        missing = {"epoch", "step", "model_state_dict", "optimizer_state_dict", "loss"} - set(checkpoint)
        if missing:
            raise ArtefactError(f"{path}: not a checkpoint of a run: it lacks {sorted(missing)}")
        return checkpoint

    def _is_whole(self, path: Path) -> bool:
        """Whether `path` is whole; it is read only if this process has not written or read it yet."""
        with contextlib.suppress(OSError):
            stamp = _stamp(path)
            if self._known.get(path) == stamp:
                return True
            if self.reason_broken(path) is None:
                self._known[path] = stamp
                return True
        return False

    def has_best(self, best: Mapping[str, Any], step: int, unchanged: bool) -> bool:
        """Whether `best.pth` is whole and holds the weights of the best epoch.

        Args:
            best: what is known of that epoch.
            step: where the run stands.
            unchanged: one of a later moment will do, as the run comes there again.
        """
        if self.reason_broken(self.best):
            return False
        saved = self.load(self.best)["position"]
        return bool(saved["best"] == best or (unchanged and saved["step"] > step))

    def best_weights(self) -> dict[str, torch.Tensor]:
        """The weights of the best epoch: the averaged ones where the run averages."""
        checkpoint = self.load(self.best)
        return {**checkpoint["model_state_dict"], **(checkpoint["ema"] or {})}

    def tidy(self) -> None:
        """Remove what a killed process left half-written."""
        for path in [*self.folder.glob(f".*{TEMPORARY}"), *self._orphans()]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _orphans(self) -> list[Path]:
        # a kill between the manifest and the name of its checkpoint leaves a manifest alone
        return [path for path in self.folder.glob("*.json") if not path.with_suffix(".pth").exists()]

    def _retain(self, step: int) -> None:
        """Drop what is older than the newest `keep`, and what lies beyond `step`: from there the run is gone over anew.

        What is not whole counts for nothing and is left alone.
        """
        whole = [path for path in self.listed() if self._is_whole(path)]
        # after --from an earlier checkpoint the run goes over those steps anew: the later files belong to the old way
        beyond = [path for path in whole if _step(path) > step]
        for path in [*beyond, *whole[len(beyond) + self.keep :]]:
            try:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
            except OSError as error:
                self.warnings.append(f"{path}: an old checkpoint could not be deleted: {error.strerror}")
        with contextlib.suppress(OSError):
            fsync_folder(self.folder)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[2])


def _stamp(path: Path) -> tuple[int, int]:
    """A stamp that changes whenever the file does: size and time."""
    stats = path.stat()
    return stats.st_size, stats.st_mtime_ns


def _whole_hash(path: Path, manifest: Mapping[str, Any]) -> str:
    """The sha256 of `path`, which must be one that the manifest names."""
    size = os.stat(path).st_size
    named = [entry for entry in (manifest, manifest.get("previous")) if isinstance(entry, dict)]
    if size not in [entry.get("bytes") for entry in named]:
        raise ArtefactError(f"it has {size} bytes, its manifest says {manifest.get('bytes')}")
    digest = sha256_file(path)
    if digest not in [entry.get("sha256") for entry in named]:
        raise ArtefactError("its content does not have the hash that its manifest says")
    return digest


def _require_finite(checkpoint: Mapping[str, Any]) -> None:
    state = checkpoint["model_state_dict"].items()
    floats = {name: value.float() for name, value in state if value.is_floating_point() and value.numel()}
    # the largest absolute value of each tensor, all in one call: not finite if any value is not
    for name, norm in zip(floats, torch._foreach_norm(list(floats.values()), math.inf), strict=True):
        if not math.isfinite(norm):
            groups = checkpoint.get("optimizer_state_dict", {}).get("param_groups", [])
            rate = max((float(group["lr"]) for group in groups), default=float("nan"))
            raise DivergedError(
                f"train.lr: {name} is not finite after step {checkpoint['step']}, lr {rate:.3g}, so it was not saved",
                "lower train.lr, or set train.clip_norm: 1; what was saved before is whole",
            )
