"""Recognize whether a classifier of unknown origin outputs logits or probabilities: by its operators, and by a run.

An output that ends in a softmax, a sigmoid or anything else bounded by 0 and 1 is probabilities. So are rows that sum
to 1, whatever computes them, such as a softmax of elementary operators or an average of several networks. All others
are logits.

The bounds come from interval arithmetic over the operators: a sigmoid is between 0 and 1, and so are slices and means
of it, and 1 / (1 + exp(-x)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import inliner, numpy_helper

from hemf_export.files.errors import BadInputError
from hemf_export.files.model_output import ModelOutput

Interval = tuple[float, float]
Given = Literal["logits", "probabilities"]
IMAGES = 4  # of noise: if the scores of all of them sum to 1, that is no accident
_SEED = 20250
_ROUNDING = 1e-5  # rounding error of a value
_SUM_ROUNDING = 2e-3  # rounding error of a sum of a thousand float16 values
FLOATS = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_OTHER_FLOATS = onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16

_ANY: Interval = (-math.inf, math.inf)
_LARGEST_CONSTANT = 1_000_000  # elements of a constant whose range is computed
_DEEPEST = 100  # length of a chain of nodes that is followed

_KNOWN: dict[str, Interval] = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Sin", "Cos", "Softsign"), (-1.0, 1.0)),
    **dict.fromkeys(("Softplus", "ReduceL1", "ReduceL2", "ReduceSumSquare"), (0.0, math.inf)),
    "LogSoftmax": (-math.inf, 0.0),
}
# Operators whose output is made of values of their input, or of means of those.
_KEPT = (
    *("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "CastLike", "Transpose", "Dropout", "Expand"),
    *("Slice", "Split", "Gather", "GatherND", "GatherElements", "Tile", "ReduceMean", "ReduceMax", "ReduceMin"),
    *("GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
)


@dataclass(frozen=True)
class Recognized:
    """Recognized output of a graph.

    Args:
        output: meaning of the output.
        classes: number of classes.
        sizes: shape of the raw output, None for the batch.
        notes: remarks for the user.
    """

    output: ModelOutput
    classes: int
    sizes: tuple[int | None, ...]
    notes: tuple[str, ...] = ()


def recognize(
    model: onnx.ModelProto,
    image: tuple[int, ...],
    batch: int | None,
    infer: Callable[[NDArray[np.generic]], NDArray[np.generic]],
    *,
    name: str,
    given: Given | None = None,
    raw: bool = False,
) -> Recognized:
    """Recognize the output of a graph by its operators, and by running it on seeded noise.

    Args:
        model: graph with one output.
        image: shape of an input image, such as (3, S, S).
        batch: fixed batch size; None for any.
        infer: batch of images → raw output.
        name: name of the file, for messages.
        given: meaning of the output, if the user states it.
        raw: whether the graph takes pixels, uint8.

    Raises:
        BadInputError: an output that isn't one row of numbers per image, or that is ambiguous.
    """
    require_floats(model.graph.output[0], name)
    rows, sizes = _run(image, batch, infer, name, raw)
    classes = rows.shape[1]
    low, high = output_bounds(model)[0]
    bounded = low >= -_ROUNDING and high <= 1 + _ROUNDING
    if given is None and not bounded and _inside(rows) and not _sum_to_one(rows):
        raise BadInputError(
            f"{name} gives numbers between 0 and 1 for images of noise, and its operators don't tell whether they are "
            "probabilities or logits.",
            "Say which: `quantize(FILE, gives='probabilities')`, or `gives='logits'`.",
        )
    if given is None and rows.min() >= 0 and np.abs(rows.sum(1) - 100).max() < 100 * _SUM_ROUNDING:
        raise BadInputError(f"{name} gives percentages.", "Let it end before they are multiplied by 100.")
    bounded = bounded if given is None else given == "probabilities"
    if classes == 1:
        if bounded and (rows == 1).all() and not _Graph(_inlined(model).graph).is_sigmoid(model.graph.output[0].name):
            raise BadInputError(
                f"{name} gives 1 for every image: a softmax over a single output decides nothing.",
                "End it with a sigmoid, or with the number before it.",
            )
        output = ModelOutput("probability" if bounded else "logit")
        note = (
            f"It has a single output: it is read as a {output.noun} that decides between two classes, the second "
            f"beyond {output.border:g}."
        )
        return Recognized(output, 2, sizes, (note,))
    if _sum_to_one(rows) and given != "logits":
        note = "It gives probabilities: they are used as they are, and bounds apply to probabilities."
        return Recognized(ModelOutput("probabilities"), classes, sizes, (note,))
    if bounded:
        note = (
            "It gives numbers between 0 and 1 that don't sum to 1, as sigmoids do: each is read as the probability "
            "of its class, and the largest gives the class of the image."
        )
        return Recognized(ModelOutput("probabilities"), classes, sizes, (note,))
    return Recognized(ModelOutput("logits"), classes, sizes)


def require_floats(output: onnx.ValueInfoProto, name: str) -> None:
    """Check that an output can be scores, unlike the index of the largest, for example.

    Raises:
        BadInputError: the output isn't a tensor of floating-point numbers.
    """
    kind = output.type.tensor_type.elem_type if output.type.HasField("tensor_type") else 0
    if kind in _OTHER_FLOATS:
        shown = onnx.TensorProto.DataType.Name(kind).lower()
        raise BadInputError(
            f"{name}: its output {output.name} is {shown}, which TensorRT doesn't give.",
            "Let it end with a Cast to float32.",
        )
    if kind not in FLOATS:
        shown = onnx.TensorProto.DataType.Name(kind).lower() if kind else "no tensor"
        raise BadInputError(
            f"{name}: its output {output.name} is {shown}, not a number for each class.",
            "Let it end where it gives scores, before the classes are made of them.",
        )


def is_row(sizes: tuple[int | None, ...], width: int, batch: int | None) -> bool:
    """Whether an output of this shape, None for any size, is one row of `width` numbers per image."""
    own = sizes if batch == 1 else sizes[1:]  # the batch axis of a single image may be missing
    known = [size for size in own if size not in (None, 1)]
    fits = batch == 1 or (bool(sizes) and sizes[0] in (None, batch))
    return fits and known in ([], [width]) and (width == 1 or None in own or known == [width])


def output_bounds(model: onnx.ModelProto) -> list[Interval]:
    """Bound each output of a graph over all inputs; infinite where the operators give no bound."""
    graph = _Graph(_inlined(model).graph)
    return [graph.interval(output.name) for output in model.graph.output]


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    return inliner.inline_local_functions(model) if model.functions else model


def _run(
    image: tuple[int, ...],
    batch: int | None,
    infer: Callable[[NDArray[np.generic]], NDArray[np.generic]],
    name: str,
    raw: bool,
) -> tuple[NDArray[np.float64], tuple[int | None, ...]]:
    """Run the graph on images of noise: a row per image, and the shape of the raw output."""
    generator = np.random.default_rng(_SEED)
    size = batch or IMAGES
    parts: list[NDArray[np.float64]] = []
    sizes: tuple[int | None, ...] = ()
    for _ in range(-(-IMAGES // size)):
        shape = size, *image
        noise = generator.integers(0, 256, shape, np.uint8) if raw else generator.standard_normal(shape, np.float32)
        given = np.asarray(infer(noise))
        sizes = tuple(given.shape) if size == 1 and given.shape[:1] != (1,) else (None, *given.shape[1:])
        if not given.size or given.size % size or not is_row(given.shape, given.size // size, size):
            raise BadInputError(
                f"{name} gives numbers of the shape {tuple(given.shape)} for {size} image{'s' * (size > 1)}; expected "
                f"one row an image, ({size}, classes).",
                "A classifier of whole images is needed; heatmaps and several heads are none.",
            )
        parts.append(given.reshape(size, -1).astype(np.float64))
    return np.concatenate(parts), sizes


def _inside(rows: NDArray[np.float64]) -> bool:
    return bool(rows.min() >= -_ROUNDING and rows.max() <= 1 + _ROUNDING)


def _sum_to_one(rows: NDArray[np.float64]) -> bool:
    return _inside(rows) and rows.shape[1] > 1 and bool(np.abs(rows.sum(1) - 1).max() < _SUM_ROUNDING)


class _Graph:
    """Intervals of a graph's values, by name."""

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

    def is_sigmoid(self, name: str) -> bool:
        """Whether a value is a sigmoid's, which may be 1 for every image of noise."""
        node = self._nodes.get(name)
        while node is not None and node.op_type in _KEPT:
            node = self._nodes.get(node.input[0])
        return node is not None and node.op_type in ("Sigmoid", "HardSigmoid")

    def is_part(self, numerator: str, denominator: str) -> bool:
        """Whether `denominator` is a sum of `numerator` and others, none negative: the quotient is at most 1 then."""
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


