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
# Of what the images change in a score, and of the largest score: float32 sums in another order differ by less.
_OF_SPREAD, _ROUNDING = 5e-3, 1e-5


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
    difference, allowed = compare_scores(logits(job.original, images), reference)
    if not difference <= allowed:
        raise BadInputError(
            f"{job.original.name} gives other {job.output.noun}s each time that it runs: one differs by "
            f"{difference:.3g} on the same images.",
            "It has an operator that draws random numbers: export the model after model.eval().",
        )
    prepared = logits(job.model, images, output=job.output)
    difference, allowed = compare_scores(prepared, reference)
    if not difference <= allowed:
        raise BadInputError(
            f"{job.original.name}, brought to the opset and form that FP16 and INT8 need, is another model: "
            f"a {job.output.noun} differs by {difference:.3g} on {len(images)} images.",
            "An operator of it has another meaning in newer opsets: export the model again with opset 19 or newer.",
        )
    if not job.original.any_batch or images.batch is not None:
        return []
    alone = np.concatenate([job.original.logits(batch[place : place + 1]) for batch in images.batches(_IMAGES)
                            for place in range(len(batch))])  # fmt: skip
    difference, allowed = compare_scores(alone, reference)
    if difference <= allowed:
        return []
    return [
        f"{job.original.name} gives other logits for an image alone than in a batch of {len(images)} (up to "
        f"{difference:.3g}): it was traced with a batch that stayed in it. What is proven here is a batch of 4."
    ]


def compare_scores(candidate: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """The largest difference of a score, and what rounding allows.

    What the images change in the scores is what tells classes apart, however small it is beside the scores.
    """
    exact = reference.astype(np.float64)
    found = float(np.abs(candidate - exact).max())
    spread = float(np.abs(exact - exact.mean(0)).max())
    return found, max(_OF_SPREAD * spread, _ROUNDING * float(np.abs(exact).max()))
