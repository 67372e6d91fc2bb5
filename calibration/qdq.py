"""Insert QuantizeLinear and DequantizeLinear around the chosen products of a float32 graph, in the patterns that
TensorRT fuses, or in those that ONNX Runtime runs fast on a CPU.

For TensorRT: symmetric int8 with one scale per activation tensor and one per output channel of a weight. Scales are
rounded up to float16, so that the graph computes the same when the rest of it is converted. Biases stay as they are.

For a CPU: uint8 activations, the rest float32. A convolution becomes integer only if its output is quantized too; a
Gemm computes float32 from integers. Depthwise convolutions gain as well. Products of two activations stay float32.
Weights have 7 bits. With AVX2, and with AVX-512 without VNNI, ONNX Runtime multiplies uint8 by int8 with VPMADDUBSW,
which saturates the sum of two products at int16 ("When and why do I need to try U8U8?" in its quantization docs; the
kernels that it picks are in `onnxruntime/core/mlas/lib/platform.cpp`). Sums of 7-bit weights are exact on every CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.products import Product
from hemf_export.calibration.ranges import LEVELS, Histogram, Method, interval, source_of, threshold
from hemf_export.calibration.weights import Int8Weight, half_up, rounded

_ZERO = np.array(0, np.int8)  # symmetric
_STEPS = 255  # steps of the range of uint8
CPU_LEVELS = 64  # of a weight's integers, on each side of zero: 2 · 255 · 64 is within int16
_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Selu", "Softplus", "Softsign")


@dataclass(frozen=True)
class Statistics:
    """Statistics to quantize with.

    Args:
        histograms: histograms, by value name, of the products' activations before nodes that only move elements.
        weights: int8 weights by name and output axis, with as many levels as they are asked for with; others are
            rounded to nearest.
    """

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    weights: Mapping[tuple[str, int], Int8Weight] = field(default_factory=dict)

    def weight(self, value: ir.Value, axis: int, levels: int = LEVELS) -> Int8Weight:
        """Return the int8 weight for an initializer, of integers up to `levels`."""
        assert value.const_value is not None
        known = self.weights.get((str(value.name), axis))
        assert known is None or np.abs(known.values).max(initial=0) <= levels
        return known or rounded(value.const_value.numpy().astype(np.float32), axis, levels=levels)


@dataclass(frozen=True)
class Quantized:
    """Products that were quantized.

    Args:
        nodes: names of the products, in graph order.
        scales: scales of the activations by value name.
    """

    nodes: tuple[str, ...]
    scales: dict[str, float]


def quantize(model: ir.Model, products: Iterable[Product], statistics: Statistics, method: Method) -> Quantized:
    """Quantize `products` of the float32 `model`, in place.

    Args:
        model: see `calibration.graphs.prepare`; its other nodes stay as they are.
        products: see `calibration.products`; refused ones are skipped.
        statistics: statistics of the products' activations and weights.
        method: calibration method of the ranges.
    """
    graph = model.graph
    nodes = {node.name: node for node in graph}
    pairs = Pairs(graph)
    done = []
    for product in products:
        assert product.refusal is None, product
        node = nodes[product.node]
        for index, _ in product.activations:
            value = node.inputs[index]
            assert value is not None
            name = str(source_of(value).name)
            scale = activation_scale(statistics.histograms[name], method)
            node.replace_input_with(index, pairs.activation(value, scale, _ZERO))
        if product.weight is not None:
            weight = node.inputs[product.weight]
            assert weight is not None
            int8 = statistics.weight(weight, product.axis)
            node.replace_input_with(product.weight, pairs.weight(weight, int8, product.axis, node))
        done.append(product.node)
    pairs.drop_replaced()
    return Quantized(tuple(done), pairs.scales)


def activation_scale(histogram: Histogram, method: Method) -> float:
    """Return the scale of an activation; exact in float16."""
    return half_up(threshold(histogram, method) / LEVELS or 1 / LEVELS)


class Pairs:
    """Pairs of QuantizeLinear and DequantizeLinear, created once for each value."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._dequantized: dict[ir.Value, ir.Value] = {}
        self._dequantized_weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self.scales: dict[str, float] = {}
        self.replaced: set[str] = set()

    def activation(self, value: ir.Value, scale: float, zero: NDArray[np.integer[Any]]) -> ir.Value:
        """Return `value` quantized to the type of `zero`, its zero point, and dequantized."""
        if value not in self._dequantized:
            name = str(value.name)
            step = self._constant(f"{name}_scale", np.array(scale, np.float32))
            point = self._constant(f"{name}_zero", zero)
            down = ir.node("QuantizeLinear", [value, step, point], name=f"{name}_quantize")
            up = ir.node("DequantizeLinear", [down.outputs[0], step, point], name=f"{name}_dequantize")
            self._typed(down, f"{name}_quantized", ir.DataType.from_numpy(zero.dtype), value)
            self._typed(up, f"{name}_dequantized", ir.DataType.FLOAT, value)
            producer = value.producer()
            if producer is None:
                self.graph.insert_before(self.graph[0], [down, up])
            else:
                self.graph.insert_after(producer, [down, up])
            self._dequantized[value] = up.outputs[0]
            self.scales[name] = scale
        return self._dequantized[value]

    def original(self, value: ir.Value) -> ir.Value:
        """Return the value that `value` is the dequantized form of, or `value` itself."""
        return next((source for source, dequantized in self._dequantized.items() if dequantized is value), value)

    def weight(self, value: ir.Value, int8: Int8Weight, axis: int, user: ir.Node) -> ir.Value:
        """Return a dequantized int8 initializer; a weight that several products share is quantized once."""
        if (value, axis) not in self._dequantized_weights:
            other = any(known is value for known, _ in self._dequantized_weights)  # the same weight along another axis
            name = f"{value.name}_axis{axis}" if other else str(value.name)
            stored = self._constant(f"{name}_int8", int8.values)
            steps = self._constant(f"{name}_scale", int8.scales)
            zeros = self._constant(f"{name}_zero", np.zeros(len(int8.scales), np.int8))
            up = ir.node("DequantizeLinear", [stored, steps, zeros], {"axis": axis}, name=f"{name}_dequantize")
            self._typed(up, f"{name}_dequantized", ir.DataType.FLOAT, value)
            self.graph.insert_before(user, up)
            self._dequantized_weights[value, axis] = up.outputs[0]
            self.replaced.add(str(value.name))
        return self._dequantized_weights[value, axis]

    def bias(self, value: ir.Value, steps: NDArray[np.float32], user: ir.Node) -> ir.Value:
        """Return a bias in int32 with the scales of the sums that it is added to, as integer kernels take it."""
        assert value.const_value is not None
        name = f"{value.name}_of_{user.name}"
        exact = value.const_value.numpy().astype(np.float64).reshape(-1)
        rounded = np.clip(np.round(exact / steps), -(2**31 - 1), 2**31 - 1).astype(np.int32)
        inputs = [
            self._constant(f"{name}_int32", rounded),
            self._constant(f"{name}_scale", steps),
            self._constant(f"{name}_zero", np.zeros(len(steps), np.int32)),
        ]
        up = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}_dequantize")
        self._typed(up, f"{name}_dequantized", ir.DataType.FLOAT, inputs[0])
        self.graph.insert_before(user, up)
        self.replaced.add(str(value.name))
        return up.outputs[0]

    def drop_replaced(self) -> None:
        """Remove the float32 weights that are no longer used."""
        for name in self.replaced:
            if not self.graph.initializers[name].uses():
                self.graph.initializers.pop(name)

    @staticmethod
    def _typed(node: ir.Node, name: str, dtype: ir.DataType, like: ir.Value) -> None:
        output = node.outputs[0]
        output.name, output.dtype, output.shape = name, dtype, like.shape

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value


