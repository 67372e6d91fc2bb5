"""Errors of a converted graph against the float32 one, node by node: accumulated up to a node, and the node's own.

End-to-end comparison hides where errors arise. To isolate a node's own error, both graphs are merged into one, in which
each converted node takes the float32 graph's values of the same names as inputs. Its error then includes only its own
rounding and that of the quantizers and casts right before it.
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

VALUES_A_RUN = 200  # values held at a time
_NOTICEABLE = 0.01  # relative error below which no node is to blame
_JUMP = 4.0  # factor over the error of its inputs from which the node itself is to blame
_MARK = "own:"  # prefix of names of the converted graph
# Smallest root mean square of a value that counts: float16 can't tell smaller ones from zero. Where such values matter,
# the graph keeps them in float32; where they remain of larger ones (a mean over a layer norm), they are all rounding.
_LEAST = 2.0**-14
# Smallest share of its inputs that a mean counts as: a smaller mean remains of values that cancel, with their rounding.
_LEAST_MEAN = 2.0**-8


@dataclass(frozen=True)
class AccumulatedError:
    """Accumulated error of a node's output, including that of all nodes before it.

    Args:
        node: name of the node.
        error: norm of the difference divided by the norm of the float32 value; infinite if not finite.
        inputs: largest error among the node's inputs.
    """

    node: str
    error: float
    inputs: float

    @property
    def jump(self) -> float:
        """Factor by which the node increased the error of its inputs."""
        return self.error / max(self.inputs, 1e-6)

    @property
    def blamed(self) -> bool:
        """Whether the error arises at this node."""
        return self.error > _NOTICEABLE and self.jump > _JUMP


def accumulated_errors(reference: ir.Model, candidate: ir.Model, batch: NDArray[np.generic]) -> list[AccumulatedError]:
    """Measure the error of every node of `reference` whose output `candidate` has under the same name, in graph order.

    Args:
        reference: float32.
        candidate: the converted and emulated graph; values keep their names.
        batch: network input, preferably the images with the largest differences.
    """
    candidate_names = {value.name for node in candidate.graph for value in node.outputs}
    nodes = [node for node in reference.graph if node.outputs[0].name in candidate_names]
    compared = comparable(reference, candidate)
    names = [str(node.outputs[0].name) for node in compared]
    sessions = [Session(model, outputs=names) for model in (reference, candidate)]
    relative: dict[str, float] = {}
    for start in range(0, len(names), VALUES_A_RUN):
        part = names[start : start + VALUES_A_RUN]
        exact, other = (session.run(batch, part) for session in sessions)
        relative |= {name: _relative(*pair) for name, pair in zip(part, zip(exact, other, strict=True), strict=True)}
    result: list[AccumulatedError] = []
    errors: dict[str, float] = {}
    for node in nodes:
        inputs = [errors.get(str(value.name), 0.0) for value in node.inputs if value is not None]
        name = str(node.outputs[0].name)
        errors[name] = relative.get(name, max(inputs, default=0.0))
        if name in relative:
            result.append(AccumulatedError(node_name(node), relative[name], max(inputs, default=0.0)))
    return result


def comparable(reference: ir.Model, candidate: ir.Model) -> list[ir.Node]:
    """List the nodes of `reference` with a float output that `candidate` has under the same name, in graph order.

    Nodes that only move elements are left out, and those of the resize: how a sum is divided into whole part and
    remainder depends on the precision, though their total doesn't.
    """
    candidate_names = {value.name for node in candidate.graph for value in node.outputs}
    floats = ir.DataType.FLOAT, ir.DataType.FLOAT16
    return [
        node
        for node in reference.graph
        if node.outputs[0].name in candidate_names
        and node.op_type not in MOVES
        and node.outputs[0].dtype in floats
        and block_of(node_name(node)) != RESIZE
    ]


def worst_images(candidate: NDArray[np.float32], reference: NDArray[np.float32], count: int) -> list[int]:
    """Return indices of the `count` images whose logits (n, classes) differ most, worst first; not finite is worst."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(candidate.astype(np.float64) - reference).max(1)
    difference[~np.isfinite(difference)] = np.inf
    return [int(index) for index in np.argsort(-difference, kind="stable")[:count]]


def offenders(errors: Sequence[AccumulatedError], *, at_most: int = 8) -> list[AccumulatedError]:
    """Find the nodes where an error arises: the first that isn't finite, else those with the largest jumps.

    After a node that isn't finite, only others whose inputs are finite are known to be at fault themselves.
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
    """Errors of a node's output: norm of the difference divided by that of the float32 value, over all images.

    A value counts at least as float16's smallest normal number, and a mean at least as a 256th of its inputs.

    Args:
        node: name of the node.
        operator: its ONNX operator.
        error: accumulated error in the converted graph; infinite if not finite.
        own: error on exact inputs.
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
        candidate: the converted and emulated graph; values keep their names.
        batches: network input; only one batch's values are held at a time.
        progress: receives the number of finished runs of parts of the graph.
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
    sums = np.zeros((3, len(names)))  # sums of squares: of the exact values and of both differences from them
    least = np.zeros(len(names))  # lower bound of the first sum
    with progress.task("Running both graphs", len(runs), "parts") as task:
        for batch, part in runs:
            part_names = names[part]
            run_names = list(dict.fromkeys((*part_names, *(own_names[name] for name in part_names),
                                          *(averaged[name] for name in part_names if name in averaged))))  # fmt: skip
            values = dict(zip(run_names, beside.run(batch, run_names), strict=True))
            for place, (name, whole) in enumerate(
                zip(part_names, alone.run(batch, part_names), strict=True), start=part.start
            ):
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
    """Return the root of the ratio; infinite where a difference isn't finite."""
    return np.where(np.isfinite(difference), np.sqrt(np.nan_to_num(difference) / exact), np.inf)


def isolated(reference: ir.Model, candidate: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """Build one graph that computes `reference` and, for each of its values, that of `candidate` on exact inputs.

    Args:
        reference: float32; not changed.
        candidate: the converted and emulated graph, all of whose values are float32; not changed.

    Returns:
        The graph, and a map from names of the reference's values to those of the candidate's values in it.
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
