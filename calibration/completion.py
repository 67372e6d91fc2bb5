"""Completing a graph by running it: shape arithmetic becomes constants, and every value gets its type and shape.

Static inference stops at an operator that it doesn't know (those of ONNX Runtime's own domain) and at padding that the
graph computes from its input's shape. What it leaves open is read off ONNX Runtime, at several batch sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calibration.session import Session
from calibration.shapes import IMAGE_SHAPE, infer

_BATCHES = (1, 2, 3, 5)  # that shape arithmetic is run at: what is the same at all of them depends on no batch
_LARGE = 1 << 20  # elements of a constant that is not folded, where no weight is as large: Expand makes them of nothing
_SHAPES = ("Shape", "Size")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def complete(model: ir.Model) -> None:
    """Fold the shape arithmetic of `model` in place, and set the types and shapes that inference leaves open.

    Args:
        model: float32, one input; constants are initializers.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph, or can't run it.
    """
    infer(model)
    if not _has_fixed_size(model.graph):
        return
    folded = [value for node in _shape_arithmetic(model.graph) for value in node.outputs]
    if folded:
        _fold(model.graph, _constant_values(model, folded))
        common.RemoveUnusedNodesPass()(model)
        infer(model)
    unknown = [value for node in model.graph for value in node.outputs if value.dtype is None or value.shape is None]
    if unknown:
        _observe(model, unknown)


def _shape_arithmetic(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes whose results depend on shapes and constants alone, in graph order."""
    known: set[ir.Value] = set(graph.initializers.values())
    for node in graph:
        if node.op_type in _RANDOM or node.domain not in ("", "ai.onnx"):
            continue
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type in _SHAPES or all(value in known for value in inputs):
            known.update(node.outputs)
            yield node


def _constant_values(model: ir.Model, values: Collection[ir.Value]) -> dict[str, NDArray[np.generic]]:
    """The arrays, by name, of those `values` that are the same for every batch."""
    wanted = [str(value.name) for value in values]
    session = Session(model, outputs=wanted)
    largest = max(
        [_LARGE, *(tensor.size for value in model.graph.initializers.values() if (tensor := value.const_value))]
    )
    seen: dict[str, NDArray[np.generic]] = {}
    for number, batch in enumerate(_inputs(model.graph)):
        found = dict(zip(wanted, session.run(batch, wanted), strict=True))
        if not number:
            seen = {name: array for name, array in found.items() if array.size <= largest}
        seen = {name: array for name, array in seen.items() if np.array_equal(array, found[name])}
    return seen


def _fold(graph: ir.Graph, constants: dict[str, NDArray[np.generic]]) -> None:
    values = {str(value.name): value for node in graph for value in node.outputs}
    kept = {value.name for value in graph.outputs}
    for name, array in constants.items():
        if name in kept:
            continue
        replace_by_constant(graph, values[name], array)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def replace_by_constant(graph: ir.Graph, value: ir.Value, array: NDArray[np.generic]) -> None:
    """Let all that take `value` take `array` instead, a new initializer; the node that computes it stays."""
    name = f"{value.name}_folded"
    constant = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape),
        const_value=ir.Tensor(array, name=name),
    )  # fmt: skip
    graph.register_initializer(constant)
    ir.convenience.replace_all_uses_with(value, constant)


def _observe(model: ir.Model, unknown: Collection[ir.Value]) -> None:
    """Set the types of `unknown`, the sizes that are the same at every batch, and the shapes for one image."""
    probe = model.clone()
    values = {str(value.name): value for node in probe.graph for value in node.outputs}
    names = [str(value.name) for value in unknown]
    shapes = {name: ir.node("Shape", [values[name]]) for name in names}
    for name, node in shapes.items():
        node.outputs[0].name, node.outputs[0].dtype = f"{name}_observed_shape", ir.DataType.INT64
    probe.graph.extend(shapes.values())
    asked = [str(node.outputs[0].name) for node in shapes.values()]
    session = Session(probe, outputs=[*names, *asked])
    types = session.types()
    runs = [
        [tuple(int(size) for size in shape) for shape in session.run(batch, asked)] for batch in _inputs(model.graph)
    ]
    for place, value in enumerate(unknown):
        value.type = ir.TensorType(_dtype(types[str(value.name)]))
        seen = [run[place] for run in runs]
        value.meta[IMAGE_SHAPE] = seen[0]
        if len({len(shape) for shape in seen}) == 1:
            value.shape = ir.Shape([sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*seen, strict=True)])


def _has_fixed_size(graph: ir.Graph) -> bool:
    """Whether the batch alone is open in the graph's input: only then is it known what to run."""
    shapes = [value.shape for value in graph.inputs]
    return all(shape is not None and all(isinstance(size, int) for size in shape[1:]) for shape in shapes)


def _inputs(graph: ir.Graph) -> Iterator[NDArray[np.generic]]:
    """Noise for the graph's input, at several batch sizes, or at its fixed one."""
    (taken,) = graph.inputs
    assert taken.shape is not None
    assert taken.dtype is not None
    batch, *sizes = taken.shape
    generator = np.random.default_rng(0)
    for number in (batch,) if isinstance(batch, int) else _BATCHES:
        shape = (number, *(int(size) for size in sizes))  # type: ignore[arg-type]
        if taken.dtype == ir.DataType.UINT8:
            yield generator.integers(0, 256, shape, dtype=np.uint8)
        else:
            yield generator.standard_normal(shape).astype(taken.dtype.numpy())


def _dtype(name: str) -> ir.DataType:
    """`tensor(float)` → FLOAT."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return ir.DataType[{"float16": "FLOAT16", "bfloat16": "BFLOAT16"}.get(inner, inner.upper())]
