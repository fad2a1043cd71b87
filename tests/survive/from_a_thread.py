"""E07: the import API in a thread, with good and bad input; run as a script of its own in a job's folder."""

from __future__ import annotations

import random
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

import finetune as ft
from finetune.errors import ArtefactError, DataError, UsageError


def globals_of_others() -> dict[str, Any]:
    """What belongs to the process and not to us."""
    return {
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXFSZ)],
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # the global state is what is compared
        "python": random.getstate(),
        "warnings": len(warnings.filters),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
    }


def work(found: list[str]) -> None:
    """Train, go on, load, predict; then everything that must be refused."""
    try:
        out = ft.run("job.yaml", out="api")
        ft.resume(out)
        ft.load(out).predict("images/ant/000.jpg")
        data = ft.ImageFolder("images").split(val=0.25, test=0.25)
        ft.Classifier("timm/test_resnet", classes=data.classes, weights="none", preprocess={"size": 32}).fit(
            data, epochs=1
        )
        refusals: list[tuple[Any, type[Exception]]] = [
            (lambda: ft.run("absent.yaml"), UsageError),
            (lambda: ft.run("job.yaml", overrides=["data.folder=absent"], out="x"), DataError),
            (lambda: ft.run("job.yaml", overrides=["model.weights=absent.pth"], out="y"), ArtefactError),
            (lambda: ft.resume("absent"), UsageError),
            (lambda: ft.ImageFolder("absent"), DataError),
            (lambda: ft.Classifier("timm/absent", classes=["a", "b"]), UsageError),
            (lambda: ft.load("absent"), UsageError),
        ]
        for number, (call, kind) in enumerate(refusals):
            try:
                call()
            except ft.FinetuneError as error:
                found.append("" if isinstance(error, kind) else f"refusal {number} is a {type(error).__name__}")
            else:
                found.append(f"refusal {number} did not come")
    except BaseException as error:  # SystemExit would be one of ours
        found.append(repr(error))


if __name__ == "__main__":
    import finetune.story.run  # what importing alone sets is not of a call

    before, found = globals_of_others(), list[str]()
    thread = threading.Thread(target=work, args=(found,))
    thread.start()
    thread.join()
    after = globals_of_others()
    wrong = [text for text in found if text] + [name for name in before if before[name] != after[name]]
    print(f"{len(found)} refusals typed, no global changed" if not wrong else f"wrong: {wrong}")
    sys.exit(bool(wrong))
