"""Where float16 is not safe: from the graph's structure alone, or better from the ranges measured on real images.

Two hazards: overflow (a layer norm's squares, values beyond 65,504) and underflow that changes a result (a softmax over
thousands of values that is divided by its own sum: in float16 whole rows become 0/0; variances below what float16 can
tell from zero).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from calibration.blocks import node_name
from calibration.histogram import Histogram
from calibration.ranges import NORMS, Ranges, source_of
from calibration.shapes import Shape

FLOAT16_MAX = 65504.0
FLOAT16_SMALLEST_NORMAL = 2.0**-14
MARGIN = 4.0  # other images may have values so many times larger

NORM = "layer norm: its squares can exceed 65,504, and its epsilon is subnormal"
RENORMALIZED = "softmax divided by its own sum: rows can become 0/0"
OVERFLOW = "values beyond 65,504 (with a margin of 4)"
LARGE_SQUARES = "layer norm with squares beyond 65,504 (with a margin of 4)"
SMALL_VARIANCE = "layer norm of rows with a variance below 6e-5, float16's smallest normal number"
SMALL_DENOMINATOR = "divides by (or takes the root of) values below 6e-5, float16's smallest normal number"
LONG_SUM = "a sum that could exceed 65,504 on the way"

_ALL_NORMS = (*NORMS, "InstanceNormalization", "GroupNormalization", "RMSNormalization")
_SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")
_SINGULAR = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}  # the input that must not be small
_CHAIN = ("Add", "Mul", "Pow", "ReduceMean", "ReduceSum", "Softmax", "Sqrt", "Sub", "Exp")
_SMALLEST_SUM = 2.0**-7  # of a softmax over other values than those summed: below, float16 loses digits of it


def find_islands(graph: ir.Graph) -> dict[str, str]:
    """Names of the nodes that must stay in float32 whatever the images, and why: for a conversion without any."""
    found: dict[str, str] = {}
    for node in graph:
        if node.op_type in _ALL_NORMS:
            found[node_name(node)] = NORM
        elif chain := _renormalization(node):
            found |= {node_name(member): RENORMALIZED for member in chain}
    return found


def measured_islands(graph: ir.Graph, ranges: Ranges, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Names of the nodes that must stay in float32 for values like those recorded, and why.

    Args:
        graph: float32.
        ranges: of all its values, and of the rows of its layer norms.
        shapes: of its values for one image.
    """
    found: dict[str, str] = {}
    for node in graph:
        seen = [_histogram(value, ranges) for value in (*node.inputs, *node.outputs)]
        largest = max((histogram.largest for histogram in seen if histogram is not None), default=0.0)
        if largest > FLOAT16_MAX / MARGIN:
            found[node_name(node)] = OVERFLOW
        elif node.op_type in _ALL_NORMS and (reason := _norm_hazard(node, ranges)):
            found[node_name(node)] = reason
        elif (chain := _renormalization(node)) and _least(chain[1].outputs[0], ranges) < _SMALLEST_SUM:
            found |= {node_name(member): RENORMALIZED for member in chain}
        elif node.op_type in _SINGULAR and not chain:
            value = node.inputs[_SINGULAR[node.op_type]]
            if value is not None and value.const_value is None and _least(value, ranges) < FLOAT16_SMALLEST_NORMAL:
                found |= {node_name(member): SMALL_DENOMINATOR for member in [node, *_small_sources(value, ranges)]}
        elif node.op_type in _SUMS and _longest_sum(node, ranges, shapes) > FLOAT16_MAX:
            found[node_name(node)] = LONG_SUM
    return found


def _norm_hazard(node: ir.Node, ranges: Ranges) -> str | None:
    value = node.inputs[0]
    assert value is not None
    rows, histogram = ranges.rows.get(str(value.name)), _histogram(value, ranges)
    if rows is None or histogram is None:
        return NORM  # nothing was measured: no risk is taken
    # A row's deviations are at most twice the largest value; the mean of their squares is its variance.
    if max(rows.high, histogram.largest**2) > FLOAT16_MAX / MARGIN:
        return LARGE_SQUARES
    return SMALL_VARIANCE if rows.low < FLOAT16_SMALLEST_NORMAL else None


def _longest_sum(node: ir.Node, ranges: Ranges, shapes: Mapping[str, Shape]) -> float:
    """About the largest partial sum of a reduction: its terms' typical size times their number."""
    value = node.inputs[0]
    histogram = None if value is None else _histogram(value, ranges)
    before, after = (shapes.get(str(side.name), ()) for side in (value, node.outputs[0]) if side is not None)
    if histogram is None or not before:
        return 0.0
    return histogram.root_mean_square() * math.prod(before) / max(1, math.prod(after))


def _small_sources(value: ir.Value, ranges: Ranges) -> list[ir.Node]:
    """The nodes behind a small value that compute it from small values: in float16 it would be lost before."""
    found: list[ir.Node] = []
    waiting = [value]
    while waiting:
        node = source_of(waiting.pop()).producer()
        if node is None or node in found or node.op_type not in _CHAIN:
            continue
        if _least(node.outputs[0], ranges) < FLOAT16_SMALLEST_NORMAL:
            found.append(node)
            waiting.extend(item for item in node.inputs if item is not None and item.const_value is None)
    return found


def _histogram(value: ir.Value | None, ranges: Ranges) -> Histogram | None:
    return None if value is None else ranges.histograms.get(str(source_of(value).name))


def _least(value: ir.Value, ranges: Ranges) -> float:
    """The smallest magnitude that was seen, exact zeros apart; infinite where nothing was measured."""
    histogram = _histogram(value, ranges)
    return math.inf if histogram is None else histogram.smallest


def _renormalization(division: ir.Node) -> list[ir.Node]:
    """[Softmax, ReduceSum, Div] where `division` is softmax(x) / sum(softmax(x)), over whatever axes; else empty."""
    if division.op_type != "Div":
        return []
    numerator, denominator = division.inputs[:2]
    if numerator is None or denominator is None:
        return []
    softmax, total = numerator.producer(), denominator.producer()
    if softmax is None or total is None or softmax.op_type != "Softmax" or total.op_type != "ReduceSum":
        return []
    return [softmax, total, division] if total.inputs[0] is numerator else []
