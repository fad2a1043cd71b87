"""A `torch.export` program: the network as a graph that PyTorch runs without its Python code."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import torch
from torch import nn

from finetune.errors import ArtefactError
from finetune.files import to_json
from finetune.model.network import Network

PROGRAM = "network.pt2"


def torch_program(network: Network, module: nn.Module) -> bytes:
    """The program's file: prepared pixels float32 [batch, C, H, W] to logits; classes and preprocessing are in it.

    Raises:
        ArtefactError: PyTorch cannot trace this network.
    """
    example = network.preprocess.example().contiguous()
    batch = torch.export.Dim("batch", min=1)
    extra = {"classes.json": to_json(network.classes), "preprocess.json": to_json(network.preprocess.as_dict())}
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, buffer, extra_files=extra)
    except Exception as error:  # whatever a network does that cannot be traced
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ArtefactError(
            f"{network.architecture}: torch.export cannot trace it: {line}", "export it with --to onnx"
        ) from error
    return buffer.getvalue()


def load_program(content: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    """A program that was just written, ready to run.

    Only for our own: PyTorch's reader of these files trusts them, so one from elsewhere could run code.
    """
    with warnings.catch_warnings(action="ignore"):
        module: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(io.BytesIO(content)).module()
    return module
