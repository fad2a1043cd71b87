"""Running what was exported: ONNX Runtime's sessions and PyTorch's modules as functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from finetune.deliver.export.latency import Runner

if TYPE_CHECKING:
    import onnxruntime

Module = Callable[[torch.Tensor], torch.Tensor]


def session(content: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the CPU, with so many threads, that reports only errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnx_answer(found: onnxruntime.InferenceSession) -> Callable[[np.ndarray], np.ndarray]:
    """A session with one input and one output as a function."""
    name = found.get_inputs()[0].name

    def run(value: np.ndarray) -> np.ndarray:
        answer: np.ndarray = found.run(None, {name: value})[0]
        return answer

    return run


def torch_answer(module: Module) -> Callable[[np.ndarray], np.ndarray]:
    """A module as a function of pixels, float32 [N, C, H, W], to logits."""

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return answer

    return run


def onnx_runner(content: bytes) -> Runner:
    """For measuring."""
    return lambda threads: onnx_answer(session(content, threads))


def torch_runner(module: Module) -> Runner:
    """For measuring; sets PyTorch's threads before each call, which costs some microseconds."""

    def make(threads: int) -> Callable[[np.ndarray], object]:
        run = torch_answer(module)

        def once(pixels: np.ndarray) -> object:
            torch.set_num_threads(threads)
            return run(pixels)

        return once

    return make
