"""Check the weights and scales that a converted graph stores against the float32 graph that it was made from.

Its weights must be the float32 ones, rounded; the scales of its quantized activations must fit their values. A damaged
one may hardly change the logits of a few images, as the rest of the network compensates. Direct checks find it: a sound
scale is the range of its values divided by the type's levels, and a sound weight is off by its rounding alone. The cost
is a few runs of the float32 graph.
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
_SMALLEST = 2.0**-20  # smaller weights may vanish in float16, whose smallest number is 2⁻²⁴


@dataclass(frozen=True)
class WeightError:
    """Error of a stored weight against the float32 one.

    Args:
        node: name of the node that uses it.
        weight: its name in the float32 graph.
        error: norm of the difference beyond one step of rounding, divided by the norm of the float32 weight, for the
            worst channel. Infinite if not finite.
    """

    node: str
    weight: str
    error: float


@dataclass(frozen=True)
class StepUse:
    """Fit of a quantized activation's scale to its values in the float32 graph.

    Args:
        value: its name in the float32 graph.
        node: name of the first node that takes the quantized value.
        excess: range of the levels divided by the largest value to expect on many more images; at most 1 for a scale
            that fits. The images' largest values are modelled as log-normal, and the largest value to expect lies
            four deviations above their mean: a gate that is closed for most images may be open for another. 0, for
            unknown, where all values are zero.
        clipped: share of the values' sum of squares that clipping removes; 1 if the scale isn't a positive number.
    """

    value: str
    node: str
    excess: float
    clipped: float


def weight_errors(reference: ir.Model, candidate: ir.Model) -> list[WeightError]:
    """Measure the error of every constant input of a node in `candidate` against the same node in `reference`.

    Args:
        reference: float32.
        candidate: the converted graph, not emulated; nodes keep their names.

    Returns:
        Errors in graph order; a weight that several nodes share is listed once.
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
    """Read a constant input: its value, its scales (0 if not quantized) and their axis; None for other inputs."""
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
    # A single number may be all rounding, so only axes whose rows have several are compared.
    axes = [place for place in (range(wanted.ndim) if axis is None else [axis]) if wanted.size > wanted.shape[place]]
    if not axes:
        return float(_norms(beyond.reshape(1, -1), wanted.reshape(1, -1))[0])
    worst = [_norms(_rows(beyond, place), _rows(wanted, place)).max(initial=0.0) for place in axes]
    return float(np.max(worst))


def _rows(array: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Reshape to a row for each channel along `axis`."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _norms(difference: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the norm of each row's difference divided by the row's norm; infinite if not finite."""
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
    """Measure how the scales of `candidate`'s quantized activations fit the values of `reference` on some images.

    Args:
        reference: float32.
        candidate: the quantized graph; values keep their names.
        batches: network input, preferably one image each; only one batch's values are held at a time.
        task: advanced by the images of each batch.
    """
    inputs = {str(value.name) for value in reference.graph.inputs}
    known = {str(value.name) for node in reference.graph for value in node.outputs} | inputs
    quantizers = dict(_quantizers(candidate, known))
    fetched = [name for name in dict.fromkeys(name for name, _ in quantizers.values()) if name not in inputs]
    session = Session(reference, outputs=fetched)
    reached: list[list[float]] = [[] for _ in quantizers]  # largest share of the levels in each batch
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
    """Yield the quantizers of activations, the value's name in the float32 graph and the interval of their levels."""
    for node in candidate.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        while value is not None and value.name not in known and (producer := value.producer()) is not None:
            value = producer.inputs[0] if producer.op_type == "Cast" else None
        step, zero = (node.inputs[place] if len(node.inputs) > place else None for place in (1, 2))
        if value is None or step is None or step.const_value is None or value.name not in known:
            continue
        size = float(step.const_value.numpy().astype(np.float64).reshape(-1)[0])
        point = np.uint8(0) if zero is None or zero.const_value is None else zero.const_value.numpy().reshape(-1)[0]
        levels = np.iinfo(point.dtype)
        lowest = -levels.max if levels.min < 0 else levels.min  # symmetric: -128 is not used
        yield node, (str(value.name), ((lowest - int(point)) * size, (levels.max - int(point)) * size))


def _use(limits: tuple[float, float], reached: list[float], lost: float, squares: float) -> tuple[float, float]:
    """Return the excess and the clipped share of a scale; see `StepUse`."""
    lowest, highest = limits
    if not (lowest <= 0 <= highest and 0 < highest - lowest < np.inf and np.isfinite(lost)):
        return 0.0, 1.0
    clipped = float(lost / squares) if squares else 0.0
    logs = np.log([share for share in reached if share > 0])
    if not len(logs):
        return 0.0, clipped
    deviation = max(float(logs.std()), 1 / len(logs))  # few images underestimate the deviation
    return float(np.exp(-(logs.mean() + _DEVIATIONS * deviation))), clipped


def _user(quantizer: ir.Node) -> str:
    """Return the name of the node that takes the quantized value, after the dequantizer and casts."""
    node = quantizer
    while node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
        users = [use.node for use in node.outputs[0].uses()]
        if not users:
            break
        node = users[0]
    return node_name(node)