def quantize_for_cpu(
    model: ir.Model, products: Collection[Product], statistics: Statistics, method: Method
) -> Quantized:
    """Quantize `products` of the float32 `model` for ONNX Runtime on a CPU, in place; see `quantize`.

    Args:
        model: see `calibration.graphs.prepare`.
        products: convolutions and Gemms.
        statistics: statistics of their inputs and weights, and of the outputs of convolutions.
        method: calibration method of the ranges.
    """
    nodes = {node.name: node for node in model.graph}
    # Looked up before nodes are inserted between a value and its source.
    sources = {
        value: str(source_of(value).name) for node in model.graph for value in (*node.inputs, *node.outputs) if value
    }
    pairs = Pairs(model.graph)

    def rounded(value: ir.Value) -> ir.Value:
        low, high = interval(statistics.histograms[sources[value]], method)
        scale = (high - low) / _STEPS or 1 / _STEPS
        return pairs.activation(value, scale, np.array(round(-low / scale), np.uint8))

    for product in products:
        node = nodes[product.node]
        assert product.weight is not None, product
        value, weight = node.inputs[0], node.inputs[product.weight]
        assert value is not None
        assert weight is not None
        before = pairs.original(value)
        node.replace_input_with(0, rounded(before))
        int8 = statistics.weight(weight, product.axis, CPU_LEVELS)
        node.replace_input_with(product.weight, pairs.weight(weight, int8, product.axis, node))
        if len(node.inputs) > 2 and (bias := node.inputs[2]) is not None and bias.const_value is not None:
            step = pairs.scales[str(before.name)] * int8.scales
            if _array(bias).shape in ((), (1,), step.shape, (1, *step.shape)):  # other biases of a Gemm differ by row
                node.replace_input_with(2, pairs.bias(bias, step.astype(np.float32), node))
        if product.operator == "Conv":
            output = node.outputs[0]
            users = list(output.uses())
            replacement = rounded(output)
            for user, place in users:
                user.replace_input_with(place, replacement)
    for product in products:
        if product.operator == "Gemm":
            _keep_apart(model.graph, nodes[product.node])
    for division in [node for node in model.graph if node.op_type == "Div"]:
        _divide_later(model.graph, division)
    pairs.drop_replaced()
    return Quantized(tuple(product.node for product in products), pairs.scales)


