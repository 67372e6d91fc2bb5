"""Convert a graph to float16 within a bound: emulate it, compare its logits, return nodes to float32 where it misses.

First nodes whose error jumps; if no single node is to blame, the blocks that cause most of the noise: the rest of the
graph amplifies the rounding of some, which decides for images close to the border between two classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration import node_errors
from hemf_export.calibration.blocks import RESIZE, blocks, node_name
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.fp16 import Conversion, to_float16
from hemf_export.calibration.graphs import copy_of
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.ranges import source_of
from hemf_export.calibration.trials import logits
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.files.progress import SILENT, Progress

MAX_ROUNDS = 8
_WORST = 2  # worst images, on which nodes are compared
MENDED = "found by comparison: its error jumps"
NOISE_IMAGES = 8  # images that blocks are compared on: all of their logits count, not only those near the border
MAX_BLOCKS = 4  # largest number of blocks in float32: if these don't suffice, the noise is everywhere
_PRODUCTS = ("Conv", "Gemm", "MatMul")
AMPLIFIED_NOISE = "float16 noise that the rest of the graph amplifies"


@dataclass(frozen=True)
class Mended:
    """Float16 graph with its conversion.

    Args:
        model: the graph.
        conversion: outcome of the conversion, with all islands.
        logits: its logits (n, classes) for the images.
        rounds: number of conversions tried.
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
    close_enough: Callable[[NDArray[np.float32]], bool] = lambda logits: True,
    noisy: Callable[[dict[str, str]], list[str]] = lambda islands: [],
    progress: Progress = SILENT,
    output: ModelOutput = LOGITS,
) -> Mended:
    """Convert a copy of `model` to float16; while its logits miss the bound, return the offending nodes to float32.

    Args:
        model: float32, quantized or not; not changed.
        islands: nodes to leave in float32 from the start, with the reason.
        images: images to prove on.
        reference: their logits (n, classes) in float32.
        holds: returns whether logits keep to the bound.
        rounds: largest number of conversions.
        close_enough: returns whether logits within the bound need no further float32 blocks from `noisy`.
        noisy: returns the noisiest blocks, the worst first, for given islands; see `noisy_blocks`. By default only
            single nodes return to float32.
        progress: receives the runs of the graphs.
        output: kind of the model's output.
    """
    islands = dict(islands)
    where = blocks(model.graph)
    left: list[str] | None = None
    for number in range(1, rounds + 1):
        candidate = copy_of(model)
        conversion = to_float16(candidate, islands)
        emulated = emulate(candidate)
        scores = logits(emulated, images, progress, output=output)
        held = holds(scores)
        if (held and close_enough(scores)) or number == rounds:
            return Mended(candidate, conversion, scores, number, held)
        added: dict[str, str] = {}
        if not held and left is None:
            worst = node_errors.worst_images(scores, reference, _WORST)
            batch = np.concatenate(list(images.only(worst).batches(len(worst))))
            added = _to_mend(model, emulated, batch, islands)
        if not added and np.isfinite(scores).all():
            left = noisy(islands) if left is None else left
            added = block_islands(model, where, left.pop(0)) if left else {}
        if not added:
            return Mended(candidate, conversion, scores, number, held)
        islands = {**added, **islands}
    raise AssertionError("the last round returns")


def _to_mend(
    model: ir.Model, candidate: ir.Model, batch: NDArray[np.generic], islands: dict[str, str]
) -> dict[str, str]:
    """Find the nodes to return to float32, with the reason; for an offender in float32, the producers of its inputs."""
    nodes = {node_name(node): node for node in model.graph}
    added: dict[str, str] = {}
    for error in node_errors.offenders(node_errors.accumulated_errors(model, candidate, batch)):
        reason = f"{MENDED} from {error.inputs:.2g} to {error.error:.2g}"
        waiting = [nodes[error.node]]
        if error.node in islands:
            sources = [source_of(value).producer() for value in waiting[0].inputs if value is not None]
            waiting = [node for node in sources if node is not None]
        added |= {node_name(node): reason for node in waiting if node_name(node) not in islands}
    return added


def noisy_blocks(
    model: ir.Model,
    islands: Mapping[str, str],
    where: Mapping[str, str],
    images: ImageSet,
    progress: Progress = SILENT,
    output: ModelOutput = LOGITS,
) -> list[str]:
    """Find the blocks that in float32 lower the noise of the logits, the one that lowers it most first.

    Args:
        model: float32.
        islands: nodes that stay in float32 anyway, with the reason.
        where: each node's block.
        images: images to run.
        progress: receives the number of finished blocks.
        output: kind of the model's output.
    """
    reference = logits(model, images, output=output)

    def noise(own: Mapping[str, str]) -> float:
        candidate = copy_of(model)
        to_float16(candidate, own)
        scores = logits(emulate(candidate), images, progress, output=output)
        return float(np.square(scores.astype(np.float64) - reference).mean())

    names = [block for block in dict.fromkeys(where.values()) if block != RESIZE]
    after: dict[str, float] = {}
    with progress.task("Looking for the noisiest blocks", len(names), "blocks") as task:
        before = noise(islands)
        for block in names:
            after[block] = noise({**block_islands(model, where, block), **islands})
            task.advance()
    return sorted((block for block in after if after[block] < before), key=lambda block: after[block])[:MAX_BLOCKS]


def block_islands(model: ir.Model, where: Mapping[str, str], block: str) -> dict[str, str]:
    """Return a block's nodes as islands, except products: TensorRT-RTX has no float32 products on Turing."""
    names = (node_name(node) for node in model.graph if node.op_type not in _PRODUCTS)
    return {name: AMPLIFIED_NOISE for name in names if where.get(name) == block}
