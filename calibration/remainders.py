"""The remainder of a product above its whole part, taken within the product, where float16 keeps its digits.

The resize of raw images (`hemf_export.raw_pixels`) takes x·W - floor(x·W). In float16, x·W has lost what that is about:
of 200.3, it has 200.25. But a product sums in float32 and rounds its result alone; so the difference is made part of
the sum, as [x, floor(x·W)]·[W; -1], and is exact, as it is small. Where x·W was rounded up to a whole number, the
remainder comes out below zero: both together are what they were.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.blocks import RESIZE, block_of, node_name


def into_products(graph: ir.Graph) -> int:
    """Replace each such difference of the resize by a product, in place; how many there were.

    Values and nodes keep their names.
    """
    made = 0
    for node in list(graph):
        if node.op_type == "Sub" and block_of(node_name(node)) == RESIZE and (source := _product(node)) is not None:
            _replace(graph, node, source)
            made += 1
    return made


def _product(difference: ir.Node) -> ir.Node | None:
    """The product that a difference takes the whole part from; None where it is another difference."""
    value, whole = difference.inputs
    source = None if value is None else value.producer()
    floor = None if whole is None else whole.producer()
    if source is None or floor is None or source.op_type != "MatMul" or floor.op_type != "Floor":
        return None
    return source if floor.inputs[0] is value else None


def _replace(graph: ir.Graph, difference: ir.Node, source: ir.Node) -> None:
    whole = difference.inputs[1]
    constant = 0 if _is_constant(source.inputs[0]) else 1
    weight, levels = source.inputs[constant], source.inputs[1 - constant]
    assert weight is not None
    assert weight.const_value is not None
    old = difference.outputs[0]
    name = str(old.name)
    extended = _extended(weight.const_value.numpy(), from_left=constant == 0)
    matrix = ir.Value(
        name=f"{name}_weight", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(extended.shape),
        const_value=ir.Tensor(extended, name=f"{name}_weight"),
    )  # fmt: skip
    graph.register_initializer(matrix)
    joined = ir.node(
        "Concat", [levels, whole], {"axis": -2 if constant == 0 else -1}, name=f"{node_name(difference)}/joined"
    )
    joined.outputs[0].name, joined.outputs[0].type = f"{name}_joined", old.type
    factors = [matrix, joined.outputs[0]] if constant == 0 else [joined.outputs[0], matrix]
    remainder = ir.node("MatMul", factors, name=node_name(difference))
    new = remainder.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(difference, [joined, remainder])
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(difference, safe=True)
    new.name = name


def _extended(weight: NDArray[np.generic], *, from_left: bool) -> NDArray[np.generic]:
    """The weight with what takes the whole part away: beside it, or below it."""
    size = weight.shape[0 if from_left else 1]
    return np.concatenate([weight, -np.eye(size, dtype=weight.dtype)], axis=1 if from_left else 0)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None
