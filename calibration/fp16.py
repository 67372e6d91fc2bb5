"""A float32 ONNX graph → a strongly typed float16 graph with float32 islands where float16 is not safe.

Precision is in the graph: TensorRT 11 and TensorRT-RTX compile the types of the graph, and ONNX Runtime runs the
same graph, so it can be checked without a GPU. Unlike per-node converters, values that pass between two nodes of one
island stay float32: a softmax that is divided by its own sum never goes through float16 in between.

Islands come from the graph's structure alone, or better from the ranges measured on real images. Two hazards: overflow
(a layer norm's squares, values beyond 65,504) and underflow that changes a result (a softmax over thousands of values
that is divided by its own sum: in float16 whole rows become 0/0; variances below what float16 can tell from zero). What
a graph computes only to choose between values stays in float32 too (see `calibration.choices`).

The resize of raw images (`export.raw_pixels`) computes x·W - floor(x·W). In float16, x·W has lost the fraction: 200.3
is 200.25. But a product sums in float32 and rounds only its result; so the difference becomes part of the sum, as
[x, floor(x·W)]·[W; -1], which is exact, as it is small. Where x·W was rounded up to a whole number, the remainder is
negative: the sum of both is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from hemf_export.calibration.blocks import RESIZE, block_of, node_name
from hemf_export.calibration.choices import CHOICE, choosing_nodes, products_as_sums
from hemf_export.calibration.forms.matching import WIDE
from hemf_export.calibration.graphs import Shape, infer
from hemf_export.calibration.ranges import NORMS, Histogram, Ranges, source_of
from hemf_export.files.errors import BadInputError

FLOAT32_ALONE = "its operator has no float16"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# Positions, by operator, of inputs whose type must stay. Shapes, axes and sizes are not float anyway.
_FLOAT32_INPUTS: dict[str, frozenset[int]] = {"Resize": frozenset({1, 2})}

FLOAT16_MAX = 65504.0
FLOAT16_SMALLEST_NORMAL = 2.0**-14
MARGIN = 4.0  # factor by which values of other images may be larger

NORM = "layer norm: its squares can exceed 65,504, and its epsilon is subnormal"
RENORMALIZED = "softmax divided by its own sum: rows can become 0/0"
OVERFLOW = "values beyond 65,504 (with a margin of 4)"
LARGE_SQUARES = "layer norm with squares beyond 65,504 (with a margin of 4)"
SMALL_VARIANCE = "layer norm of rows with a variance below 6e-5, float16's smallest normal number"
SMALL_DENOMINATOR = "divides by (or takes the root of) values below 6e-5, float16's smallest normal number"
LONG_SUM = "a sum that could exceed 65,504 on the way"

_ALL_NORMS = (*NORMS, "InstanceNormalization", "GroupNormalization", "RMSNormalization")
_SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")
_SINGULAR = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}  # the input that must not be small
_CHAIN = ("Add", "Mul", "Pow", "ReduceMean", "ReduceSum", "Softmax", "Sqrt", "Sub", "Exp")
_SMALLEST_SUM = 2.0**-7  # of a softmax over other values than those summed: float16 loses digits of smaller ones


@dataclass(frozen=True)
class Conversion:
    """Outcome of a conversion.

    Args:
        nodes: number of nodes before the conversion.
        islands: names of the nodes left in float32, with the reason of each.
        inside_kernels: other nodes that compute in float32 within a kernel; its inputs and outputs are float16.
        casts: number of Cast nodes inserted at the borders.
        saturated: names of weights with values outside float16's range; the nodes that use them stay in float32.
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
        islands: names of the nodes that stay in float32, and why; by default those that `find_islands` names. Nodes
            with weights beyond float16 are added.

    Raises:
        BadInputError: a graph with subgraphs or functions, or that is float16 already.
    """
    graph = model.graph
    _check(model)
    remainders_into_products(graph)
    infer(model)
    islands = find_islands(graph) if islands is None else dict(islands)
    islands |= products_as_sums(graph, {name for name, reason in islands.items() if reason == CHOICE})
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
            continue  # has no float input (ConstantOfShape): nodes that need float16 cast its output
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
    """Return whether ONNX allows float16 for every float32 input and output of a node; False for other domains."""
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
    """Values in the other type: a converted weight or a Cast, created once each."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.casts = 0
        self.flushed = 0
        self.nonzero = 0

    def of(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self._converted:
            self._converted[key] = self._weight(value) if value.const_value is not None else self._cast(value, dtype)
        return self._converted[key]

    def _weight(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        exact = value.const_value.numpy()
        half = exact.astype(np.float16)
        self.nonzero += int(np.count_nonzero(exact))
        self.flushed += int(np.count_nonzero(exact) - np.count_nonzero(half))
        name = f"{value.name}_fp16"
        rounded = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.Tensor(half, name=name),
        )
        self.graph.register_initializer(rounded)
        return rounded

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        suffix = "fp16" if dtype == ir.DataType.FLOAT16 else "fp32"
        node = ir.node("Cast", [value], attributes={"to": dtype}, name=f"{value.name}_to_{suffix}")
        result = node.outputs[0]
        result.name, result.dtype, result.shape = f"{value.name}_{suffix}", dtype, value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        self.casts += 1
        return result


def _float32_output(graph: ir.Graph, output: ir.Value) -> ir.Value:
    """Insert a Cast behind a float16 output, which takes over its name."""
    name = output.name
    output.name = f"{name}_fp16"
    node = ir.node("Cast", [output], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_to_fp32")
    result = node.outputs[0]
    result.name, result.dtype, result.shape = name, ir.DataType.FLOAT, output.shape
    graph.append(node)
    return result


def _retarget(node: ir.Node, wanted: ir.DataType) -> None:
    """Change the target of a Cast to float32 to the type of its converted surroundings."""
    if node.attributes["to"].as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(wanted))


def _saturated(weights: dict[str, ir.Value]) -> list[str]:
    names = []
    for name, value in weights.items():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.size and float(np.abs(array).max()) > FLOAT16_MAX:
            names.append(name)
    return names


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


def find_islands(graph: ir.Graph) -> dict[str, str]:
    """Find the nodes that must stay in float32 by the graph's structure alone, with the reason."""
    islands = _choices(graph)
    for node in graph:
        if node.op_type in _ALL_NORMS:
            islands[node_name(node)] = NORM
        elif chain := _renormalization(node):
            islands |= {node_name(member): RENORMALIZED for member in chain}
    return islands


def measured_islands(graph: ir.Graph, ranges: Ranges, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Find the nodes that must stay in float32 for values like those recorded, with the reason.

    Args:
        graph: float32.
        ranges: ranges of all its values and of the rows of its layer norms.
        shapes: shapes of its values for one image.
    """
    islands = _choices(graph)
    for node in graph:
        if node_name(node) in islands:
            continue
        seen = [_histogram(value, ranges) for value in (*node.inputs, *node.outputs)]
        largest = max((histogram.largest for histogram in seen if histogram is not None), default=0.0)
        if largest > FLOAT16_MAX / MARGIN:
            islands[node_name(node)] = OVERFLOW
        elif node.op_type in _ALL_NORMS and (reason := _norm_hazard(node, ranges)):
            islands[node_name(node)] = reason
        elif (chain := _renormalization(node)) and _least(chain[1].outputs[0], ranges) < _SMALLEST_SUM:
            islands |= {node_name(member): RENORMALIZED for member in chain}
        elif node.op_type in _SINGULAR and not chain:
            value = node.inputs[_SINGULAR[node.op_type]]
            if value is not None and value.const_value is None and _least(value, ranges) < FLOAT16_SMALLEST_NORMAL:
                islands |= {node_name(member): SMALL_DENOMINATOR for member in [node, *_small_sources(value, ranges)]}
        elif node.op_type in _SUMS and _longest_sum(node, ranges, shapes) > FLOAT16_MAX:
            islands[node_name(node)] = LONG_SUM
    return islands


def _choices(graph: ir.Graph) -> dict[str, str]:
    return {node_name(node): CHOICE for node in choosing_nodes(graph)}


def _norm_hazard(node: ir.Node, ranges: Ranges) -> str | None:
    value = node.inputs[0]
    assert value is not None
    rows, histogram = ranges.rows.get(str(value.name)), _histogram(value, ranges)
    if rows is None or histogram is None:
        return NORM  # nothing was measured: stays in float32
    # A row's deviations are at most twice the largest value; the mean of their squares is its variance.
    if max(rows.high, histogram.largest**2) > FLOAT16_MAX / MARGIN:
        return LARGE_SQUARES
    return SMALL_VARIANCE if rows.low < FLOAT16_SMALLEST_NORMAL else None


def _longest_sum(node: ir.Node, ranges: Ranges, shapes: Mapping[str, Shape]) -> float:
    """Estimate the largest partial sum of a reduction: its terms' typical size times their number."""
    value = node.inputs[0]
    histogram = None if value is None else _histogram(value, ranges)
    before, after = (shapes.get(str(side.name), ()) for side in (value, node.outputs[0]) if side is not None)
    if histogram is None or not before:
        return 0.0
    return histogram.root_mean_square() * math.prod(before) / max(1, math.prod(after))


def _small_sources(value: ir.Value, ranges: Ranges) -> list[ir.Node]:
    """List the nodes that compute a small value from small values: in float16 these would underflow already."""
    nodes: list[ir.Node] = []
    waiting = [value]
    while waiting:
        node = source_of(waiting.pop()).producer()
        if node is None or node in nodes or node.op_type not in _CHAIN:
            continue
        if _least(node.outputs[0], ranges) < FLOAT16_SMALLEST_NORMAL:
            nodes.append(node)
            waiting.extend(item for item in node.inputs if item is not None and item.const_value is None)
    return nodes


def _histogram(value: ir.Value | None, ranges: Ranges) -> Histogram | None:
    return None if value is None else ranges.histograms.get(str(source_of(value).name))


def _least(value: ir.Value, ranges: Ranges) -> float:
    """Return the smallest magnitude recorded, without exact zeros; infinite where nothing was measured."""
    histogram = _histogram(value, ranges)
    return math.inf if histogram is None else histogram.smallest


def _renormalization(division: ir.Node) -> list[ir.Node]:
    """Return [Softmax, ReduceSum, Div] where `division` is softmax(x) / sum(softmax(x)), over any axes; else empty."""
    if division.op_type != "Div":
        return []
    numerator, denominator = division.inputs[:2]
    if numerator is None or denominator is None:
        return []
    softmax, total = numerator.producer(), denominator.producer()
    if softmax is None or total is None or softmax.op_type != "Softmax" or total.op_type != "ReduceSum":
        return []
    return [softmax, total, division] if total.inputs[0] is numerator else []


def remainders_into_products(graph: ir.Graph) -> int:
    """Replace each x·W - floor(x·W) of the resize by a product, in place; return the number of them.

    Values and nodes keep their names.
    """
    count = 0
    for node in list(graph):
        if (
            node.op_type == "Sub"
            and block_of(node_name(node)) == RESIZE
            and (source := _remainder_source(node)) is not None
        ):
            _replace_remainder(graph, node, source)
            count += 1
    return count


def _remainder_source(difference: ir.Node) -> ir.Node | None:
    """Return the product whose whole part `difference` subtracts; None for any other difference."""
    value, whole = difference.inputs
    source = None if value is None else value.producer()
    floor = None if whole is None else whole.producer()
    if source is None or floor is None or source.op_type != "MatMul" or floor.op_type != "Floor":
        return None
    return source if floor.inputs[0] is value else None


def _replace_remainder(graph: ir.Graph, difference: ir.Node, source: ir.Node) -> None:
    whole = difference.inputs[1]
    constant = 0 if _is_constant(source.inputs[0]) else 1
    weight, levels = source.inputs[constant], source.inputs[1 - constant]
    assert weight is not None
    assert weight.const_value is not None
    old = difference.outputs[0]
    name = str(old.name)
    extended = _extended(weight.const_value.numpy(), from_left=constant == 0)
    matrix = ir.Value(
        name=f"{name}_weight", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(extended.shape),
        const_value=ir.Tensor(extended, name=f"{name}_weight"),
    )  # fmt: skip
    graph.register_initializer(matrix)
    joined = ir.node(
        "Concat", [levels, whole], {"axis": -2 if constant == 0 else -1}, name=f"{node_name(difference)}/joined"
    )
    joined.outputs[0].name, joined.outputs[0].type = f"{name}_joined", old.type
    factors = [matrix, joined.outputs[0]] if constant == 0 else [joined.outputs[0], matrix]
    remainder = ir.node("MatMul", factors, name=node_name(difference))
    new = remainder.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(difference, [joined, remainder])
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(difference, safe=True)
    new.name = name


def _extended(weight: NDArray[np.generic], *, from_left: bool) -> NDArray[np.generic]:
    """Append the -1 that subtracts the whole part to a weight: as columns, or as rows."""
    size = weight.shape[0 if from_left else 1]
    return np.concatenate([weight, -np.eye(size, dtype=weight.dtype)], axis=1 if from_left else 0)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None
