"""Rewrite depthwise convolutions and average pooling over a few pixels as sums of shifted maps.

TensorRT-RTX has no depthwise kernel for sm_75: it expands (N, C, H, W) to 8·C channels, of which seven eighths are
zeros, and runs a grouped convolution on them: three kernels that move 16.3 MB for 5×5 on (1, 96, 56, 56). Written as 25
shifted multiply-adds it is one kernel that moves 1.2 MB. Its sums are float32, as a convolution's are, which is free
inside a kernel.

The order of operations matters to the compiler. One slice for each tap, each cast to float32, is one kernel up to 5×5
if only a sum follows; 5×5 with a Gelu and any 7×7 become two, and every shifted map goes through memory: on
(1, 96, 28, 28) 16.3 MB for 7×7, where the plain convolution moves 5.4. So the map is cast once and shifted
horizontally, each row of the kernel is summed, and the sums are shifted vertically: one kernel of 1.9 MB, with whatever
follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.forms.matching import (
    MAPS_TO_PIXELS,
    PIXELS_TO_MAPS,
    Writer,
    attribute,
    constant,
    order,
    scope,
)

MOST_TAPS = 49  # largest kernel, 7×7: beyond, arithmetic dominates, which no count of bytes shows
MOST_SHARED = 4  # largest window of an average that gains
SHIFTS = "shifts"  # suffix of the scope of the nodes of a sum
_END = np.iinfo(np.int64).max  # end of a slice: up to the last element


def rewrite(model: ir.Model) -> int:
    """Rewrite every depthwise convolution with constant weights, in place; return their number."""
    done = 0
    for node in list(model.graph):
        weight = _weight(node) if node.op_type == "Conv" else _average(node)
        if weight is not None:
            _write(model.graph, node, weight)
            done += 1
    return done


def _average(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the kernel (1, 1, height, width) of an average over disjoint windows without padding; None for others."""
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
        or set(attribute(node, "dilations", (1,))) != {1}
        or attribute(node, "ceil_mode", 0)
        or size[0] * size[1] > MOST_SHARED
    ):
        return None
    return np.full((1, 1, *size), 1 / (size[0] * size[1]), np.float32)


def _weight(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the weight (C, 1, height, width) of a depthwise convolution; None for any other node."""
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 4 or weight.shape[1] != 1 or weight.dtype != np.float32:
        return None
    if len(weight) == 1 or attribute(node, "group", 1) != len(weight) or weight[0, 0].size > MOST_TAPS:
        return None
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET" or set(attribute(node, "dilations", (1,))) != {1}:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
        return None
    return weight.astype(np.float32, copy=False)


def _write(graph: ir.Graph, node: ir.Node, weight: NDArray[np.float32]) -> None:
    w = Writer(graph, node, f"{scope(node)}/{SHIFTS}")
    maps = node.inputs[0]
    assert maps is not None
    before = maps.producer()
    pixels = maps if before is None else before.inputs[0]
    if pixels is None or order(before) != PIXELS_TO_MAPS:
        pixels = w.transpose(maps, *MAPS_TO_PIXELS)
    top, left, bottom, right = attribute(node, "pads", (0, 0, 0, 0))
    height, width = weight.shape[2:]
    down, across = attribute(node, "strides", (1, 1))
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if any((top, left, bottom, right)):
        # In float16, as the compiler writes the padded map to memory.
        pixels = w.op("Pad", pixels, np.array([0, top, left, 0, 0, bottom, right, 0], np.int64))
    with w.wide():
        columns = [_shifted(w, pixels, 2, place, width, across) for place in range(width)]
        rows = []
        for row in range(height):
            terms = [w.op("Mul", column, weight[:, 0, row, place]) for place, column in enumerate(columns)]
            rows.append(_shifted(w, _sum(w, terms), 1, row, height, down))
        total = _sum(w, rows)
        if bias is not None:
            total = w.op("Add", total, bias)
    _replace_maps(w, node, total)


def _shifted(w: Writer, pixels: ir.Value, axis: int, start: int, size: int, stride: int) -> ir.Value:
    """Shift padded pixels along an axis to where tap `start` of `size` reads them."""
    if size == stride == 1:
        return pixels
    left_over = size - 1 - start  # after the last
    bounds = (start, -left_over if left_over else _END, axis, stride)
    return w.op("Slice", pixels, *(np.array([bound], np.int64) for bound in bounds))


def _sum(w: Writer, terms: Sequence[ir.Value]) -> ir.Value:
    total = terms[0]
    for term in terms[1:]:
        total = w.op("Add", total, term)
    return total


def _replace_maps(w: Writer, node: ir.Node, pixels: ir.Value) -> None:
    """Replace a convolution's maps by these pixels in all nodes that read them."""
    maps = node.outputs[0]
    for user in list(maps.consumers()):
        if order(user) == MAPS_TO_PIXELS:
            w.replace(user.outputs[0], pixels)
    if maps.consumers() or maps.is_graph_output():
        w.replace(maps, w.transpose(pixels, *PIXELS_TO_MAPS))
