"""The shapes of a graph's values for one image, without leaving a trace in the graph."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

Shape = tuple[int, ...]


def image_shapes(model: ir.Model) -> dict[str, Shape]:
    """Shapes by name of the values that a batch of one image gives; values whose shape can't be inferred are left out.

    A graph with a fixed batch keeps that batch.
    """
    graph = model.graph
    computed = [value for node in graph for value in node.outputs]
    before = [(value, value.shape) for value in (*graph.inputs, *computed)]
    try:
        for value in computed:
            value.shape = None
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
                value.shape = ir.Shape([1, *value.shape[1:]])
        common.ShapeInferencePass()(model)
        values = [*graph.inputs, *computed, *graph.initializers.values()]
        return {str(value.name): static for value in values if (static := _static(value)) is not None}
    finally:
        for value, shape in before:
            value.shape = shape


def _static(value: ir.Value) -> Shape | None:
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        return None
    return tuple(int(size) for size in value.shape)  # type: ignore[arg-type]
