"""Compare two models' scores of the same images: the only place where differences of models are computed.

Parity after an export, agreement of FP16 and INT8 graphs, golden images, the check before a benchmark and verification
all use `compare`. Each quantity has one name, in Python as in JSON and manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.metrics import expected_changes
from hemf_export.metrics.expected_changes import ExpectedChanges

_RESAMPLES = 2000
_NAN = float("nan")


@dataclass(frozen=True)
class LogitDifference:
    """Absolute difference of the scores, over all classes and images: of probabilities where the models output those.

    Args:
        max: maximum.
        mean: mean.
        p99: 99th percentile.
        relative: maximum as a share of the reference's largest score.
    """

    max: float
    mean: float
    p99: float
    relative: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain types, for JSON; None for what is not finite."""
        return {name: _finite(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of whether two models are right on the same share of images (McNemar 1947).

    Args:
        losses: images that only the reference classifies correctly.
        gains: images that only the candidate classifies correctly.
    """

    losses: int
    gains: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the binomial test with p = 1/2; 1 without losses and gains."""
        trials = self.losses + self.gains
        return min(1.0, 2 * float(special.bdtr(min(self.losses, self.gains), trials, 0.5))) if trials else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**vars(self), "p_value": self.p_value}


@dataclass(frozen=True)
class Comparison:
    """A candidate's scores beside the reference's, on the same images.

    Drops are in percentage points, and positive where the candidate is worse. Where a score is not finite, on either
    side, the differences are NaN and there are no accuracies.

    Args:
        images: number of images.
        changed: indices of the images whose class changed.
        not_finite: indices of the images with a score that is not finite, on either side; they have no class.
        logit_difference: absolute difference of the scores.
        largest_logit: largest absolute score of the reference.
        cosine: mean cosine similarity of the two score vectors of an image; 1 where both are zero.
        least_cosine: smallest cosine similarity.
        kl_divergence: mean KL divergence of the candidate's probabilities from the reference's, in nats.
        expected: changes of class to expect on other images like these.
        accuracy: accuracy of the candidate; None without labels.
        reference_accuracy: accuracy of the reference.
        balanced_accuracy: balanced accuracy of the candidate: mean recall of the classes that occur.
        reference_balanced_accuracy: balanced accuracy of the reference.
        accuracy_drop_interval_points: 95 % bootstrap interval of the drop in accuracy.
        mcnemar: whether the accuracies differ by more than chance.
        output: meaning of the scores.
    """

    images: int
    changed: tuple[int, ...]
    not_finite: tuple[int, ...]
    logit_difference: LogitDifference
    largest_logit: float
    cosine: float
    least_cosine: float
    kl_divergence: float
    expected: ExpectedChanges
    accuracy: float | None = None
    reference_accuracy: float | None = None
    balanced_accuracy: float | None = None
    reference_balanced_accuracy: float | None = None
    accuracy_drop_interval_points: tuple[float, float] | None = None
    mcnemar: McNemar | None = None
    output: ModelOutput = LOGITS

    @property
    def finite(self) -> bool:
        """Whether all scores of both models are finite."""
        return not self.not_finite

    @property
    def agreement(self) -> float:
        """Share of the images that keep their class (top-1 agreement)."""
        return (self.images - len(self.changed) - len(self.not_finite)) / self.images

    @property
    def accuracy_drop_points(self) -> float | None:
        """Drop in accuracy, in percentage points."""
        return _points(self.reference_accuracy, self.accuracy)

    @property
    def balanced_accuracy_drop_points(self) -> float | None:
        """Drop in balanced accuracy, in percentage points."""
        return _points(self.reference_balanced_accuracy, self.balanced_accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON and manifests; None for what is not known or not finite."""
        interval = self.accuracy_drop_interval_points
        return {
            "images": self.images,
            "finite": self.finite,
            "not_finite": len(self.not_finite),
            "agreement": self.agreement,
            "changed": len(self.changed),
            "logit_difference": self.logit_difference.to_dict(),
            "largest_logit": _finite(self.largest_logit),
            "accuracy": self.accuracy,
            "reference_accuracy": self.reference_accuracy,
            "accuracy_drop_points": self.accuracy_drop_points,
            "accuracy_drop_interval_points": None if interval is None else list(interval),
            "balanced_accuracy": self.balanced_accuracy,
            "reference_balanced_accuracy": self.reference_balanced_accuracy,
            "balanced_accuracy_drop_points": self.balanced_accuracy_drop_points,
            "mcnemar": None if self.mcnemar is None else self.mcnemar.to_dict(),
            "cosine": {"mean": _finite(self.cosine), "min": _finite(self.least_cosine)},
            "kl_divergence": _finite(self.kl_divergence),
            **{f"expected_{name}": share for name, share in vars(self.expected).items()},
        }


def compare(
    candidate: NDArray[np.floating[Any]],
    reference: NDArray[np.floating[Any]],
    labels: NDArray[np.int64] | None = None,
    *,
    output: ModelOutput = LOGITS,
    seed: int = 0,
) -> Comparison:
    """Compare two models' scores of the same images.

    Args:
        candidate: scores (n, classes).
        reference: scores (n, classes), in the same order.
        labels: true classes (n,), if known.
        output: meaning of the scores.
        seed: seed of the bootstrap.
    """
    assert candidate.shape == reference.shape, "the same images on both sides"
    ours, theirs = candidate.astype(np.float64), reference.astype(np.float64)
    classes, reference_classes = ours.argmax(1), theirs.argmax(1)
    finite = np.isfinite(ours).all(1) & np.isfinite(theirs).all(1)
    # argmax gives NaN a class: an image with one neither keeps its class nor changes it.
    changed = tuple(np.flatnonzero((classes != reference_classes) & finite).tolist())
    if not finite.all():
        broken = tuple(np.flatnonzero(~finite).tolist())
        unknown = LogitDifference(_NAN, _NAN, _NAN, _NAN)
        worst = ExpectedChanges(1.0, 1.0, 0.0)
        return Comparison(len(ours), changed, broken, unknown, _NAN, _NAN, _NAN, _NAN, worst, output=output)
    largest, cosines = float(np.abs(theirs).max()), _cosines(ours, theirs)
    of_labels: dict[str, Any] = {}
    if labels is not None:
        right, reference_right = classes == labels, reference_classes == labels
        test = mcnemar(right, reference_right)
        of_labels = {
            "accuracy": float(right.mean()),
            "reference_accuracy": float(reference_right.mean()),
            "balanced_accuracy": _balanced(right, labels),
            "reference_balanced_accuracy": _balanced(reference_right, labels),
            "accuracy_drop_interval_points": drop_interval(test.losses, test.gains, len(ours), seed),
            "mcnemar": test,
        }
    return Comparison(
        images=len(ours),
        changed=changed,
        not_finite=(),
        logit_difference=_difference(np.abs(ours - theirs), largest),
        largest_logit=largest,
        cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        kl_divergence=_kl_divergence(output.log_probabilities(ours), output.log_probabilities(theirs)),
        expected=expected_changes.estimate(output.logits(ours), output.logits(theirs), labels),
        output=output,
        **of_labels,
    )


def read(entry: object) -> dict[str, Any]:
    """Read a comparison from a manifest, under today's names; empty where `entry` is none.

    Manifests of earlier versions call the largest difference `max_difference`, a drop `drop`, and so on. Values are
    passed on unchecked: a manifest may say anything.
    """
    if not isinstance(entry, Mapping):
        return {}
    values = dict(entry)
    for old, new in _EARLIER_NAMES.items():
        if old in values:
            values.setdefault(new, values.pop(old))
    if isinstance(accuracies := values.get("accuracy"), Mapping):
        values |= {"accuracy": accuracies.get("candidate"), "reference_accuracy": accuracies.get("reference")}
    earlier = {"max": values.pop("max_difference", None), "mean": values.pop("mean_difference", None)}
    if not isinstance(values.get("logit_difference"), Mapping):
        values["logit_difference"] = {name: value for name, value in earlier.items() if value is not None}
    return values


_EARLIER_NAMES = {
    "drop": "accuracy_drop_points",
    "drop_interval": "accuracy_drop_interval_points",
    "balanced_drop": "balanced_accuracy_drop_points",
}


def drop_interval(losses: int, gains: int, images: int, seed: int = 0) -> tuple[float, float]:
    """Compute the 95 % paired bootstrap interval of the drop in accuracy, in percentage points.

    Resampling is paired, so that the drop of a resample follows from how many of its images became wrong (`losses`) and
    right (`gains`). With replacement these counts are multinomial, and are drawn directly.
    """
    shares = np.array([losses, gains, images - losses - gains]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, _RESAMPLES)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / images, (2.5, 97.5))
    return float(low), float(high)


def mcnemar(candidate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> McNemar:
    """Count losses and gains, given whether each model classifies each image (n,) correctly."""
    return McNemar(int((reference & ~candidate).sum()), int((candidate & ~reference).sum()))


def _difference(absolute: NDArray[np.float64], largest: float) -> LogitDifference:
    most = float(absolute.max())
    relative = most / largest if largest else (0.0 if most == 0 else _NAN)
    return LogitDifference(most, float(absolute.mean()), float(np.percentile(absolute, 99)), relative)


def _cosines(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine similarity row by row. Two rows of zeros have 1, a row of zeros and any other 0."""
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    product = norms[0] * norms[1]
    cosines = (ours * theirs).sum(1) / np.where(product > 0, product, 1.0)
    cosines[product == 0] = (norms[0] == norms[1])[product == 0]
    return np.asarray(cosines.clip(-1, 1), np.float64)


def _points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else 100 * (before - after)


def _balanced(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _kl_divergence(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float((np.exp(theirs) * (theirs - ours)).sum(1).mean().clip(0))


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None
