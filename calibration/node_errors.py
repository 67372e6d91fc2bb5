"""The errors of a converted graph beside the float32 one, node by node: accumulated up to a node, and its own.

Compared end to end, errors add up and hide where they come from. For a node's own error it is given the float32 graph's
values: both graphs are made one, in which the converted graph takes a value that the float32 graph has under the same
name from there. So a node's error is its own, with the quantizers and casts right before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.blocks import RESIZE, block_of, node_name
from hemf_export.calibration.graphs import copy_of
from hemf_export.calibration.ranges import MOVES
from hemf_export.calibration.session import Session
from hemf_export.files.progress import SILENT, Progress

VALUES_A_RUN = 200  # that are held at a time
_NOTICEABLE = 0.01  # relative error below which no node is blamed
_JUMP = 4.0  # times the error of its inputs: beyond, the node itself made it
_MARK = "own:"  # before the names of what is the converted graph's
# Of a value's root mean square: below, float16 can't tell it from zero. Where such values matter, the graph keeps them
# in float32; where they are what is left of larger ones (a mean over a layer norm), all of one is rounding.
_LEAST = 2.0**-14
# Of what a mean is taken of: below, it is what is left of values that cancel, and their rounding is a share of it.
_LEAST_MEAN = 2.0**-8


@dataclass(frozen=True)
class AccumulatedError:
    """The error of a node's output, with all that came before.

    Args:
        node: its name.
        error: norm of the difference by the norm of the float32 value; infinite where it isn't finite.
        inputs: the largest error among the node's inputs.
    """

    node: str
    error: float
    inputs: float

    @property
    def jump(self) -> float:
        """Factor by which the node itself made it worse."""
        return self.error / max(self.inputs, 1e-6)

    @property
    def blamed(self) -> bool:
        """Return whether the error arises here."""
        return self.error > _NOTICEABLE and self.jump > _JUMP


def accumulated_errors(reference: ir.Model, candidate: ir.Model, batch: NDArray[np.generic]) -> list[AccumulatedError]:
    """Measure the error of every node of `reference` whose output `candidate` has under the same name, in graph order.

    Args:
        reference: float32.
        candidate: converted from it, and emulated; values keep their names.
        batch: network input, best the images with the largest differences.
    """
    there = {value.name for node in candidate.graph for value in node.outputs}
    nodes = [node for node in reference.graph if node.outputs[0].name in there]
    own = comparable(reference, candidate)
    names = [str(node.outputs[0].name) for node in own]
    sessions = [Session(model, outputs=names) for model in (reference, candidate)]
    relative: dict[str, float] = {}
    for start in range(0, len(names), VALUES_A_RUN):
        part = names[start : start + VALUES_A_RUN]
        exact, other = (session.run(batch, part) for session in sessions)
        relative |= {name: _relative(*pair) for name, pair in zip(part, zip(exact, other, strict=True), strict=True)}
    result: list[AccumulatedError] = []
    moved: dict[str, float] = {}
    for node in nodes:
        inputs = [moved.get(str(value.name), 0.0) for value in node.inputs if value is not None]
        name = str(node.outputs[0].name)
        moved[name] = relative.get(name, max(inputs, default=0.0))
        if name in relative:
            result.append(AccumulatedError(node_name(node), relative[name], max(inputs, default=0.0)))
    return result


def comparable(reference: ir.Model, candidate: ir.Model) -> list[ir.Node]:
    """The nodes of `reference` that compute floats which `candidate` has under the same name, moves apart, in order.

    Not those of the resize: where a sum is divided into whole and rest depends on the precision, what comes of both
    doesn't.
    """
    there = {value.name for node in candidate.graph for value in node.outputs}
    floats = ir.DataType.FLOAT, ir.DataType.FLOAT16
    return [
        node
        for node in reference.graph
        if node.outputs[0].name in there
        and node.op_type not in MOVES
        and node.outputs[0].dtype in floats
        and block_of(node_name(node)) != RESIZE
    ]


def worst_images(candidate: NDArray[np.float32], reference: NDArray[np.float32], count: int) -> list[int]:
    """Rank the `count` images whose logits (n, classes) differ most, the worst first; not finite is the worst."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(candidate.astype(np.float64) - reference).max(1)
    difference[~np.isfinite(difference)] = np.inf
    return [int(index) for index in np.argsort(-difference, kind="stable")[:count]]


def offenders(errors: Sequence[AccumulatedError], *, at_most: int = 8) -> list[AccumulatedError]:
    """Find the nodes where an error arises: those that are the first to be not finite, else the largest jumps.

    Behind the first node that isn't finite nothing is known, so only it is named then.
    """
    broken = [error for error in errors if not np.isfinite(error.error)]
    if broken:
        first = broken[0]
        return [first, *(error for error in broken[1:at_most] if np.isfinite(error.inputs))]
    blamed = sorted((error for error in errors if error.blamed), key=lambda error: -error.jump)
    return blamed[:at_most]


