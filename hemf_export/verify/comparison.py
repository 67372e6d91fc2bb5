"""A candidate's logits beside the reference's, image by image: all that a verification says of the two together.

Agreement, divergence and the bootstrap are those that calibration judges by (`calibration.agreement`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from calibration import agreement
from calibration.agreement import Comparison
from hemf.model_output import LOGITS, ModelOutput


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of whether two models are right on the same share of images (McNemar 1947).

    Args:
        losses: images that only the reference is right on.
        gains: images that only the candidate is right on.
        p_value: two-sided, of the binomial distribution with even chances; 1 where neither is.
    """

    losses: int
    gains: int
    p_value: float


@dataclass(frozen=True)
class Paired:
    """A candidate beside the reference, on the same images.

    Args:
        overall: agreement, divergence, drop in accuracy with its interval; see `calibration.agreement`.
        changed: the images whose class changed, by their index.
        not_finite: the images that a logit is not finite of, on either side; what follows is NaN or empty then.
        mean_difference: of a logit, absolute.
        p99_difference: its 99th percentile.
        cosine: of the two vectors of logits, mean over the images; 1 where both are zero.
        least_cosine: the smallest.
        largest_logit: of the reference, absolute.
        mcnemar: None without labels.
        output: what the numbers are that were compared: logits, or probabilities.
    """

    overall: Comparison
    changed: tuple[int, ...]
    not_finite: tuple[int, ...]
    mean_difference: float
    p99_difference: float
    cosine: float
    least_cosine: float
    largest_logit: float
    mcnemar: McNemar | None
    output: ModelOutput = LOGITS

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; what is not finite is None."""
        interval = self.overall.drop_interval
        return {
            "finite": self.overall.finite,
            "not_finite": len(self.not_finite),
            "agreement": self.overall.agreement,
            "changed": len(self.changed),
            "accuracy_drop_points": self.overall.drop,
            "accuracy_drop_interval_points": None if interval is None else list(interval),
            "balanced_accuracy_drop_points": self.overall.balanced_drop,
            "mcnemar": None if self.mcnemar is None else dict(vars(self.mcnemar)),
            "logit_difference": {
                "max": _known(self.overall.max_difference),
                "mean": _known(self.mean_difference),
                "p99": _known(self.p99_difference),
            },
            "largest_logit": _known(self.largest_logit),
            "cosine": {"mean": _known(self.cosine), "min": _known(self.least_cosine)},
            "kl_divergence": _known(self.overall.kl_divergence),
        }


def compare(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    seed: int = 0,
    output: ModelOutput = LOGITS,
) -> Paired:
    """Compare scores (n, classes) of the same images, which are what `output` says.

    Labels (n,) where there are any; `seed` of the bootstrap.
    """
    overall = agreement.compare(candidate, reference, labels, output=output, seed=seed)
    broken = ~(np.isfinite(candidate).all(1) & np.isfinite(reference).all(1))
    changed = tuple(np.flatnonzero((candidate.argmax(1) != reference.argmax(1)) & ~broken).tolist())
    if broken.any():
        nan = float("nan")
        return Paired(overall, changed, tuple(np.flatnonzero(broken).tolist()), nan, nan, nan, nan, nan, None, output)
    ours, theirs = candidate.astype(np.float64), reference.astype(np.float64)
    differences = np.abs(ours - theirs)
    cosines = _cosines(ours, theirs)
    return Paired(
        overall,
        changed,
        (),
        mean_difference=float(differences.mean()),
        p99_difference=float(np.percentile(differences, 99)),
        cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        largest_logit=float(np.abs(theirs).max()),
        mcnemar=None if labels is None else mcnemar(ours.argmax(1) == labels, theirs.argmax(1) == labels),
        output=output,
    )


def mcnemar(candidate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> McNemar:
    """From whether each image (n,) is right on either side."""
    losses, gains = int((reference & ~candidate).sum()), int((candidate & ~reference).sum())
    p_value = float(binomtest(losses, losses + gains, 0.5).pvalue) if losses + gains else 1.0
    return McNemar(losses, gains, p_value)


def _cosines(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row with its partner. A row of zeros has no direction: it is like another one, and unlike all else."""
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    product = norms[0] * norms[1]
    cosines = (ours * theirs).sum(1) / np.where(product > 0, product, 1.0)
    cosines[product == 0] = (norms[0] == norms[1])[product == 0]
    return np.asarray(cosines.clip(-1, 1), np.float64)


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None
