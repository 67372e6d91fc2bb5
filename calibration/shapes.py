"""The shapes of a graph's values for one image, without leaving a trace in the graph."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes import common

Shape = tuple[int, ...]
IMAGE_SHAPE = "image_shape"  # in a value's `meta`: its shape for one image, where a run showed it


def infer(model: ir.Model) -> None:
    """Set the types and shapes that static inference tells, in place; values that it can't tell keep theirs."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.ERROR)  # what it can't infer is no warning to whoever converts a file
    try:
        # Strict inference would give up on the whole graph at one operator that it can't infer.
        common.ShapeInferencePass(strict_mode=False)(model)
    finally:
        logger.setLevel(before)


def image_shapes(model: ir.Model) -> dict[str, Shape]:
    """Shapes by name of the values that a batch of one image gives: inferred, or else observed in a run.

    Values whose shape is known neither way are left out; see `calibration.completion`.

    A graph with a fixed batch keeps that batch.
    """
    graph = model.graph
    computed = [value for node in graph for value in node.outputs]
    before = [(value, value.shape) for value in (*graph.inputs, *computed)]
    try:
        for value in computed:
            observed = value.meta.get(IMAGE_SHAPE)
            value.shape = None if observed is None else ir.Shape(observed)
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
                value.shape = ir.Shape([1, *value.shape[1:]])
        infer(model)
        values = [*graph.inputs, *computed, *graph.initializers.values()]
        return {str(value.name): static for value in values if (static := _static(value)) is not None}
    finally:
        for value, shape in before:
            value.shape = shape


def _static(value: ir.Value) -> Shape | None:
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        return None
    return tuple(int(size) for size in value.shape)  # type: ignore[arg-type]
