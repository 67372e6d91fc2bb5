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
_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Selu", "Softplus", "Softsign")


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
    for product in products:
        if product.operator == "Gemm":
            _keep_apart(model.graph, nodes[product.node])
    pairs.drop_replaced()
    return Quantized(tuple(product.node for product in products), pairs.scales)


def _keep_apart(graph: ir.Graph, gemm: ir.Node) -> None:
    """Put a Reshape that changes nothing behind a Gemm where ONNX Runtime would leave it in float32.

    It makes a Gemm with its activation one float32 operator before it looks for integers; and of one whose output is
    quantized for some of its users and taken as it is by others, it makes none.
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


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)
