"""ONNX: `network.onnx` takes prepared pixels; `classifier.onnx` takes a picture and needs nothing besides."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from finetune.deliver.export.graph import OPSET, Graph, model
from finetune.deliver.export.picture import picture_graph
from finetune.errors import ArtefactError, ResourceError
from finetune.files import to_json
from finetune.model.network import Network

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31 - 1
"""Bytes of an ONNX file that holds its weights itself, as ours do: a limit of its format."""


def plain_module(network: Network) -> torch.nn.Module:
    """A copy of the network as PyTorch has it: fp32, on the CPU, contiguous, in eval mode, without gradients."""
    module = copy.deepcopy(network.module).float().cpu().to(memory_format=torch.contiguous_format)
    return module.eval().requires_grad_(False)


def network_onnx(network: Network, module: torch.nn.Module) -> tuple[onnx.ModelProto, str | None]:
    """The network as ONNX: `pixels` float32 [batch, C, H, W], already prepared, to `logits` float32 [batch, classes].

    Args:
        network: of which `module` is the plain copy.
        module: see `plain_module`.

    Returns:
        The model without its metadata, and a note where PyTorch's newer exporter failed and the older one did it.

    Raises:
        ArtefactError: neither exporter can express this network.
    """
    import onnx

    example = network.preprocess.example().contiguous()
    note = None
    with _quiet():
        try:
            model = _by_dynamo(module, example)
        except Exception as error:  # whatever a network does that the exporter does not know
            note = f"PyTorch's newer exporter failed ({_line(error)}); exported by the older one"
            try:
                model = _by_script(module, example)
            except Exception as second:  # the older one raises as many kinds; both are told
                problems = [f"{network.architecture}: cannot be exported to ONNX: {_line(e)}" for e in (error, second)]
                raise ArtefactError(problems, "export it with --to torch, or choose another backbone") from second
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model, note


def classifier_onnx(network: Network, exported: onnx.ModelProto) -> onnx.ModelProto:
    """The network and all that belongs to it: `image` uint8 [height, width, 3] to `probabilities` float32 [classes]."""
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [len(network.classes)])
    graphs = (picture_graph(network.preprocess), _answer_graph(network))
    return model(graphs, [image], [answer], metadata(network), exported)


def metadata(network: Network) -> dict[str, str]:
    """What travels inside the files: `classes` and `preprocess` as JSON, and what made the probabilities."""
    preprocess = {**network.preprocess.as_dict(), "mode": network.preprocess.mode}
    return {
        "classes": to_json(network.classes),
        "preprocess": to_json(preprocess),
        "loss": network.loss,
        "temperature": repr(network.temperature),
        "architecture": network.architecture,
    }


def serialised(found: onnx.ModelProto, extra: Mapping[str, str] | None = None) -> bytes:
    """The bytes of the file.

    Raises:
        ResourceError: more than the format can hold in one file.
    """
    import onnx

    if extra:
        onnx.helper.set_model_props(found, dict(extra))
    if found.ByteSize() > LARGEST:
        raise ResourceError("onnx: more than 2 GB, which a single ONNX file cannot hold", "export it with --to torch")
    return bytes(found.SerializeToString())


def _answer_graph(network: Network) -> Graph:
    """Nodes from `logits` [1, classes] to `probabilities` [classes]: `evaluate.metrics.probabilities`."""
    import numpy as np

    g = Graph("answer_")
    scores = g("Reshape", "logits", np.array([-1]))
    scores = g("Div", scores, np.float32(network.temperature))
    if network.loss == "bce":  # the normalised sigmoids are the softmax of the log-sigmoids
        scores = g("Neg", g("Softplus", g("Neg", scores)))
    g("Softmax", scores, axis=0, name="probabilities")
    return g


def _by_dynamo(module: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    if [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] != [OPSET]:
        raise ValueError(f"the exporter gave another opset than {OPSET}")
    return model


def _by_script(module: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    import onnx

    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (example,),
        buffer,  # type: ignore[arg-type]  # the older exporter writes into open files, too
        dynamo=False,
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamic_axes={"pixels": {0: "batch"}, "logits": {0: "batch"}},
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _strip(found: onnx.ModelProto) -> None:
    """Take out what the exporter tells of this machine: paths and lines of code, node by node."""
    for part in (found, found.graph, *found.graph.node, *found.graph.initializer, *found.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*found.graph.input, *found.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    found.producer_name, found.producer_version = "finetune", ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk; what it could not do is raised, and said then."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