def _keep_apart(graph: ir.Graph, gemm: ir.Node) -> None:
    """Insert an identity Reshape after a Gemm that ONNX Runtime would otherwise leave in float32.

    ONNX Runtime fuses a Gemm with its activation function into one float32 operator before it looks for integer ones,
    and doesn't fuse a Gemm whose output only some of its users take quantized.
    """
    output = gemm.outputs[0]
    users = list(output.uses())
    quantizers = [use for use in users if use.node.op_type == "QuantizeLinear"]
    if len(users) == 1 and users[0].node.op_type in _ACTIVATIONS:
        moved = users
    elif quantizers and len(quantizers) < len(users):
        moved = quantizers
    else:
        return
    channels = output.shape[1] if output.shape is not None and len(output.shape) == 2 else None
    if not isinstance(channels, int):
        return
    name = f"{output.name}_rows"
    target = ir.Value(
        name=f"{name}_shape", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([2]),
        const_value=ir.Tensor(np.array([-1, channels]), name=f"{name}_shape"),
    )  # fmt: skip
    graph.register_initializer(target)
    same = ir.node("Reshape", [output, target], name=name)
    same.outputs[0].name, same.outputs[0].type, same.outputs[0].shape = name, output.type, output.shape
    graph.insert_after(gemm, same)
    for user, place in moved:
        user.replace_input_with(place, same.outputs[0])


def _divide_later(graph: ir.Graph, division: ir.Node) -> None:
    """Turn W·(x / sum(x)) into (W·x) / sum(x) where the sum is over the inner dimension: fewer values are divided.

    In float32 the result is the same up to rounding.
    """
    whole, total = division.inputs[:2]
    users = list(division.outputs[0].uses())
    if whole is None or total is None or len(users) != 1 or division.outputs[0].is_graph_output():
        return
    product, place = users[0].node, users[0].idx
    reduction, weight = total.producer(), product.inputs[0]
    if product.op_type != "MatMul" or place != 1 or weight is None or weight.const_value is None:
        return
    if reduction is None or reduction.op_type != "ReduceSum" or reduction.inputs[0] is not whole:
        return
    axes = reduction.inputs[1] if len(reduction.inputs) > 1 else None
    kept = "keepdims" not in reduction.attributes or reduction.attributes["keepdims"].as_int() == 1
    if (
        axes is None
        or axes.const_value is None
        or whole.shape is None
        or not kept
        or product.outputs[0].is_graph_output()
    ):
        return
    along = [int(axis) % len(whole.shape) for axis in axes.const_value.numpy().reshape(-1)]
    sizes = weight.const_value.shape.numpy()
    if along != [len(whole.shape) - 2] or len(sizes) != 2 or sizes[0] >= sizes[1]:
        return
    product.replace_input_with(1, whole)
    result = product.outputs[0]
    late = ir.node("Div", [result, total], name=f"{product.name}_divided")
    late.outputs[0].name, late.outputs[0].type, late.outputs[0].shape = late.name, result.type, result.shape
    ir.convenience.replace_all_uses_with(result, late.outputs[0])
    late.replace_input_with(0, result)
    graph.insert_after(product, late)
    graph.remove(division, safe=True)


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)
