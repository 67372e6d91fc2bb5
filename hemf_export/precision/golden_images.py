"""Golden images of an engine: a few of the user's test images, or noise, with its graph's logits."""

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
# Kernels round in another order, which may move INT8 values by a step. The size of that effect for this graph and these
# images is estimated by computing it twice: with every float16 result rounded, and with none.
_TIMES_OWN_NOISE = 4


def make(graph: Path, described: Description, images: Path | None, count: int = IMAGES) -> Golden:
    """Make golden images for an engine of `graph`.

    Args:
        graph: the FP16, INT8 or float32 file.
        described: its description.
        images: folder of images, of which the test split is used if there is one; None for seeded noise.
        count: largest number of images, spread over the classes.

    Raises:
        BadInputError: no images.
    """
    # Class names don't matter, as logits are compared; a file that isn't ours may have none.
    samples = Samples(described.input, parity.image_folder(images, None), count)
    pixels = np.concatenate(list(samples.pixels((samples.count,))))
    return of_pixels(graph, described, pixels, samples.source)


def of_pixels(graph: Path, described: Description, pixels: NDArray[np.uint8], source: str) -> Golden:
    """Make golden images of pixels (n, H, W, 3), made for `graph`'s input; `source` says where they are from."""
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
