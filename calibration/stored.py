"""The numbers that a converted graph stores, beside the float32 graph that it was made from.

Its weights must still be the float32 ones, rounded; the steps of its quantized activations must fit the values that
they are for. A damaged one may move the logits of a few images hardly at all: the rest of the network makes up for it.
Looked at itself it can't hide, since a sound step is the range of its values over the type's levels, and a sound weight
is off by its rounding alone. Neither costs more than some runs of the float32 graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.blocks import node_name
from hemf_export.calibration.emulation import dequantized
from hemf_export.calibration.session import Session
from hemf_export.files.progress import IDLE, Task

_DEVIATIONS = 4
_SMALLEST = 2.0**-20  # a weight all below it may be lost in float16, whose smallest number is 2⁻²⁴


@dataclass(frozen=True)
class WeightError:
    """The distance of a stored weight from the float32 one.

    Args:
        node: that uses it.
        weight: its name in the float32 graph.
        error: norm of the difference, a step of its rounding let pass, by the norm of the float32 weight; of its worst
            channel. Infinite where it isn't finite.
    """

    node: str
    weight: str
    error: float


@dataclass(frozen=True)
class StepUse:
    """The fit of a quantized activation's step to the values that the float32 graph has there.

    Args:
        value: its name in the float32 graph.
        node: the first node that takes the quantized value.
        excess: how many times beyond what many more images would reach the levels go: 1 and less for a step that fits.
            The largest values of the images are taken as log-normal, and four deviations of them as what is reached: a
            gate that is closed for most images may be wide open for another. Not known, 0, where all are closed.
        clipped: share of the values' squares that clipping takes away; 1 where a step isn't a positive number.
    """

    value: str
    node: str
    excess: float
    clipped: float


def weight_errors(reference: ir.Model, candidate: ir.Model) -> list[WeightError]:
    """Measure the error of every constant that a node of `reference` and the node of that name in `candidate` take.

    Args:
        reference: float32.
        candidate: converted from it; nodes keep their names. Not emulated.

    Returns:
        In graph order; a weight that several nodes share is listed once.
    """
    nodes = {node_name(node): node for node in candidate.graph}
    errors: dict[tuple[str, ir.Value], WeightError] = {}
    for node in reference.graph:
        other = nodes.get(node_name(node))
        if other is None or other.op_type != node.op_type:
            continue
        for exact, stored in zip(node.inputs, other.inputs, strict=False):
            if exact is None or stored is None or exact.const_value is None or (str(exact.name), stored) in errors:
                continue
            wanted = exact.const_value.numpy()
            constant = _constant(stored)
            if constant is None or wanted.dtype.kind != "f":
                continue
            error = _error(wanted.astype(np.float64), *constant)
            errors[str(exact.name), stored] = WeightError(node_name(node), str(exact.name), error)
    return list(errors.values())


def _constant(value: ir.Value) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None] | None:
    """Read what a constant input computes, its steps (0 where it isn't quantized) and the axis that they lie along."""
    if value.const_value is not None:
        return value.const_value.numpy().astype(np.float64), np.zeros(1), None
    node = value.producer()
    if node is None or any(source is None or source.const_value is None for source in node.inputs):
        return None
    if node.op_type == "Cast" and node.inputs[0] is not None:
        return _constant(node.inputs[0])
    if node.op_type != "DequantizeLinear":
        return None
    exact, steps, axis = dequantized(node)
    return exact.astype(np.float64), np.abs(steps.astype(np.float64)), axis


def _error(
    wanted: NDArray[np.float64], stored: NDArray[np.float64], steps: NDArray[np.float64], axis: int | None
) -> float:
    if wanted.shape != stored.shape:
        return float("inf")
    beyond = np.abs(stored - wanted)
    if steps.size > 1 and axis is not None:
        steps = steps.reshape([-1 if place == axis else 1 for place in range(wanted.ndim)])
    beyond = np.maximum(beyond - steps, 0)
    # One number, of a vector or of a weight with a single output, may be nothing but rounding: rows have several.
    axes = [place for place in (range(wanted.ndim) if axis is None else [axis]) if wanted.size > wanted.shape[place]]
    if not axes:
        return float(_norms(beyond.reshape(1, -1), wanted.reshape(1, -1))[0])
    worst = [_norms(_rows(beyond, place), _rows(wanted, place)).max(initial=0.0) for place in axes]
    return float(np.max(worst))


def _rows(array: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """A row for each channel along `axis`."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _norms(difference: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norm of each row's difference by the row's own; infinite where it isn't finite."""
    least = _SMALLEST * np.sqrt(exact.shape[1])
    relative: NDArray[np.float64] = np.linalg.norm(difference, axis=1) / np.maximum(
        np.linalg.norm(exact, axis=1), least
    )
    return np.where(np.isfinite(relative), relative, np.inf)


def step_uses(
    reference: ir.Model,
    candidate: ir.Model,
    batches: Iterable[NDArray[np.generic]],
    task: Task = IDLE,
) -> list[StepUse]:
    """Measure how the steps of `candidate`'s quantized activations fit what `reference` computes on some images.

    Args:
        reference: float32.
        candidate: quantized; values keep their names.
        batches: network input, best an image each; the values of one batch at a time are held.
        task: moved on by the images of each batch.
    """
    inputs = {str(value.name) for value in reference.graph.inputs}
    known = {str(value.name) for node in reference.graph for value in node.outputs} | inputs
    quantizers = dict(_quantizers(candidate, known))
    fetched = [name for name in dict.fromkeys(name for name, _ in quantizers.values()) if name not in inputs]
    session = Session(reference, outputs=fetched)
    reached: list[list[float]] = [[] for _ in quantizers]  # share of the levels, a batch
    squares, lost = (np.zeros(len(quantizers)) for _ in range(2))
    for batch in batches if quantizers else ():
        values = dict(zip(fetched, session.run(batch, fetched) if fetched else [], strict=True))
        values |= dict.fromkeys(inputs, batch)
        for place, (name, limits) in enumerate(quantizers.values()):
            exact = values[name].astype(np.float64)
            ends = zip((exact.min(), exact.max()), limits, strict=True)
            reached[place].append(max((float(end / limit) for end, limit in ends if limit), default=0.0))
            squares[place] += float((exact**2).sum())
            lost[place] += float(((exact - np.clip(exact, *limits)) ** 2).sum())
        task.advance(len(batch))
    return [
        StepUse(name, _user(node), *_use(limits, reached[place], lost[place], squares[place]))
        for place, (node, (name, limits)) in enumerate(quantizers.items())
    ]


def _quantizers(candidate: ir.Model, known: set[str]) -> Iterator[tuple[ir.Node, tuple[str, tuple[float, float]]]]:
    """Quantizers of activations: the value's name in the float32 graph, and what their levels span."""
    for node in candidate.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        while value is not None and value.name not in known and (made_by := value.producer()) is not None:
            value = made_by.inputs[0] if made_by.op_type == "Cast" else None
        step, zero = (node.inputs[place] if len(node.inputs) > place else None for place in (1, 2))
        if value is None or step is None or step.const_value is None or value.name not in known:
            continue
        size = float(step.const_value.numpy().astype(np.float64).reshape(-1)[0])
        point = np.uint8(0) if zero is None or zero.const_value is None else zero.const_value.numpy().reshape(-1)[0]
        levels = np.iinfo(point.dtype)
        lowest = -levels.max if levels.min < 0 else levels.min  # symmetric: -128 is not a range's end
        yield node, (str(value.name), ((lowest - int(point)) * size, (levels.max - int(point)) * size))


def _use(limits: tuple[float, float], reached: list[float], lost: float, squares: float) -> tuple[float, float]:
    """Excess and clipped share."""
    lowest, highest = limits
    if not (lowest <= 0 <= highest and 0 < highest - lowest < np.inf and np.isfinite(lost)):
        return 0.0, 1.0
    clipped = float(lost / squares) if squares else 0.0
    logs = np.log([share for share in reached if share > 0])
    if not len(logs):
        return 0.0, clipped
    deviation = max(float(logs.std()), 1 / len(logs))  # few images don't show how much they differ
    return float(np.exp(-(logs.mean() + _DEVIATIONS * deviation))), clipped


def _user(quantizer: ir.Node) -> str:
    """The node that the quantized value is for: behind the dequantizer and casts."""
    node = quantizer
    while node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
        users = [use.node for use in node.outputs[0].uses()]
        if not users:
            break
        node = users[0]
    return node_name(node)