def _hull(inputs: list[Interval]) -> Interval:
    return min(low for low, _ in inputs), max(high for _, high in inputs)


def _multiplied(one: Interval, other: Interval) -> Interval:
    ends = [_product(a, b) for a in one for b in other]
    return min(ends), max(ends)


def _inverse(of: Interval) -> Interval:
    low, high = of
    if low < 0 < high or low == high == 0:
        return _ANY
    ends = [math.inf if end == 0 and low >= 0 else -math.inf if end == 0 else 1 / end for end in of]
    return min(ends), max(ends)


def _divided(graph: _Graph, node: onnx.NodeProto, inputs: list[Interval]) -> Interval:
    if inputs[0][0] >= 0 and graph.is_part(node.input[0], node.input[1]):
        return 0.0, 1.0
    return _multiplied(inputs[0], _inverse(inputs[1]))


def _clipped(graph: _Graph, node: onnx.NodeProto, inputs: list[Interval]) -> Interval:
    ends = {attribute.name: attribute.f for attribute in node.attribute}  # before opset 11
    low, high = ends.get("min", -math.inf), ends.get("max", math.inf)
    if len(node.input) > 1 and node.input[1]:
        low = graph.interval(node.input[1])[0]
    if len(node.input) > 2 and node.input[2]:
        high = graph.interval(node.input[2])[1]
    return min(max(inputs[0][0], low), high), max(min(inputs[0][1], high), low)


