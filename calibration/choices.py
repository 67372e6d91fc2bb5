"""Find what a graph computes only to choose which of its values others take, as a router does.

A choice is an ArgMax, ArgMin or TopK whose indices steer a Gather. Near a tie, rounding changes it, and with it whole
rows of values: so what leads to a choice alone stays in float32, and unquantized. Products with weights don't belong to
it: their results are rounded once, like any other value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from hemf_export.calibration.blocks import node_name
from hemf_export.calibration.forms.matching import Writer, order
from hemf_export.calibration.ranges import MOVES

CHOICE = "leads to a choice of values alone: near a tie, rounding would change it"
_CHOICES = {"TopK": 1, "ArgMax": 0, "ArgMin": 0}  # output with the indices
_TAKEN = ("Gather", "GatherElements", "GatherND")
_INDEX_ARITHMETIC = (
    *("Add", "Sub", "Mul", "Div", "Mod", "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice"),
    *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
_PRODUCTS = ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul")


def choosing_nodes(graph: ir.Graph) -> list[ir.Node]:
    """List the choices of a graph and what is computed for them alone, without moves of other values, in its order."""
    found: set[ir.Node] = set()
    for choice in graph:
        if choice.op_type in _CHOICES and _steers(choice.outputs[_CHOICES[choice.op_type]]):
            found.add(choice)
            waiting = [choice]
            while waiting:
                for source in _sources(waiting.pop()):
                    if source not in found and _serves_only(source, found) and not _has_weight(source):
                        found.add(source)
                        waiting.append(source)
    for node in graph:
        if node in found and node.op_type in MOVES and not any(source in found for source in _sources(node)):
            found.discard(node)
    return [node for node in graph if node in found]


def feeds(value: ir.Value, choosing: set[ir.Node]) -> bool:
    """Return whether one of the nodes `choosing` reads a value, directly or through moves of its elements."""
    return any(
        user in choosing or (user.op_type in MOVES and feeds(user.outputs[0], choosing)) for user in value.consumers()
    )


def products_as_sums(graph: ir.Graph, names: set[str]) -> dict[str, str]:
    """Write the matrix products among choosing nodes as Mul and ReduceSum, in place, as their values stay in float32.

    TensorRT-RTX has no float32 matrix product for Turing. The sum compiles into one kernel with the means before it.

    Args:
        graph: its shapes are known.
        names: names of nodes that stay in float32.

    Returns:
        The names of the new nodes, and why they stay in float32.
    """
    written: dict[str, str] = {}
    for product in choosing_nodes(graph):
        rows, columns = product.inputs[:2] if product.op_type == "MatMul" else (None, None)
        if rows is None or columns is None or node_name(product) not in names:
            continue
        rank = min(0 if value.shape is None else len(value.shape) for value in (rows, columns))
        if rank < 2:
            continue
        w = Writer(graph, product, f"{node_name(product)}/sum")
        before = columns.producer()
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        turned = before.inputs[0] if before is not None and order(before) == swapped else None
        if turned is None:
            turned = w.transpose(columns, *swapped)
        pairs = (w.op("Unsqueeze", rows, np.array([-2])), w.op("Unsqueeze", turned, np.array([-3])))
        total = w.op("ReduceSum", w.op("Mul", *pairs), np.array([-1]), keepdims=0)
        for node in graph:
            if node is product:
                break
            if node.name is not None and node.name.startswith(f"{w.scope}/"):
                written[node.name] = CHOICE
                node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        w.replace(product.outputs[0], total)
        graph.remove(product, safe=True)
        if before is not None and not before.outputs[0].uses():
            graph.remove(before, safe=True)
    return written


def _steers(indices: ir.Value) -> bool:
    """Return whether indices, or what is computed from them, say what a Gather takes."""
    waiting, seen = [indices], {indices}
    while waiting:
        for user, place in waiting.pop().uses():
            if user.op_type in _TAKEN and place == 1:
                return True
            if user.op_type in _INDEX_ARITHMETIC:
                waiting += [value for value in user.outputs if value not in seen]
                seen.update(user.outputs)
    return False


def _sources(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            yield producer


def _serves_only(node: ir.Node, nodes: set[ir.Node]) -> bool:
    """Return whether nothing but `nodes` reads a node's results."""
    return all(
        not value.is_graph_output() and all(user in nodes for user in value.consumers()) for value in node.outputs
    )


def _has_weight(node: ir.Node) -> bool:
    return node.op_type in _PRODUCTS and any(
        value is not None and value.const_value is not None for value in node.inputs
    )