def _relative(exact: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    wide, narrow = exact.astype(np.float64), other.astype(np.float64)
    if not np.isfinite(narrow).all():
        return float("inf")
    norm = float(np.linalg.norm(wide))
    difference = float(np.linalg.norm(wide - narrow))
    return difference / norm if norm else float(difference > 0)


@dataclass(frozen=True)
class NodeError:
    """The errors of a node's output: norm of the difference by the norm of the float32 value, over all images.

    A value that is smaller than float16's smallest normal number counts as large as that, and a mean as large as a
    256th of what it is taken of.

    Args:
        node: its name.
        operator: what it computes.
        error: in the converted graph, with all that came before; infinite where it isn't finite.
        own: on exact inputs.
    """

    node: str
    operator: str
    error: float
    own: float


def measure(
    reference: ir.Model,
    candidate: ir.Model,
    batches: Sequence[NDArray[np.generic]],
    progress: Progress = SILENT,
) -> list[NodeError]:
    """Measure the errors of every node of `reference` whose value `candidate` has under the same name, in graph order.

    Args:
        reference: float32.
        candidate: converted from it, and emulated; values keep their names.
        batches: network input; values of one batch at a time are held.
        progress: receives how many runs of a part of the graph are done.
    """
    nodes = comparable(reference, candidate)
    both, own_names = isolated(reference, candidate)
    names = [str(node.outputs[0].name) for node in nodes]
    inputs = set(reference.graph.inputs)
    averaged = {
        str(node.outputs[0].name): str(node.inputs[0].name)
        for node in nodes
        if node.op_type == "ReduceMean" and node.inputs[0] is not None and node.inputs[0] not in inputs
    }
    fetched = dict.fromkeys((*names, *(own_names[name] for name in names), *averaged.values()))
    beside = Session(both, outputs=list(fetched))
    alone = Session(candidate, outputs=names)
    parts = [slice(start, start + VALUES_A_RUN) for start in range(0, len(names), VALUES_A_RUN)]
    runs = list(itertools.product(batches, parts))
    sums = np.zeros((3, len(names)))  # of squares: the exact values, and both differences from them
    least = np.zeros(len(names))  # of the first sum
    with progress.task("Running both graphs", len(runs), "parts") as task:
        for batch, part in runs:
            asked = names[part]
            both_of = list(dict.fromkeys((*asked, *(own_names[name] for name in asked),
                                          *(averaged[name] for name in asked if name in averaged))))  # fmt: skip
            values = dict(zip(both_of, beside.run(batch, both_of), strict=True))
            for place, (name, whole) in enumerate(zip(asked, alone.run(batch, asked), strict=True), start=part.start):
                arrays = values[name], whole, values[own_names[name]]
                sums[:, place] += _squares(*(array.astype(np.float64) for array in arrays))
                least[place] += values[name].size * _LEAST**2
                if name in averaged:
                    averaged_over = values[averaged[name]].astype(np.float64)
                    least[place] += values[name].size * _LEAST_MEAN**2 * float((averaged_over**2).mean())
            task.advance()
    exact_squares = np.maximum(sums[0], least)
    relative = _ratio(sums[1], exact_squares), _ratio(sums[2], exact_squares)
    return [
        NodeError(node_name(node), node.op_type, float(error), float(own))
        for node, error, own in zip(nodes, *relative, strict=True)
    ]


def _squares(*values: NDArray[np.float64]) -> tuple[float, float, float]:
    exact, whole, own = values
    with np.errstate(invalid="ignore", over="ignore"):
        return float((exact**2).sum()), float(((whole - exact) ** 2).sum()), float(((own - exact) ** 2).sum())


def _ratio(difference: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root of the ratio; infinite where a difference isn't finite."""
    return np.where(np.isfinite(difference), np.sqrt(np.nan_to_num(difference) / exact), np.inf)


def isolated(reference: ir.Model, candidate: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """Build one graph that computes `reference`, and beside each of its values what `candidate` makes of exact inputs.

    Args:
        reference: float32; left as it is.
        candidate: converted from it, and emulated: all its values are float32; left as it is.

    Returns:
        The graph, and the names of the candidate's values in it by those of the reference.
    """
    both, other = copy_of(reference), copy_of(candidate)
    exact = {str(value.name): value for node in both.graph for value in node.outputs}
    exact |= {str(value.name): value for value in both.graph.inputs}
    nodes = list(other.graph)
    shared = {name: name for node in nodes for value in node.outputs if (name := str(value.name)) in exact}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.const_value is None and str(value.name) in exact:
                node.replace_input_with(index, exact[str(value.name)])
    weights = list(other.graph.initializers.values())
    other.graph.outputs.clear()
    other.graph.remove(nodes)
    other.graph.initializers.clear()
    for value in (*weights, *(value for node in nodes for value in node.outputs)):
        value.name = f"{_MARK}{value.name}"
    for value in weights:
        both.graph.register_initializer(value)
    for node in nodes:
        node.name = f"{_MARK}{node.name}"
    both.graph.extend(nodes)
    return both, {name: f"{_MARK}{name}" for name in shared}
