"""The float16 graph that holds its bound: converted, run as a GPU would, compared on images, mended where it misses.

First by nodes whose error jumps; where no node is to blame, by the blocks that make most of the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import divergence, quiet
from calibration.blocks import blocks, node_name
from calibration.emulation import emulate
from calibration.fp16 import Conversion, to_float16
from calibration.graphs import copy_of
from calibration.image_set import ImageSet
from calibration.ranges import source_of
from calibration.trials import Progress, logits
from hemf.model_output import LOGITS, ModelOutput

MAX_ROUNDS = 8
_WORST = 2  # images that nodes are compared on
MENDED = "found by comparison: its error jumps"


@dataclass(frozen=True)
class Mended:
    """A float16 graph, and how it came to be.

    Args:
        model: the graph.
        conversion: with all islands.
        logits: its logits of the images.
        rounds: conversions that were tried.
        holds: whether the bound holds.
    """

    model: ir.Model
    conversion: Conversion
    logits: NDArray[np.float32]
    rounds: int
    holds: bool


def convert(
    model: ir.Model,
    islands: dict[str, str],
    images: ImageSet,
    reference: NDArray[np.float32],
    holds: Callable[[NDArray[np.float32]], bool],
    *,
    rounds: int = MAX_ROUNDS,
    calm: Callable[[NDArray[np.float32]], bool] = lambda logits: True,
    noisy: Callable[[dict[str, str]], list[str]] = lambda islands: [],
    progress: Progress = lambda images: None,
    output: ModelOutput = LOGITS,
) -> Mended:
    """Convert a copy of `model` to float16; where its logits miss the bound, put the offending nodes back to float32.

    Args:
        model: float32, quantized or not; left as it is.
        islands: nodes to leave in float32 from the start, and why.
        images: to prove on.
        reference: their logits (n, classes) in float32.
        holds: whether logits keep to the bound.
        rounds: conversions to try at most.
        calm: whether logits that hold the bound are as close as one wishes; what `noisy` tells is tried for it.
        noisy: the blocks that make the noise, the worst first, for given islands; see `calibration.quiet`. By default
            only single nodes are mended.
        progress: told the images of each batch.
        output: what the model's numbers are.
    """
    islands = dict(islands)
    where = blocks(model.graph)
    left: list[str] | None = None
    for number in range(1, rounds + 1):
        candidate = copy_of(model)
        conversion = to_float16(candidate, islands)
        emulated = emulate(candidate)
        found = logits(emulated, images, progress, output=output)
        held = holds(found)
        if (held and calm(found)) or number == rounds:
            return Mended(candidate, conversion, found, number, held)
        added: dict[str, str] = {}
        if not held and left is None:
            worst = divergence.worst_images(found, reference, _WORST)
            batch = np.concatenate(list(images.only(worst).batches(len(worst))))
            added = _to_mend(model, emulated, batch, islands)
        if not added and np.isfinite(found).all():
            left = noisy(islands) if left is None else left
            added = quiet.nodes_of(model, where, left.pop(0)) if left else {}
        if not added:
            return Mended(candidate, conversion, found, number, held)
        islands = {**added, **islands}
    raise AssertionError("the last round returns")


def _to_mend(
    model: ir.Model, candidate: ir.Model, batch: NDArray[np.generic], islands: dict[str, str]
) -> dict[str, str]:
    """Nodes to put back, and why; where the offender is in float32 already, those that made its inputs."""
    nodes = {node_name(node): node for node in model.graph}
    added: dict[str, str] = {}
    for error in divergence.offenders(divergence.errors(model, candidate, batch)):
        reason = f"{MENDED} from {error.inputs:.2g} to {error.error:.2g}"
        waiting = [nodes[error.node]]
        if error.node in islands:
            sources = [source_of(value).producer() for value in waiting[0].inputs if value is not None]
            waiting = [node for node in sources if node is not None]
        added |= {node_name(node): reason for node in waiting if node_name(node) not in islands}
    return added
