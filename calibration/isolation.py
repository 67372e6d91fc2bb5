"""What each node of a converted graph makes wrong by itself: it is given the float32 graph's values, node by node.

Compared end to end, errors add up and hide where they come from (see `calibration.divergence`, which tells how far
off a value is by then). Here both graphs are one: wherever the converted graph takes a value that the float32 graph has
under the same name, it takes that one. So a node's error is its own, with the quantizers and casts right before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.blocks import node_name
from calibration.divergence import VALUES_A_RUN, comparable
from calibration.graphs import copy_of
from calibration.session import Session

_MARK = "own:"  # before the names of what is the converted graph's
# Of a value's root mean square: below, float16 can't tell it from zero. Where such values matter, the graph keeps them
# in float32; where they are what is left of larger ones (a mean over a layer norm), all of one is rounding.
_LEAST = 2.0**-14
# Of what a mean is taken of: below, it is what is left of values that cancel, and their rounding is a share of it.
_LEAST_MEAN = 2.0**-8


@dataclass(frozen=True)
class NodeError:
    """How far a node's output is off: norm of the difference by the norm of the float32 value, over all images.

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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NodeError]:
    """The errors of every node of `reference` whose value `candidate` has under the same name, in graph order.

    Args:
        reference: float32.
        candidate: converted from it, and emulated; values keep their names.
        batches: network input; values of one batch at a time are held.
        progress: told how many runs of a part of the graph are done, and of how many.
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
    for done, (batch, part) in enumerate(runs):
        progress(done, len(runs))
        asked = names[part]
        both_of = list(dict.fromkeys((*asked, *(own_names[name] for name in asked),
                                      *(averaged[name] for name in asked if name in averaged))))  # fmt: skip
        found = dict(zip(both_of, beside.run(batch, both_of), strict=True))
        for place, (name, whole) in enumerate(zip(asked, alone.run(batch, asked), strict=True), start=part.start):
            arrays = found[name], whole, found[own_names[name]]
            sums[:, place] += _squares(*(array.astype(np.float64) for array in arrays))
            least[place] += found[name].size * _LEAST**2
            if name in averaged:
                taken = found[averaged[name]].astype(np.float64)
                least[place] += found[name].size * _LEAST_MEAN**2 * float((taken**2).mean())
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
    """One graph that computes `reference`, and beside each of its values what `candidate` makes of exact inputs.

    Args:
        reference: float32; left as it is.
        candidate: converted from it, and emulated: all its values are float32; left as it is.

    Returns:
        The graph, and the names of the candidate's values in it by those of the reference.
    """
    made, other = copy_of(reference), copy_of(candidate)
    exact = {str(value.name): value for node in made.graph for value in node.outputs}
    exact |= {str(value.name): value for value in made.graph.inputs}
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
        made.graph.register_initializer(value)
    for node in nodes:
        node.name = f"{_MARK}{node.name}"
    made.graph.extend(nodes)
    return made, {name: f"{_MARK}{name}" for name in shared}
