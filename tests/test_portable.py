"""Nothing needs a function that only Linux has: with all of them hidden, a run and its predictions work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.makers import class_folders

ELSEWHERE = """
import builtins, ctypes, io, os, sys

hidden = []
for name in ("sched_getaffinity", "sched_setaffinity", "O_DIRECT", "posix_fadvise", "posix_fallocate", "memfd_create"):
    if hasattr(os, name):
        delattr(os, name)
        hidden.append(name)
asked = []


def without_proc(function):
    def opened(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc/"):
            asked.append(os.fspath(path))
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)

    return opened


class Library:
    def __init__(self, name=None, *args, **kwargs):
        self._real = None if name is None else real(name, *args, **kwargs)

    def __getattr__(self, name):
        if self._real is None:
            asked.append(name)
            raise AttributeError(name)
        return getattr(self._real, name)


from finetune.cli.main import main

real, ctypes.CDLL = ctypes.CDLL, Library
from finetune.cli.process import keep_large_buffers
keep_large_buffers()
ctypes.CDLL = real
builtins.open = io.open = without_proc(builtins.open)
os.open = without_proc(os.open)
from finetune.device import free_memory
assert free_memory() > 0
from finetune.story.run import run
import finetune as ft

out = run(RECIPE, out=OUT)
found = ft.load(out.path).predict([PICTURE] * 3)
assert len(found) == 3 and all(one.label for one in found)
print(sorted(hidden), sorted({name for name in asked if name in ("mallopt", "/proc/meminfo")}))
"""


def test_without_what_only_linux_has(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "images", {"a": 8, "b": 8})
    recipe = {
        "data": {"folder": str(root), "split": {"val": 0.25, "test": 0.25}},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu"},
    }
    picture = str(next(root.rglob("*.jpg")))
    given = f"RECIPE, OUT, PICTURE = {json.loads(json.dumps(recipe))!r}, {str(tmp_path / 'run')!r}, {picture!r}\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC", "MALLOC"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", given + ELSEWHERE],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    hidden, asked = done.stdout.strip().splitlines()[-1].split("] ")
    assert "sched_getaffinity" in hidden or not sys.platform.startswith("linux")
    assert "/proc/meminfo" in asked
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
