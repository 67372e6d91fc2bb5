"""QuantizeLinear and DequantizeLinear around the chosen products of a float32 graph, as TensorRT fuses them.

Symmetric int8; activations by one scale each, weights by one an output channel. Scales are rounded up to float16, so
that the graph computes the same when the rest of it is converted. Biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.histogram import Histogram
from calibration.products import Product
from calibration.ranges import source_of
from calibration.thresholds import LEVELS, Method, threshold
from calibration.weights import Int8Weight, half_up, rounded

_ZERO = np.array(0, np.int8)  # symmetric


@dataclass(frozen=True)
class Statistics:
    """What quantization is taken from.

    Args:
        histograms: of the sources (before moves) of the products' activations.
        weights: in int8, by name and axis of the output channels; others are rounded to the nearest step.
    """

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    weights: Mapping[tuple[str, int], Int8Weight] = field(default_factory=dict)

    def weight(self, value: ir.Value, axis: int) -> Int8Weight:
        """The int8 weight for an initializer."""
        assert value.const_value is not None
        known = self.weights.get((str(value.name), axis))
        return known or rounded(value.const_value.numpy().astype(np.float32), axis)


@dataclass(frozen=True)
class Quantized:
    """What was quantized.

    Args:
        nodes: names of the products, in graph order.
        scales: of the activations, by the value's name.
    """

    nodes: tuple[str, ...]
    scales: dict[str, float]


def quantize(model: ir.Model, products: Iterable[Product], statistics: Statistics, method: Method) -> Quantized:
    """Quantize `products` of the float32 `model`, in place.

    Args:
        model: see `calibration.graphs.prepare`; its other nodes stay as they are.
        products: see `calibration.products`; those with a refusal are not taken.
        statistics: of the products' activations and weights.
        method: how a range is taken from a histogram.
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
    """Width of one step; exact in float16."""
    return half_up(threshold(histogram, method) / LEVELS or 1 / LEVELS)


class Pairs:
    """Quantize and dequantize nodes, made once for each value."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[ir.Value, ir.Value] = {}
        self.made_weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self.scales: dict[str, float] = {}
        self.replaced: set[str] = set()

    def activation(self, value: ir.Value, scale: float, zero: NDArray[np.integer[Any]]) -> ir.Value:
        """`value`, rounded to the type of its zero point and back."""
        if value not in self.made:
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
            self.made[value] = up.outputs[0]
            self.scales[name] = scale
        return self.made[value]

    def original(self, value: ir.Value) -> ir.Value:
        """The value that `value` was made of here, or itself."""
        return next((source for source, made in self.made.items() if made is value), value)

    def weight(self, value: ir.Value, int8: Int8Weight, axis: int, user: ir.Node) -> ir.Value:
        """An int8 initializer and what brings it back; a weight that several products share is made once."""
        if (value, axis) not in self.made_weights:
            other = any(known is value for known, _ in self.made_weights)  # the same weight, turned
            name = f"{value.name}_axis{axis}" if other else str(value.name)
            stored = self._constant(f"{name}_int8", int8.values)
            steps = self._constant(f"{name}_scale", int8.scales)
            zeros = self._constant(f"{name}_zero", np.zeros(len(int8.scales), np.int8))
            up = ir.node("DequantizeLinear", [stored, steps, zeros], {"axis": axis}, name=f"{name}_dequantize")
            self._typed(up, f"{name}_dequantized", ir.DataType.FLOAT, value)
            self.graph.insert_before(user, up)
            self.made_weights[value, axis] = up.outputs[0]
            self.replaced.add(str(value.name))
        return self.made_weights[value, axis]

    def bias(self, value: ir.Value, steps: NDArray[np.float32], user: ir.Node) -> ir.Value:
        """A bias in int32, one a step, in the steps of the sums that it is added to, as an integer kernel takes it."""
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
        """Take out the float32 weights that nothing uses any more."""
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
