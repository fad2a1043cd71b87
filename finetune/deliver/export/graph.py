"""ONNX graphs written by hand: one call a node, constants where they are used."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import ResourceError

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Version of ONNX's operators in what is exported; ONNX Runtime reads it since 1.14."""

Value = str | int | float | np.ndarray | np.generic
"""The name of what a node gave, or a constant."""


def require_onnx() -> None:
    """Refuse early where the packages are not installed.

    Raises:
        ResourceError: with the command that installs them.
    """
    there = {
        "onnx": importlib.util.find_spec("onnx"),
        "onnxruntime": importlib.util.find_spec("onnxruntime"),
        "onnxscript": importlib.util.find_spec("onnxscript"),  # PyTorch's exporter needs it
    }
    if missing := [name for name, found in there.items() if found is None]:
        problem = f"export to ONNX needs packages that are not installed: {', '.join(missing)}"
        raise ResourceError(problem, "pip install 'finetune-toolkit[onnx]'")


class Graph:
    """Nodes in the order in which they are added.

    Args:
        prefix: of every name in it, so that graphs can be joined.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: Value, name: str | None = None, **attributes: Any) -> str:
        """Add a node.

        Args:
            operator: of ONNX.
            inputs: names, or constants: an int stands for int64, a float for float64.
            name: of what it gives; by default a new one.
            attributes: of the node.

        Returns:
            The name of what it gives.
        """
        import onnx

        given = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        name = name or f"{self.prefix}{len(self.nodes)}_{operator}"
        self.nodes.append(onnx.helper.make_node(operator, given, [name], name=f"node_{name}", **attributes))
        return name

    def cast(self, value: Value, kind: str) -> str:
        """The value as `kind`, a name of `onnx.TensorProto` such as FLOAT or DOUBLE."""
        import onnx

        return self("Cast", value, to=getattr(onnx.TensorProto, kind))

    def take(self, other: Graph) -> str:
        """Go on with another graph's nodes; returns the name of what the last of them gives."""
        self.nodes += other.nodes
        self.constants += other.constants
        return str(other.nodes[-1].output[0])

    def choose(self, condition: str, yes: Graph, no: Graph) -> str:
        """What the last node of one of two graphs gives, which see this graph's names; the other is not computed."""
        import onnx

        branches = {}
        for name, graph in (("then_branch", yes), ("else_branch", no)):
            last = onnx.helper.make_tensor_value_info(graph.nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
            branches[name] = onnx.helper.make_graph(graph.nodes, graph.prefix, [], [last], graph.constants)
        return self("If", condition, **branches)

    def _constant(self, value: int | float | np.ndarray | np.generic) -> str:
        import onnx

        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name


def model(
    graphs: Sequence[Graph],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    metadata: Mapping[str, str],
    network: onnx.ModelProto,
) -> onnx.ModelProto:
    """A network with graphs before and after it.

    Args:
        graphs: the one whose last node gives what the network takes, and the one that goes on from what it gives.
        inputs, outputs: of the whole.
        metadata: key → text, for whoever loads it.
        network: of version `OPSET`.

    Returns:
        One model, checked.
    """
    import onnx

    before, after = graphs
    graph = onnx.helper.make_graph(
        [*before.nodes, *network.graph.node, *after.nodes],
        "classifier",
        list(inputs),
        list(outputs),
        [*before.constants, *network.graph.initializer, *after.constants],
        value_info=list(network.graph.value_info),
    )
    whole = onnx.helper.make_model(
        graph,
        opset_imports=list(network.opset_import),
        ir_version=network.ir_version,
        functions=list(network.functions),
    )
    whole.producer_name = "finetune"
    onnx.helper.set_model_props(whole, dict(metadata))
    onnx.checker.check_model(whole, full_check=True)
    return whole