def _summed(of: Interval) -> Interval:
    return (0.0 if of[0] >= 0 else -math.inf), (0.0 if of[1] <= 0 else math.inf)


def _exponential(of: Interval) -> Interval:
    low, high = (math.exp(end) if end < 700 else math.inf for end in of)
    return low, high


def _magnitude(of: Interval) -> Interval:
    low, high = abs(of[0]), abs(of[1])
    return (0.0 if of[0] < 0 < of[1] else min(low, high)), max(low, high)


def _averaged(graph: _Graph, node: onnx.NodeProto, inputs: list[Interval]) -> Interval:
    return _hull([*inputs, (0.0, 0.0)])  # padding may be included


_RULES: dict[str, _Rule] = {
    "Add": lambda graph, node, inputs: (inputs[0][0] + inputs[1][0], inputs[0][1] + inputs[1][1]),
    "Sum": lambda graph, node, inputs: (sum(one[0] for one in inputs), sum(one[1] for one in inputs)),
    "Sub": lambda graph, node, inputs: (inputs[0][0] - inputs[1][1], inputs[0][1] - inputs[1][0]),
    "Mul": lambda graph, node, inputs: _multiplied(inputs[0], inputs[1]),
    "Div": _divided,
    "Reciprocal": lambda graph, node, inputs: _inverse(inputs[0]),
    "Neg": lambda graph, node, inputs: (-inputs[0][1], -inputs[0][0]),
    "Abs": lambda graph, node, inputs: _magnitude(inputs[0]),
    "Relu": lambda graph, node, inputs: (max(0.0, inputs[0][0]), max(0.0, inputs[0][1])),
    "Exp": lambda graph, node, inputs: _exponential(inputs[0]),
    "Sqrt": lambda graph, node, inputs: (
        math.sqrt(max(0.0, inputs[0][0])), math.sqrt(max(0.0, inputs[0][1]))
    ),
    "Clip": _clipped,
    "ReduceSum": lambda graph, node, inputs: _summed(inputs[0]),
    "AveragePool": _averaged,
    "Max": lambda graph, node, inputs: (max(one[0] for one in inputs), max(one[1] for one in inputs)),
    "Min": lambda graph, node, inputs: (min(one[0] for one in inputs), min(one[1] for one in inputs)),
    "Mean": lambda graph, node, inputs: _hull(inputs),
    "Concat": lambda graph, node, inputs: _hull(inputs),
    "Where": lambda graph, node, inputs: _hull(inputs[1:]),
}  # fmt: skip
