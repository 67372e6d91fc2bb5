"""A float32 ONNX graph → a strongly typed float16 graph with float32 islands where float16 is not safe.

Precision is in the graph: TensorRT 11 and TensorRT-RTX compile the types that they find, and ONNX Runtime runs the
same graph, so it can be checked without a GPU. Unlike per-node converters, values that pass between two nodes of one
island stay float32: a softmax that is divided by its own sum never goes through float16 in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from calibration.blocks import node_name
from calibration.forms.matching import WIDE
from calibration.islands import FLOAT16_MAX, find_islands
from calibration.remainders import into_products
from calibration.shapes import infer
from hemf.errors import BadInputError

FLOAT32_ALONE = "its operator has no float16"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# Inputs that no type conversion may touch: their position, by operator. Shapes, axes and sizes are not float anyway.
_FLOAT32_INPUTS: dict[str, frozenset[int]] = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        nodes: nodes of the graph before it.
        islands: names of those left in float32, with the reason of each.
        inside_kernels: nodes beside them that compute in float32 within a kernel, whose memory holds float16.
        casts: Cast nodes put at the borders.
        saturated: names of weights with values outside float16's range, and so the nodes that use them left in float32.
        flushed: share of non-zero weights that became zero.
    """

    nodes: int
    islands: dict[str, str]
    inside_kernels: int
    casts: int
    saturated: tuple[str, ...]
    flushed: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        reasons: dict[str, int] = {}
        for reason in self.islands.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        return {
            "nodes": self.nodes,
            "float32_nodes": len(self.islands),
            "islands": reasons,
            "float32_inside_kernels": self.inside_kernels,
            "casts": self.casts,
            "saturated_weights": list(self.saturated),
            "flushed_weights": self.flushed,
        }


def to_float16(model: ir.Model, islands: Mapping[str, str] | None = None) -> Conversion:
    """Convert `model` in place. Inputs and outputs of the graph keep their types.

    Args:
        model: float32, quantized or not.
        islands: names of the nodes that stay in float32, and why; by default what the structure alone tells. Weights
            beyond float16 add to them.

    Raises:
        BadInputError: a graph with subgraphs or functions, or that is float16 already.
    """
    graph = model.graph
    _check(model)
    into_products(graph)
    infer(model)
    islands = find_islands(graph) if islands is None else dict(islands)
    weights = {name: value for name, value in graph.initializers.items() if value.dtype == ir.DataType.FLOAT}
    inside = {node for node in graph if node.metadata_props.pop(WIDE, None) is not None}
    for node in graph:
        if not _takes_float16(node, model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))):
            islands.setdefault(node_name(node), FLOAT32_ALONE)
    saturated = _saturated(weights)
    for name in saturated:
        for node in weights[name].consumers():
            islands.setdefault(node_name(node), "weights beyond float16")
    nodes = list(graph)
    halves, flushed = _Halves(graph), 0.0
    for node in nodes:
        wide = node in inside or node_name(node) in islands
        wanted = ir.DataType.FLOAT if wide else ir.DataType.FLOAT16
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in _FLOATS:
                continue
            kept = index in _FLOAT32_INPUTS.get(node.op_type, frozenset())
            target = ir.DataType.FLOAT if kept else wanted
            if value.dtype != target:
                node.replace_input_with(index, halves.of(value, target))
        if node.op_type == "Cast":
            _retarget(node, wanted)
        elif not any(value is not None and value.dtype in _FLOATS for value in node.inputs):
            continue  # makes its values from nothing (ConstantOfShape): what needs float16 casts them
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.dtype = wanted
    for index, output in enumerate(graph.outputs):
        if output.dtype == ir.DataType.FLOAT16:
            graph.outputs[index] = _float32_output(graph, output)
    common.RemoveUnusedNodesPass()(model)
    flushed = halves.flushed / max(1, halves.nonzero)
    return Conversion(len(nodes), islands, len(inside), halves.casts, tuple(saturated), flushed)


def _takes_float16(node: ir.Node, opset: int) -> bool:
    """Whether ONNX lets every float32 input and output of a node be float16; of other domains nothing is known."""
    if not any(value is not None and value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs)):
        return True
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    kept = _FLOAT32_INPUTS.get(node.op_type, frozenset())
    for values, formals, skipped in ((node.inputs, schema.inputs, kept), (node.outputs, schema.outputs, frozenset())):
        for index, value in enumerate(values):
            if value is None or value.dtype != ir.DataType.FLOAT or index in skipped or not formals:
                continue
            kind = formals[min(index, len(formals) - 1)].type_str  # the last one may be repeated
            if "tensor(float16)" not in allowed.get(kind, [kind]):
                return False
    return True


class _Halves:
    """The same value in the other type: a converted weight, or a Cast, made once each."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.casts = 0
        self.flushed = 0
        self.nonzero = 0

    def of(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self.made:
            self.made[key] = self._weight(value) if value.const_value is not None else self._cast(value, dtype)
        return self.made[key]

    def _weight(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        exact = value.const_value.numpy()
        half = exact.astype(np.float16)
        self.nonzero += int(np.count_nonzero(exact))
        self.flushed += int(np.count_nonzero(exact) - np.count_nonzero(half))
        name = f"{value.name}_fp16"
        made = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.Tensor(half, name=name),
        )
        self.graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        suffix = "fp16" if dtype == ir.DataType.FLOAT16 else "fp32"
        node = ir.node("Cast", [value], attributes={"to": dtype}, name=f"{value.name}_to_{suffix}")
        made = node.outputs[0]
        made.name, made.dtype, made.shape = f"{value.name}_{suffix}", dtype, value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        self.casts += 1
        return made


def _float32_output(graph: ir.Graph, output: ir.Value) -> ir.Value:
    """A Cast behind a float16 output that takes over its name."""
    name = output.name
    output.name = f"{name}_fp16"
    node = ir.node("Cast", [output], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_to_fp32")
    made = node.outputs[0]
    made.name, made.dtype, made.shape = name, ir.DataType.FLOAT, output.shape
    graph.append(node)
    return made


def _retarget(node: ir.Node, wanted: ir.DataType) -> None:
    """A Cast to float32 in the graph gives what its surroundings have now."""
    if node.attributes["to"].as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(wanted))


def _saturated(weights: dict[str, ir.Value]) -> list[str]:
    found = []
    for name, value in weights.items():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.size and float(np.abs(array).max()) > FLOAT16_MAX:
            found.append(name)
    return found


def _check(model: ir.Model) -> None:
    if model.functions:
        raise BadInputError("The graph has local functions, which are not converted.", "Inline them first.")
    for node in model.graph:
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise BadInputError(f"Node {node_name(node)} ({node.op_type}) has a subgraph, which is not converted.")
    if any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.initializers.values()):
        raise BadInputError("The graph has float16 weights already.", "Start from the float32 file.")
