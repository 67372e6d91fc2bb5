"""Where a converted graph leaves the float32 one: corresponding values compared node by node, in graph order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.blocks import RESIZE, block_of, node_name
from calibration.ranges import MOVES
from calibration.session import Session

VALUES_A_RUN = 200  # that are held at a time
_NOTICEABLE = 0.01  # relative error below which no node is blamed
_JUMP = 4.0  # times the error of its inputs: beyond, the node itself made it


@dataclass(frozen=True)
class Error:
    """How far a node's output is off.

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
        """By how much the node itself made it worse."""
        return self.error / max(self.inputs, 1e-6)

    @property
    def blamed(self) -> bool:
        """Whether the error arises here."""
        return self.error > _NOTICEABLE and self.jump > _JUMP


def errors(reference: ir.Model, candidate: ir.Model, batch: NDArray[np.generic]) -> list[Error]:
    """The error of every node of `reference` whose output `candidate` has under the same name, in graph order.

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
    found: dict[str, float] = {}
    for start in range(0, len(names), VALUES_A_RUN):
        part = names[start : start + VALUES_A_RUN]
        exact, other = (session.run(batch, part) for session in sessions)
        found |= {name: _relative(*pair) for name, pair in zip(part, zip(exact, other, strict=True), strict=True)}
    result: list[Error] = []
    moved: dict[str, float] = {}
    for node in nodes:
        inputs = [moved.get(str(value.name), 0.0) for value in node.inputs if value is not None]
        name = str(node.outputs[0].name)
        moved[name] = found.get(name, max(inputs, default=0.0))
        if name in found:
            result.append(Error(node_name(node), found[name], max(inputs, default=0.0)))
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


def worst_images(found: NDArray[np.float32], reference: NDArray[np.float32], count: int) -> list[int]:
    """The `count` images whose logits (n, classes) differ most, the worst first; not finite is worse than any."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype(np.float64) - reference).max(1)
    difference[~np.isfinite(difference)] = np.inf
    return [int(index) for index in np.argsort(-difference, kind="stable")[:count]]


def offenders(found: Sequence[Error], *, at_most: int = 8) -> list[Error]:
    """The nodes where an error arises: those that are the first to be not finite, else the largest jumps.

    Behind the first node that isn't finite nothing can be told, so only it is named then.
    """
    broken = [error for error in found if not np.isfinite(error.error)]
    if broken:
        first = broken[0]
        return [first, *(error for error in broken[1:at_most] if np.isfinite(error.inputs))]
    blamed = sorted((error for error in found if error.blamed), key=lambda error: -error.jump)
    return blamed[:at_most]


def _relative(exact: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    wide, narrow = exact.astype(np.float64), other.astype(np.float64)
    if not np.isfinite(narrow).all():
        return float("inf")
    norm = float(np.linalg.norm(wide))
    difference = float(np.linalg.norm(wide - narrow))
    return difference / norm if norm else float(difference > 0)
