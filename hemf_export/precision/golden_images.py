"""The golden images of an engine: a few of the user's test images, or noise, and what its graph makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from hemf_export.calibration import emulation
from hemf_export.calibration.session import Session
from hemf_export.engines.golden import Golden
from hemf_export.export import parity
from hemf_export.export.parity import Samples
from hemf_export.metrics.comparison import compare
from hemf_export.models.description import Description
from hemf_export.precision.bounds import Bounds

IMAGES = 4
# A kernel rounds in another order, and INT8 may take the neighbouring step for it. How much that is for this graph and
# these images, two computations of it here show: with every float16 result rounded, and with none.
_TIMES_OWN_NOISE = 4


def make(graph: Path, described: Description, images: Path | None, count: int = IMAGES) -> Golden:
    """Golden images for an engine built from `graph`.

    Args:
        graph: the FP16, INT8 or float32 file that is built.
        described: what it says of itself.
        images: folder to take them from, its test split if it has one; without, seeded noise.
        count: at most so many, spread over the classes.

    Raises:
        BadInputError: no images.
    """
    # Whatever their folders are called: what is compared is logits, and a foreign file may not know its classes' names.
    samples = Samples(described.input, parity.image_folder(images, None), count)
    pixels = np.concatenate(list(samples.pixels((samples.count,))))
    return of_pixels(graph, described, pixels, samples.source)


def of_pixels(graph: Path, described: Description, pixels: NDArray[np.uint8], source: str) -> Golden:
    """Golden images of pixels (n, H, W, 3) as `graph` takes them from images; `source` says where those are from."""
    inputs = described.input.network(pixels)
    plain = _logits(Session(graph, output=described.output), inputs, described.batch)
    logits = plain
    if described.precision != "fp32":
        emulated = Session(emulation.of_file(onnx.load(graph)), output=described.output)
        logits = _logits(emulated, inputs, described.batch)
    noise = compare(plain, logits, output=described.output)
    own = Bounds().score_bound(described.output, noise.largest_logit)
    bound = max(own, _TIMES_OWN_NOISE * noise.logit_difference.max)
    return Golden(pixels, logits, source, round(bound, 6))


def _logits(session: Session, inputs: NDArray[np.generic], batch: int | None) -> NDArray[np.float32]:
    if batch is None:
        return session.logits(inputs)
    filled = np.resize(inputs, (-(-len(inputs) // batch) * batch, *inputs.shape[1:]))
    return np.concatenate([session.logits(part) for part in np.split(filled, len(filled) // batch)])[: len(inputs)]
