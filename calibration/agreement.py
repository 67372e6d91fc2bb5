"""A candidate graph's logits beside the reference's: accuracy, agreement, and how close a call it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.chances import Chances, chances
from hemf.model_output import LOGITS, ModelOutput

_RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the reference, on the same images. Drops are in points of a percent: positive is worse.

    Args:
        images: how many.
        finite: whether every logit on both sides was.
        agreement: share of the images that keep their class.
        chances: what is to be expected of other images like these.
        kl_divergence: of the candidate's probabilities from the reference's, mean, in nats.
        max_difference: the largest absolute difference of a logit, or of a probability where the model gives those.
        accuracy: of the candidate; None without labels.
        reference_accuracy: of the reference.
        balanced_accuracy: mean recall of the classes that there are.
        reference_balanced_accuracy: the same of the reference.
        drop_interval: 95 % bootstrap interval of the drop in accuracy, in points.
    """

    images: int
    finite: bool
    agreement: float
    chances: Chances
    kl_divergence: float
    max_difference: float
    accuracy: float | None = None
    reference_accuracy: float | None = None
    balanced_accuracy: float | None = None
    reference_balanced_accuracy: float | None = None
    drop_interval: tuple[float, float] | None = None

    @property
    def expected_changes(self) -> float:
        """Share of the images expected to change class in other images like these."""
        return self.chances.changes

    @property
    def drop(self) -> float | None:
        """Of accuracy, in points."""
        return _points(self.reference_accuracy, self.accuracy)

    @property
    def balanced_drop(self) -> float | None:
        """Of balanced accuracy, in points."""
        return _points(self.reference_balanced_accuracy, self.balanced_accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; what isn't known is left out."""
        values = {**vars(self), "drop": self.drop, "balanced_drop": self.balanced_drop}
        values |= {f"expected_{name}": share for name, share in vars(values.pop("chances")).items()}
        if self.drop_interval is not None:
            values["drop_interval"] = list(self.drop_interval)
        return {name: value for name, value in values.items() if value is not None and value == value}  # no NaN in JSON


def compare(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    *,
    output: ModelOutput = LOGITS,
    seed: int = 0,
) -> Comparison:
    """Compare scores of the same images.

    Args:
        candidate: (n, classes).
        reference: the same.
        labels: (n,), where there are any.
        output: what the scores are.
        seed: of the bootstrap.
    """
    assert candidate.shape == reference.shape, "the same images on both sides"
    finite = np.isfinite(candidate).all(1) & np.isfinite(reference).all(1)
    if not finite.all():
        nan = float("nan")
        same = float(((candidate.argmax(1) == reference.argmax(1)) & finite).mean())  # NaN has no class
        return Comparison(len(candidate), False, same, Chances(1.0, 1.0, 0.0), nan, nan)
    ours, theirs = candidate.astype(np.float64), reference.astype(np.float64)
    tops = ours.argmax(1), theirs.argmax(1)
    known: dict[str, Any] = {}
    if labels is not None:
        right = tops[0] == labels, tops[1] == labels
        known = {
            "accuracy": float(right[0].mean()),
            "reference_accuracy": float(right[1].mean()),
            "balanced_accuracy": _balanced(right[0], labels),
            "reference_balanced_accuracy": _balanced(right[1], labels),
            "drop_interval": drop_interval(
                int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum()), len(ours), seed
            ),
        }
    return Comparison(
        images=len(candidate),
        finite=True,
        agreement=float((tops[0] == tops[1]).mean()),
        chances=chances(output.logits(ours), output.logits(theirs), labels),
        kl_divergence=_kl_divergence(output.log_probabilities(ours), output.log_probabilities(theirs)),
        max_difference=float(np.abs(ours - theirs).max()),
        **known,
    )


def drop_interval(losses: int, gains: int, images: int, seed: int = 0) -> tuple[float, float]:
    """95 % paired bootstrap interval of the drop in accuracy, in points: percentiles over sets of images drawn anew.

    An image stays the same on both sides, so that a set's drop is known from how many of its images became wrong
    (`losses`) and right (`gains`). Drawn with replacement, these counts are multinomial: no set has to be made.
    """
    shares = np.array([losses, gains, images - losses - gains]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, _RESAMPLES)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / images, (2.5, 97.5))
    return float(low), float(high)


def _points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else 100 * (before - after)


def _balanced(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _kl_divergence(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float((np.exp(theirs) * (theirs - ours)).sum(1).mean().clip(0))
