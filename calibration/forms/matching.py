"""Find blocks of a graph by a pattern, and write others in their place.

Patterns are functions in the style of onnxscript's rewriter, whose matcher finds them; `Writer` writes the new nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import Pattern

WIDE = (
    "hemf.float32"  # key in a node's metadata: it computes in float32 within a kernel with float16 inputs and outputs
)

Array = NDArray[np.generic]
_ALIGNMENT, _LEAST = 8, 16  # head channels for which TensorRT-RTX fuses an attention
MAPS_TO_PIXELS, PIXELS_TO_MAPS = (0, 2, 3, 1), (0, 3, 1, 2)  # (N, C, H, W) to (N, H, W, C), and back


@dataclass(frozen=True)
class Match:
    """Match of a pattern in a graph.

    Args:
        root: node that computes the pattern's output.
        values: matched values by the names of the pattern's parameters.
    """

    root: ir.Node
    values: dict[str, ir.Value]

    def array(self, name: str) -> Array | None:
        """Return the constant matched by a parameter; None if it isn't constant."""
        return constant(self.values.get(name))

    def arrays(self, *names: str) -> list[Array] | None:
        """Return the constants matched by several parameters; None if one isn't constant."""
        arrays = [self.array(name) for name in names]
        return None if any(array is None for array in arrays) else [array for array in arrays if array is not None]


def find(model: ir.Model, pattern: Callable[..., Any]) -> Iterator[Match]:
    """Yield all matches of `pattern` whose inner values nothing else reads, in the main graph, in graph order."""
    matcher = Pattern(pattern)
    for node in list(model.graph):
        match = matcher.match(model, model.graph, node, verbose=0)
        if match:
            values = {name: value for name, value in match.bindings.items() if isinstance(value, ir.Value)}
            if all(_is_plain(each) for each in match.nodes):
                yield Match(node, values)


def _is_plain(node: ir.Node) -> bool:
    """Return whether a Gemm has default attributes except transB: patterns ignore attributes that they don't name."""
    return node.op_type != "Gemm" or (
        attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1 and not attribute(node, "transA", 0)
    )


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer; None for any other value."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def scope(node: ir.Node) -> str:
    """Return the module in a node's name: `fusion_stages.0.mlp/gelu_4` → `fusion_stages.0.mlp`."""
    return (node.name or node.op_type).rsplit("/", 1)[0]


def aligned(channels: int) -> int:
    """Round up the channels of a head to a number for which its attention is fused."""
    return max(_LEAST, -(-channels // _ALIGNMENT) * _ALIGNMENT)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return an attribute's value, or `default`."""
    entry = node.attributes.get(name)
    return default if entry is None else entry.value


def order(node: ir.Node | None) -> tuple[int, ...] | None:
    """Return the permutation of a Transpose; None for any other node."""
    if node is None or node.op_type != "Transpose" or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def target_shape(node: ir.Node | None) -> tuple[int, ...] | None:
    """Return the constant target shape of a Reshape, with -1 as its batch; None for any other node."""
    if node is None or node.op_type != "Reshape":
        return None
    shape = constant(node.inputs[1])
    return None if shape is None else (-1, *(int(size) for size in shape[1:]))


def used_names(graph: ir.Graph) -> set[str | None]:
    """Return the names of a graph's nodes and values."""
    names = {node.name for node in graph} | {value.name for node in graph for value in node.outputs}
    return names | set(graph.initializers) | {value.name for value in graph.inputs}


class Writer:
    """Writer of nodes into a graph, before one of its nodes.

    Args:
        graph: graph to write into.
        before: node before which they are inserted.
        scope: prefix of their names.
        reserved: names in use, shared by several writers; None for the names in the graph.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node, scope: str, reserved: set[str | None] | None = None) -> None:
        self.graph, self.before, self.scope = graph, before, scope
        self._reserved = used_names(graph) if reserved is None else reserved
        self._wide = False

    @contextmanager
    def wide(self) -> Iterator[None]:
        """Let nodes written in this context compute in float32 in a float16 graph, fused into one kernel."""
        before, self._wide = self._wide, True
        try:
            yield
        finally:
            self._wide = before

    def op(self, kind: str, *inputs: ir.Value | Array | None, **attributes: Any) -> ir.Value:
        """Add a node with one output; arrays become initializers."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: ir.Value | Array | None, outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Add a node with several outputs; arrays become initializers."""
        name = self._name(kind.lower())
        values = [
            self._initializer(f"{name}/{index}", given) if isinstance(given, np.ndarray) else given
            for index, given in enumerate(inputs)
        ]
        node = ir.node(kind, values, attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = name if outputs == 1 else f"{name}.{index}"
        if self._wide:
            node.metadata_props[WIDE] = "1"
        self.graph.insert_before(self.before, node)
        return node.outputs

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        """Reshape a value; -1 for the axis that includes the batch."""
        return self.op("Reshape", value, np.array(shape, np.int64))

    def transpose(self, value: ir.Value, *permutation: int) -> ir.Value:
        """Permute the axes of a value."""
        return self.op("Transpose", value, perm=list(permutation))

    def split(self, value: ir.Value, axis: int, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Split a value along an axis."""
        return self.ops("Split", value, np.array(sizes, np.int64), outputs=len(sizes), axis=axis)

    def linear(self, rows: ir.Value, weight: Array, bias: Array) -> ir.Value:
        """Multiply rows (n, in) by a weight (out, in) and add a bias (out,)."""
        return self.op("Gemm", rows, weight, bias, transB=1)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replace all uses of `old` by `new`, as a graph output too."""
        if old.is_graph_output():
            name = old.name
            old.name = f"{name}/replaced"
            new.name, new.type, new.shape = name, old.type, old.shape
            self.graph.outputs[list(self.graph.outputs).index(old)] = new
        if new.shape is None:
            new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new)

    def _initializer(self, name: str, array: Array) -> ir.Value:
        tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _name(self, kind: str) -> str:
        name, number = f"{self.scope}/{kind}", 0
        while name in self._reserved:
            number += 1
            name = f"{self.scope}/{kind}_{number}"
        self._reserved.add(name)
        return name
