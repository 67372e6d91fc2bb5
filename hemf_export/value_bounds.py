"""Between which numbers a value of an ONNX graph lies for any input, as far as operators alone tell.

Interval arithmetic from a value back to what bounds it: a sigmoid lies between 0 and 1, and so does what is cut
from it, averaged over it or written out as 1 / (1 + exp(-x)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import inliner, numpy_helper

Interval = tuple[float, float]

_ANY: Interval = (-math.inf, math.inf)
_LARGEST_CONSTANT = 1_000_000  # numbers that are looked through
_DEEPEST = 100  # nodes behind each other that are followed

_KNOWN: dict[str, Interval] = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Sin", "Cos", "Softsign"), (-1.0, 1.0)),
    **dict.fromkeys(("Softplus", "ReduceL1", "ReduceL2", "ReduceSumSquare"), (0.0, math.inf)),
    "LogSoftmax": (-math.inf, 0.0),
}
# Operators that give values which they take, or means of them.
_KEPT = (
    *("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "CastLike", "Transpose", "Dropout", "Expand"),
    *("Slice", "Split", "Gather", "GatherND", "GatherElements", "Tile", "ReduceMean", "ReduceMax", "ReduceMin"),
    *("GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
)


def of_outputs(model: onnx.ModelProto) -> list[Interval]:
    """The interval of each output of the graph; infinite where operators don't tell."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = _Graph(model.graph)
    return [graph.interval(output.name) for output in model.graph.output]


class _Graph:
    """A graph's values by their names."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = {name: node for node in graph.node for name in node.output if name}
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._known: dict[str, Interval] = {}

    def interval(self, name: str, depth: int = 0) -> Interval:
        if name not in self._known:
            self._known[name] = self._find(name, depth)
        return self._known[name]

    def _find(self, name: str, depth: int) -> Interval:
        if name in self._weights:
            return _of_constant(self._weights[name])
        node = self._nodes.get(name)
        if node is None or depth > _DEEPEST:
            return _ANY
        if node.domain not in ("", "ai.onnx"):
            fused = [entry.s.decode(errors="replace") for entry in node.attribute if entry.name == "activation"]
            return _KNOWN.get(fused[0], _ANY) if fused else _ANY
        if node.op_type == "Constant":
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            numbers = [attribute.f for attribute in node.attribute if attribute.name == "value_float"]
            return _of_constant(values[0]) if values else (numbers[0], numbers[0]) if numbers else _ANY
        if node.op_type in _KNOWN:
            return _KNOWN[node.op_type]
        if node.op_type in _RULES:
            return _RULES[node.op_type](self, node, [self.interval(one, depth + 1) for one in node.input if one])
        if node.op_type in _KEPT:
            return self.interval(node.input[0], depth + 1)
        return _ANY

    def is_part(self, numerator: str, denominator: str) -> bool:
        """Whether a value is a sum of `numerator`, which isn't negative, and other values that aren't."""
        node = self._nodes.get(denominator)
        if node is None:
            return False
        if node.op_type in ("Add", "Sum"):
            return numerator in node.input and all(self.interval(one)[0] >= 0 for one in node.input)
        if node.op_type in ("ReduceSum", "ReduceL1"):
            return node.input[0] == numerator and self.interval(numerator)[0] >= 0
        return node.op_type in ("Identity", "Expand", "Unsqueeze", "Reshape") and self.is_part(numerator, node.input[0])


_Rule = Callable[[_Graph, onnx.NodeProto, list[Interval]], Interval]


def _of_constant(tensor: onnx.TensorProto) -> Interval:
    if math.prod(tensor.dims) > _LARGEST_CONSTANT or tensor.external_data or not math.prod(tensor.dims):
        return _ANY
    values = numpy_helper.to_array(tensor)
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        return _ANY
    return float(values.min()), float(values.max())


def _product(one: float, other: float) -> float:
    return 0.0 if one == 0 or other == 0 else one * other


def _hull(found: list[Interval]) -> Interval:
    return min(low for low, _ in found), max(high for _, high in found)


def _multiplied(one: Interval, other: Interval) -> Interval:
    ends = [_product(a, b) for a in one for b in other]
    return min(ends), max(ends)


def _inverse(of: Interval) -> Interval:
    low, high = of
    if low < 0 < high or low == high == 0:
        return _ANY
    ends = [math.inf if end == 0 and low >= 0 else -math.inf if end == 0 else 1 / end for end in of]
    return min(ends), max(ends)


def _divided(graph: _Graph, node: onnx.NodeProto, found: list[Interval]) -> Interval:
    if found[0][0] >= 0 and graph.is_part(node.input[0], node.input[1]):
        return 0.0, 1.0
    return _multiplied(found[0], _inverse(found[1]))


def _clipped(graph: _Graph, node: onnx.NodeProto, found: list[Interval]) -> Interval:
    ends = {attribute.name: attribute.f for attribute in node.attribute}  # before opset 11
    low, high = ends.get("min", -math.inf), ends.get("max", math.inf)
    if len(node.input) > 1 and node.input[1]:
        low = graph.interval(node.input[1])[0]
    if len(node.input) > 2 and node.input[2]:
        high = graph.interval(node.input[2])[1]
    return min(max(found[0][0], low), high), max(min(found[0][1], high), low)


def _summed(of: Interval) -> Interval:
    return (0.0 if of[0] >= 0 else -math.inf), (0.0 if of[1] <= 0 else math.inf)


def _exponential(of: Interval) -> Interval:
    low, high = (math.exp(end) if end < 700 else math.inf for end in of)
    return low, high


def _magnitude(of: Interval) -> Interval:
    low, high = abs(of[0]), abs(of[1])
    return (0.0 if of[0] < 0 < of[1] else min(low, high)), max(low, high)


def _averaged(graph: _Graph, node: onnx.NodeProto, found: list[Interval]) -> Interval:
    return _hull([*found, (0.0, 0.0)])  # padding may count


_RULES: dict[str, _Rule] = {
    "Add": lambda graph, node, found: (found[0][0] + found[1][0], found[0][1] + found[1][1]),
    "Sum": lambda graph, node, found: (sum(one[0] for one in found), sum(one[1] for one in found)),
    "Sub": lambda graph, node, found: (found[0][0] - found[1][1], found[0][1] - found[1][0]),
    "Mul": lambda graph, node, found: _multiplied(found[0], found[1]),
    "Div": _divided,
    "Reciprocal": lambda graph, node, found: _inverse(found[0]),
    "Neg": lambda graph, node, found: (-found[0][1], -found[0][0]),
    "Abs": lambda graph, node, found: _magnitude(found[0]),
    "Relu": lambda graph, node, found: (max(0.0, found[0][0]), max(0.0, found[0][1])),
    "Exp": lambda graph, node, found: _exponential(found[0]),
    "Sqrt": lambda graph, node, found: (
        math.sqrt(max(0.0, found[0][0])), math.sqrt(max(0.0, found[0][1]))
    ),
    "Clip": _clipped,
    "ReduceSum": lambda graph, node, found: _summed(found[0]),
    "AveragePool": _averaged,
    "Max": lambda graph, node, found: (max(one[0] for one in found), max(one[1] for one in found)),
    "Min": lambda graph, node, found: (min(one[0] for one in found), min(one[1] for one in found)),
    "Mean": lambda graph, node, found: _hull(found),
    "Concat": lambda graph, node, found: _hull(found),
    "Where": lambda graph, node, found: _hull(found[1:]),
}  # fmt: skip
