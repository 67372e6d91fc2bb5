"""Find a block of a graph by its pattern, and write another in its place.

Patterns are functions in the style of onnxscript's rewriter, whose matcher finds them; what is written anew is our own.
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

WIDE = "hemf.float32"  # in a node's metadata: it computes in float32 inside a kernel, whose memory holds float16

Array = NDArray[np.generic]
_ALIGNMENT, _LEAST = 8, 16  # channels of a head that TensorRT-RTX fuses an attention for
MAPS_TO_PIXELS, PIXELS_TO_MAPS = (0, 2, 3, 1), (0, 3, 1, 2)  # (N, C, H, W) to (N, H, W, C), and back


@dataclass(frozen=True)
class Match:
    """A place where a pattern was found.

    Args:
        root: the node that gives the pattern's output.
        values: by the names of the pattern's parameters.
    """

    root: ir.Node
    values: dict[str, ir.Value]

    def array(self, name: str) -> Array | None:
        """The constant that a parameter stands for; None where it is no constant."""
        return constant(self.values.get(name))

    def arrays(self, *names: str) -> list[Array] | None:
        """Several of them; None where one is no constant."""
        found = [self.array(name) for name in names]
        return None if any(array is None for array in found) else [array for array in found if array is not None]


def find(model: ir.Model, pattern: Callable[..., Any]) -> Iterator[Match]:
    """All places where `pattern` stands in the main graph and nothing outside reads what is inside, in graph order."""
    matcher = Pattern(pattern)
    for node in list(model.graph):
        found = matcher.match(model, model.graph, node, verbose=0)
        if found:
            values = {name: value for name, value in found.bindings.items() if isinstance(value, ir.Value)}
            if all(_is_plain(each) for each in found.nodes):
                yield Match(node, values)


def _is_plain(node: ir.Node) -> bool:
    """Return whether a Gemm multiplies and adds, no more: patterns don't see attributes that they don't name."""
    return node.op_type != "Gemm" or (
        attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1 and not attribute(node, "transA", 0)
    )


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of an initializer; None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def scope(node: ir.Node) -> str:
    """The module that a node's name begins with: `fusion_stages.0.mlp/gelu_4` is of `fusion_stages.0.mlp`."""
    return (node.name or node.op_type).rsplit("/", 1)[0]


def aligned(channels: int) -> int:
    """How many channels a head needs for its attention to be fused: so many, or more."""
    return max(_LEAST, -(-channels // _ALIGNMENT) * _ALIGNMENT)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or its default."""
    entry = node.attributes.get(name)
    return default if entry is None else entry.value


def order(node: ir.Node | None) -> tuple[int, ...] | None:
    """The permutation of a Transpose; None of any other node."""
    if node is None or node.op_type != "Transpose" or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def target_shape(node: ir.Node | None) -> tuple[int, ...] | None:
    """The constant shape that a Reshape gives, its batch apart: (-1, …); None of any other node."""
    if node is None or node.op_type != "Reshape":
        return None
    shape = constant(node.inputs[1])
    return None if shape is None else (-1, *(int(size) for size in shape[1:]))


def taken_names(graph: ir.Graph) -> set[str | None]:
    """The names of a graph's nodes and values."""
    names = {node.name for node in graph} | {value.name for node in graph for value in node.outputs}
    return names | set(graph.initializers) | {value.name for value in graph.inputs}


class Writer:
    """Writes nodes into a graph, in front of one of its nodes.

    Args:
        graph: to write into.
        before: the node in front of which they go.
        scope: their names begin with it.
        taken: names that are taken, shared by several writers; None for those that the graph has now.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node, scope: str, taken: set[str | None] | None = None) -> None:
        self.graph, self.before, self.scope = graph, before, scope
        self._taken = taken_names(graph) if taken is None else taken
        self._wide = False

    @contextmanager
    def wide(self) -> Iterator[None]:
        """Nodes written meanwhile compute in float32 in a float16 graph, as they are fused into one kernel."""
        before, self._wide = self._wide, True
        try:
            yield
        finally:
            self._wide = before

    def op(self, kind: str, *inputs: ir.Value | Array | None, **attributes: Any) -> ir.Value:
        """Add a node of one output; arrays become initializers."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: ir.Value | Array | None, outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Add a node of several outputs."""
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
        """Reshape; -1 for the axis that has the batch in it."""
        return self.op("Reshape", value, np.array(shape, np.int64))

    def transpose(self, value: ir.Value, *permutation: int) -> ir.Value:
        """Reorder the axes."""
        return self.op("Transpose", value, perm=list(permutation))

    def split(self, value: ir.Value, axis: int, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Cut along an axis."""
        return self.ops("Split", value, np.array(sizes, np.int64), outputs=len(sizes), axis=axis)

    def linear(self, rows: ir.Value, weight: Array, bias: Array) -> ir.Value:
        """Multiply rows (n, in) by a weight (out, in) and add a bias (out,)."""
        return self.op("Gemm", rows, weight, bias, transB=1)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let all who read `old`, the caller included, read `new`."""
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
        while name in self._taken:
            number += 1
            name = f"{self.scope}/{kind}_{number}"
        self._taken.add(name)
        return name
