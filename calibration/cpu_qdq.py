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
    for division in [node for node in model.graph if node.op_type == "Div"]:
        _divide_later(model.graph, division)
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


def _divide_later(graph: ir.Graph, division: ir.Node) -> None:
    """W·(x / sum(x)) as (W·x) / sum(x), where the sum is over what W's rows run along: fewer values are divided.

    In float32 it is the same but for rounding.
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
