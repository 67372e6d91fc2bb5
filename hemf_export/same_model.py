"""Is the graph that work starts from still the user's file? Asked of a few images, before hours of calibration.

Reading a graph changes it: an older opset is lifted, norms are folded, shape arithmetic becomes constants. The proof
at the end is against the file as it came, so a change of meaning can't hide; here it is told at once, and by its name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.job import Job
from calibration.trials import logits
from hemf.errors import BadInputError

_IMAGES = 4
# Of the largest logit, or of 1: float32 sums in another order differ by far less, another meaning by far more.
_ROUNDING = 1e-3


def require(job: Job) -> list[str]:
    """Compare the prepared graph with the file, and the file with itself at another batch size.

    Args:
        job: with the graph, the file and its images.

    Returns:
        What a user should know.

    Raises:
        BadInputError: the graph is another model than the file, or the file itself gives no finite logits.
    """
    images = job.selection.held_out.whole(max(_IMAGES, job.selection.held_out.batch or 1))
    reference = logits(job.original, images)
    if not np.isfinite(reference).all():
        raise BadInputError(f"{job.original.name} itself gives logits that are not finite on {len(images)} images.")
    prepared = logits(job.model, images)
    difference, allowed = _difference(prepared, reference)
    if not difference <= allowed:
        raise BadInputError(
            f"{job.original.name}, brought to the opset and form that FP16 and INT8 need, is another model: a logit "
            f"differs by {difference:.3g} on {len(images)} images.",
            "An operator of it has another meaning in newer opsets: export the model again with opset 19 or newer.",
        )
    if not job.original.any_batch or images.batch is not None:
        return []
    alone = np.concatenate([job.original.logits(batch[place : place + 1]) for batch in images.batches(_IMAGES)
                            for place in range(len(batch))])  # fmt: skip
    difference, allowed = _difference(alone, reference)
    if difference <= allowed:
        return []
    return [
        f"{job.original.name} gives other logits for an image alone than in a batch of {len(images)} (up to "
        f"{difference:.3g}): it was traced with a batch that stayed in it. What is proven here is a batch of 4."
    ]


def _difference(candidate: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """The largest difference of a logit, and what rounding allows."""
    found = float(np.abs(candidate.astype(np.float64) - reference).max())
    return found, _ROUNDING * max(1.0, float(np.abs(reference).max()))
