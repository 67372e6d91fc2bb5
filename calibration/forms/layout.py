"""Cancel the changes of layout that rewritten blocks leave where they meet."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from hemf_export.calibration.forms.matching import constant, order, target_shape


def cancel(model: ir.Model) -> None:
    """Merge consecutive Transposes, and consecutive Reshapes; remove those that change nothing."""
    graph = model.graph
    changed = True
    while changed:
        changed = sum(_transpose(graph, node) or _reshape(graph, node) for node in list(graph)) > 0
        common.CommonSubexpressionEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)


def _transpose(graph: ir.Graph, node: ir.Node) -> bool:
    axes, source = order(node), node.inputs[0] if node.inputs else None
    if axes is None or source is None:
        return False
    if axes == tuple(range(len(axes))):
        return _bypass(node, source)
    before = source.producer()
    inner = order(before)
    if inner is None or before is None:
        return False
    node.replace_input_with(0, before.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in axes])
    return True


def _reshape(graph: ir.Graph, node: ir.Node) -> bool:
    shape, source = target_shape(node), node.inputs[0] if node.inputs else None
    if shape is None or source is None or min(shape[1:], default=0) < 1:
        return False
    if source.shape is not None and len(source.shape) == len(shape) and tuple(source.shape[1:]) == shape[1:]:
        return _bypass(node, source)
    before = source.producer()
    if before is None or before.op_type != "Reshape" or _keeps_first(node):
        return False
    node.replace_input_with(0, before.inputs[0])
    return True


def _keeps_first(node: ir.Node) -> bool:
    """Return whether a Reshape copies the size of the first axis from its input, so that it depends on the input."""
    shape = constant(node.inputs[1])
    return shape is not None and shape[0] == 0


def _bypass(node: ir.Node, source: ir.Value) -> bool:
    """Replace the output of `node` by its input; return False if it is a graph output or has no reader."""
    output = node.outputs[0]
    if output.is_graph_output() or not output.consumers():
        return False
    ir.convenience.replace_all_uses_with(output, source)
    return True
