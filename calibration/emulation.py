"""Emulation of a float16 graph on a CPU as a GPU computes it: float32 sums, every result rounded to float16.

ONNX Runtime alone would not show what float16 does: on a CPU it runs such a graph in float32, and leaves out the
rounding between nodes, so that a square beyond 65,504 never becomes infinite. Here the rounding is in the graph.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from hemf_export.calibration.graphs import copy_of, infer, parse, replace_by_constant

# Their results are among their inputs, which are rounded already.
_EXACT = (
    *("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Concat", "Slice", "Split", "Gather"),
    *("Relu", "Neg", "Abs", "Max", "Min", "MaxPool", "ReduceMax", "ReduceMin", "GlobalMaxPool", "Expand", "Pad"),
)
_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def emulate(model: ir.Model) -> ir.Model:
    """Return a float32 graph that computes what the float16 (or int8) `model` does; values keep their names.

    Args:
        model: with the types of its values; not changed.
    """
    emulated = copy_of(model)
    graph = emulated.graph
    fold_weights(graph)
    halves = {value for value in graph.initializers.values() if value.dtype == _HALF}
    for value in halves:
        assert value.const_value is not None
        exact = value.const_value.numpy().astype(np.float32)
        value.const_value, value.dtype = ir.Tensor(exact, name=value.name), _SINGLE
    for node in list(graph):
        target = node.attributes["to"].as_int() if node.op_type == "Cast" else None
        rounded = [value for value in node.outputs if value.dtype == _HALF]
        if target == _HALF:
            node.attributes["to"] = ir.AttrInt64("to", int(_SINGLE))  # the rounding behind it is the cast
        for value in rounded:
            value.dtype = _SINGLE
            if node.op_type not in _EXACT:
                _round(graph, node, value)
    common.RemoveUnusedNodesPass()(emulated)
    return emulated


def of_file(proto: onnx.ModelProto) -> ir.Model:
    """Emulate a parsed file, see `emulate`; missing types of values are inferred."""
    model = parse(proto)
    infer(model)
    return emulate(model)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Insert casts to float16 and back behind a value; their result takes over its name."""
    name = str(value.name)
    down = ir.node("Cast", [value], {"to": _HALF}, name=f"{name}_round")
    up = ir.node("Cast", [down.outputs[0]], {"to": _SINGLE}, name=f"{name}_widen")
    for output, suffix, dtype in ((down.outputs[0], "_half", _HALF), (up.outputs[0], "", _SINGLE)):
        output.name, output.dtype, output.shape = f"{name}{suffix}", dtype, value.shape
    ir.convenience.replace_all_uses_with(value, up.outputs[0])
    down.replace_input_with(0, value)
    value.name = f"{name}_exact"
    graph.insert_after(node, [down, up])


def dequantized(node: ir.Node) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Dequantize a constant DequantizeLinear in float32; return the values, the scales and the axis of the scales."""
    stored, steps = (_array(node.inputs[index]) for index in (0, 1))
    zero = _array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, stored.dtype)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    shape = [-1 if index == axis else 1 for index in range(stored.ndim)] if steps.ndim else []
    wide, factors = stored.astype(np.float32), steps.astype(np.float32)
    return (wide - zero.astype(np.float32).reshape(shape)) * factors.reshape(shape), factors, axis


def fold_weights(graph: ir.Graph) -> None:
    """Fold dequantized weights into constants: a CPU would dequantize them in every run."""
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or any(
            value is None or value.const_value is None for value in node.inputs
        ):
            continue
        output = node.outputs[0]
        exact: NDArray[np.generic] = dequantized(node)[0]
        exact = exact.astype(np.float16 if output.dtype == _HALF else np.float32)
        replace_by_constant(graph, output, exact)


def _array(value: ir.Value | None) -> NDArray[np.generic]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
