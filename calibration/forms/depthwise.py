"""Depthwise convolutions, and averages of a few pixels, as sums of shifted maps.

TensorRT-RTX has no depthwise kernel for sm_75: it spreads (N, C, H, W) to 8·C channels, of which seven eighths are
zeros, and runs a grouped convolution on that: three kernels that move 16.3 MB for 5×5 on (1, 96, 56, 56). The same as
25 shifted multiply-adds is one kernel and moves 1.2 MB. Its sums are float32, as a convolution's are, which costs
nothing inside a kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.forms.matching import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Writer, attribute, constant, order, scope

MOST_TAPS = 49  # of a kernel: beyond 7×7 the compiler cuts the sum into several kernels
MOST_SHARED = 4  # pixels of an average that is worth it
_END = np.iinfo(np.int64).max  # of a slice: the last element too


def rewrite(model: ir.Model) -> int:
    """Rewrite every depthwise convolution with constant weights, in place; how many there were."""
    done = 0
    for node in list(model.graph):
        weight = _weight(node) if node.op_type == "Conv" else _average(node)
        if weight is not None:
            _write(model.graph, node, weight)
            done += 1
    return done


def _average(node: ir.Node) -> NDArray[np.float32] | None:
    """(1, 1, height, width) of an average of pixels that no two windows share and no padding is in; None of others."""
    size, strides = attribute(node, "kernel_shape", ()), attribute(node, "strides", ())
    if (
        node.op_type != "AveragePool"
        or tuple(size) != tuple(strides)
        or len(size) != 2
        or any(attribute(node, "pads", ()))
    ):
        return None
    if (
        attribute(node, "auto_pad", "NOTSET") != "NOTSET"
        or attribute(node, "ceil_mode", 0)
        or size[0] * size[1] > MOST_SHARED
    ):
        return None
    return np.full((1, 1, *size), 1 / (size[0] * size[1]), np.float32)


def _weight(node: ir.Node) -> NDArray[np.float32] | None:
    """(C, 1, height, width) of a depthwise convolution; None of any other."""
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 4 or weight.shape[1] != 1 or weight.dtype != np.float32:
        return None
    if len(weight) == 1 or attribute(node, "group", 1) != len(weight) or weight[0, 0].size > MOST_TAPS:
        return None
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET" or set(attribute(node, "dilations", (1,))) != {1}:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
        return None
    return weight.astype(np.float32)


def _write(graph: ir.Graph, node: ir.Node, weight: NDArray[np.float32]) -> None:
    w = Writer(graph, node, f"{scope(node)}/shifts")
    maps = node.inputs[0]
    assert maps is not None
    before = maps.producer()
    pixels = maps if before is None else before.inputs[0]
    if pixels is None or order(before) != PIXELS_TO_MAPS:
        pixels = w.transpose(maps, *MAPS_TO_PIXELS)
    top, left, bottom, right = attribute(node, "pads", (0, 0, 0, 0))
    if any((top, left, bottom, right)):
        pixels = w.op("Pad", pixels, np.array([0, top, left, 0, 0, bottom, right, 0], np.int64))
    height, width = weight.shape[2:]
    strides = np.array(attribute(node, "strides", (1, 1)), np.int64)
    axes = np.array([1, 2], np.int64)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    total: ir.Value | None = None
    for row in range(height):
        for column in range(width):
            start = np.array([row, column], np.int64)
            left_over = np.array([height - 1 - row, width - 1 - column], np.int64)  # of the padded map, behind the last
            shifted = w.op("Slice", pixels, start, np.where(left_over == 0, _END, -left_over), axes, strides)
            with w.wide():
                term = w.op("Mul", shifted, weight[:, 0, row, column])
                total = term if total is None else w.op("Add", total, term)
    assert total is not None
    if bias is not None:
        with w.wide():
            total = w.op("Add", total, constant(bias))
    _give(w, node, total)


def _give(w: Writer, node: ir.Node, pixels: ir.Value) -> None:
    """Let the readers of a convolution's maps read these pixels."""
    maps = node.outputs[0]
    for user in list(maps.consumers()):
        if order(user) == MAPS_TO_PIXELS:
            w.replace(user.outputs[0], pixels)
    if maps.consumers() or maps.is_graph_output():
        w.replace(maps, w.transpose(pixels, *PIXELS_TO_MAPS))
