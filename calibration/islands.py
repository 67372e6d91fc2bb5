"""Where float16 is not safe, read from the graph's structure alone.

Two hazards: overflow (a layer norm's mean of squares) and underflow (a softmax over thousands of values that is then
divided by its own sum: in float16 whole rows of it become 0/0).
"""

from __future__ import annotations

import onnx_ir as ir

NORM = "layer norm: its mean of squares can exceed 65,504, and its epsilon is subnormal"
RENORMALIZED = "softmax divided by its own sum: rows can become 0/0"

_NORMS = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization")


def find_islands(graph: ir.Graph) -> dict[str, str]:
    """Names of the nodes that must stay in float32, and why."""
    found: dict[str, str] = {}
    for node in graph:
        if node.op_type in _NORMS:
            found[_name(node)] = NORM
        elif node.op_type == "Div" and (chain := _renormalization(node)):
            for member in chain:
                found[_name(member)] = RENORMALIZED
    return found


def _renormalization(division: ir.Node) -> list[ir.Node]:
    """[Softmax, ReduceSum, Div] where `division` is softmax(x) / sum(softmax(x)), over whatever axes; else empty."""
    numerator, denominator = division.inputs[:2]
    if numerator is None or denominator is None:
        return []
    softmax, total = numerator.producer(), denominator.producer()
    if softmax is None or total is None or softmax.op_type != "Softmax" or total.op_type != "ReduceSum":
        return []
    return [softmax, total, division] if total.inputs[0] is numerator else []


def _name(node: ir.Node) -> str:
    return node.name or f"{node.op_type}_{node.outputs[0].name}"
