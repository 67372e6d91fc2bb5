"""Is the graph that work starts from still the user's file? Asked of a few images, before hours of calibration.

Reading a graph changes it: an older opset is lifted, norms are folded, blocks are rewritten for a backend, shape
arithmetic becomes constants. The proof at the end is against the file as it came, so a change of meaning can't hide;
here it is told at once, and by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.session import Session
from hemf_export.files.errors import BadInputError
from hemf_export.metrics.comparison import compare

IMAGES = 4
# Of what the images change in a score, and of the largest score: float32 sums in another order differ by less.
_OF_SPREAD, _ROUNDING = 5e-3, 1e-5


@dataclass(frozen=True)
class SameModel:
    """What the comparison of a prepared graph with its file showed.

    Args:
        images: that both were run on.
        max_logit_difference: the largest of a score.
        notes: what a user should know.
    """

    images: int
    max_logit_difference: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {"images": self.images, "max_logit_difference": self.max_logit_difference}


def require(model: ir.Model, original: Session, batches: Sequence[NDArray[np.generic]], *, alone: bool) -> SameModel:
    """Compare a prepared graph with its file, and the file with itself at another batch size.

    Args:
        model: the graph, float32.
        original: the file as it came.
        batches: network input of a few images.
        alone: whether the file takes any batch, and so each image alone too.

    Raises:
        BadInputError: the graph is another model than the file, or the file itself gives no finite logits.
    """
    reference = _logits(original, batches)
    count, noun = len(reference), original.output.noun
    if not np.isfinite(reference).all():
        raise BadInputError(f"{original.name} itself gives logits that are not finite on {count} images.")
    allowed = _rounding(reference)
    difference = _difference(_logits(original, batches), reference)
    if not difference <= allowed:
        raise BadInputError(
            f"{original.name} gives other {noun}s each time that it runs: one differs by "
            f"{difference:.3g} on the same images.",
            "It has an operator that draws random numbers: export the model after model.eval().",
        )
    largest = _difference(_logits(Session(model, output=original.output), batches), reference)
    if not largest <= allowed:
        raise BadInputError(
            f"{original.name}, brought to the opset and form that FP16 and INT8 need, is another model: "
            f"a {noun} differs by {largest:.3g} on {count} images.",
            "An operator of it has another meaning in newer opsets: export the model again with opset 19 or newer.",
        )
    if not (alone and original.any_batch):
        return SameModel(count, largest)
    singles = [batch[place : place + 1] for batch in batches for place in range(len(batch))]
    difference = _difference(_logits(original, singles), reference)
    if difference <= allowed:
        return SameModel(count, largest)
    note = (
        f"{original.name} gives other logits for an image alone than in a batch of {count} (up to "
        f"{difference:.3g}): it was traced with a batch that stayed in it. What is proven here is a batch of 4."
    )
    return SameModel(count, largest, (note,))


def _logits(session: Session, batches: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
    return np.concatenate([session.logits(batch) for batch in batches])


def _rounding(reference: NDArray[np.float32]) -> float:
    """The largest difference from the reference's scores that is float32's rounding.

    What the images change in the scores is what tells classes apart, however small it is beside the scores.
    """
    exact = reference.astype(np.float64)
    spread = float(np.abs(exact - exact.mean(0)).max())
    return max(_OF_SPREAD * spread, _ROUNDING * float(np.abs(exact).max()))


def _difference(candidate: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    return compare(candidate, reference).logit_difference.max
