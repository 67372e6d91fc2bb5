"""Which blocks make float16's noise: no node is to blame, but the rounding of some is amplified by all that follows.

Where images lie close to the border between two classes, that noise decides; such blocks then go back to float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calibration.blocks import RESIZE, node_name
from calibration.emulation import emulate
from calibration.fp16 import to_float16
from calibration.graphs import copy_of
from calibration.image_set import ImageSet
from calibration.trials import Progress, logits
from hemf.model_output import LOGITS, ModelOutput

IMAGES = 8  # that blocks are compared on: all their logits count, not only those near the border
MOST = 4  # blocks that are worth float32: where these don't do, the noise is everywhere
_PRODUCTS = ("Conv", "Gemm", "MatMul")
QUIETED = "float16 noise that the rest of the graph amplifies"


def by_noise(
    model: ir.Model,
    islands: Mapping[str, str],
    where: Mapping[str, str],
    images: ImageSet,
    progress: Progress = lambda images: None,
    output: ModelOutput = LOGITS,
) -> list[str]:
    """The blocks that lower the noise of the logits if they are float32, the one that lowers it most first.

    Args:
        model: float32.
        islands: nodes that stay in float32 anyway, and why.
        where: each node's block.
        images: to run.
        progress: told the images of each batch, over all blocks.
        output: what the model's numbers are.
    """
    reference = logits(model, images, output=output)

    def noise(own: Mapping[str, str]) -> float:
        candidate = copy_of(model)
        to_float16(candidate, own)
        found = logits(emulate(candidate), images, progress, output=output)
        return float(np.square(found.astype(np.float64) - reference).mean())

    before = noise(islands)
    after = {
        block: noise({**nodes_of(model, where, block), **islands})
        for block in dict.fromkeys(where.values())
        if block != RESIZE
    }
    return sorted((block for block in after if after[block] < before), key=lambda block: after[block])[:MOST]


def nodes_of(model: ir.Model, where: Mapping[str, str], block: str) -> dict[str, str]:
    """A block's nodes as islands, its products apart: TensorRT-RTX has no float32 products on Turing."""
    names = (node_name(node) for node in model.graph if node.op_type not in _PRODUCTS)
    return {name: QUIETED for name in names if where.get(name) == block}
