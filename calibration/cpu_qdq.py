"""QuantizeLinear and DequantizeLinear as ONNX Runtime runs them fast on a CPU: activations uint8, the rest float32.

A convolution becomes integer only where its output is quantized too; a Gemm gives float32 from integers. Depthwise
convolutions gain as well. Products of two activations stay float32.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.products import Product
from calibration.qdq import Pairs, Quantized, Statistics
from calibration.ranges import source_of
from calibration.thresholds import Method, interval

_STEPS = 255  # of uint8


def quantize(model: ir.Model, products: Collection[Product], statistics: Statistics, method: Method) -> Quantized:
    """Quantize `products` of the float32 `model`, in place; see `calibration.qdq.quantize`.

    Args:
        model: see `calibration.graphs.prepare`.
        products: convolutions and Gemms.
        statistics: of their inputs and weights, and of the outputs of convolutions.
        method: how a range is taken from a histogram.
    """
    nodes = {node.name: node for node in model.graph}
    # Looked up before anything is put between a value and its source.
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
        int8 = statistics.weight(weight, product.axis)
        node.replace_input_with(product.weight, pairs.weight(weight, int8, product.axis, node))
        if len(node.inputs) > 2 and (bias := node.inputs[2]) is not None and bias.const_value is not None:
            step = pairs.scales[str(before.name)] * int8.scales
            if _array(bias).shape in ((), (1,), step.shape, (1, *step.shape)):  # others of a Gemm's differ by row
                node.replace_input_with(2, pairs.bias(bias, step.astype(np.float32), node))
        if product.operator == "Conv":
            output = node.outputs[0]
            users = list(output.uses())
            replacement = rounded(output)
            for user, place in users:
                user.replace_input_with(place, replacement)
    pairs.drop_replaced()
    return Quantized(tuple(product.node for product in products), pairs.scales)


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)
