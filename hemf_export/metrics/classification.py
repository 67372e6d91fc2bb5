"""Metrics of a classifier on labelled images, overall and by class, and ROC curves.

Definitions are scikit-learn's, where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    auc,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from hemf_export.files.model_output import LOGITS, ModelOutput

ECE_BINS = 15
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RocCurve:
    """ROC curve: true positive rate over false positive rate, from (0, 0) to (1, 1), linear between the points.

    Args:
        name: the class, or "macro".
        false_positive_rate: not decreasing.
        true_positive_rate: not decreasing.
        area: area under the curve (AUC).
    """

    name: str
    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    area: float


def summarize(
    labels: Sequence[int], logits: NDArray[np.float32], classes: Sequence[str], output: ModelOutput = LOGITS
) -> dict[str, Any]:
    """Compute all metrics of a classifier from its logits of labelled images, in plain types.

    Args:
        labels: true classes, n of them.
        logits: (n, classes); other scores with `output`.
        classes: names, in the order of the logits.
        output: meaning of the scores.

    Returns:
        `accuracy`, `balanced_accuracy` (mean recall of the classes with images), `macro_precision`, `macro_recall` and
        `macro_f1` (over the classes that are true or predicted), `mcc` (0 where it is undefined, as in scikit-learn),
        `kappa` (Cohen's), `auc` (one against the rest, mean over the classes; `auc_left_out` names classes of no image
        or of all, which have none), `ece` (see `expected_calibration_error`), `brier` (see `brier_score`), `recall` by
        class, the `confusion` matrix (rows: true classes) and `loss`, the mean cross-entropy. Kappa and AUC are None
        where they are undefined. Where a logit is not finite, all metrics but `images` are None: such an image has no
        class, though NumPy's argmax gives it one.
    """
    truth = np.asarray(labels)
    if not np.isfinite(logits).all():
        return _unknown(len(truth), classes)
    predicted = logits.argmax(1)
    indices = np.arange(len(classes))
    recall = recall_score(truth, predicted, labels=indices, average=None, zero_division=0.0)
    logs = output.log_probabilities(logits)
    # Of logits by their logarithms: where logits tie, probabilities must too, for the ranks of the AUC.
    probabilities = output.probabilities(logits) if output.of_probabilities else np.exp(logs)
    summary: dict[str, Any] = {
        "images": len(truth),
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall[np.isin(indices, truth)].mean()),
        "macro_precision": float(precision_score(truth, predicted, average="macro", zero_division=0.0)),
        "macro_recall": float(recall_score(truth, predicted, average="macro", zero_division=0.0)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0.0)),
        **_beyond_chance(truth, predicted, indices),
        **_of_probabilities(truth, probabilities, classes),
        "recall": {name: float(value) for name, value in zip(classes, recall, strict=True)},
        "confusion": confusion_matrix(truth, predicted, labels=indices).tolist(),
        "loss": float(-logs[np.arange(len(truth)), truth].mean()),
    }
    return summary


def expected_calibration_error(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Expected calibration error: mean gap between confidence and accuracy, over `ECE_BINS` equal bins, by images.

    Guo et al. 2017, equation 3: the confidence is the largest probability, bin m is ((m - 1) / M, m / M].
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    # A tie of three classes has the confidence 1/3, the edge of a bin: rounding must not decide on its side.
    bins = np.clip(np.ceil(confidence * ECE_BINS - _ROUNDING).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def brier_score(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Brier score: mean squared distance of the probabilities from the true class, 0 to 2 (Brier 1950)."""
    target = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - target) ** 2).sum(1).mean())


def by_class(
    labels: Sequence[int], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Precision, recall (sensitivity), specificity, F1, support (images) and AUC of each class against the rest.

    As in scikit-learn, precision is 0 where the class was never predicted, recall and F1 where it has no image;
    specificity is None where all images are of the class, AUC where all or none are. Where a probability is not
    finite, all but the support are None.

    Args:
        labels: true classes, n of them.
        probabilities: (n, classes).
        classes: names.
    """
    indices = np.arange(len(classes))
    if not np.isfinite(probabilities).all():
        unknown = dict.fromkeys(("precision", "recall", "specificity", "f1", "auc"))
        return {name: {**unknown, "support": list(labels).count(index)} for index, name in enumerate(classes)}
    predicted = probabilities.argmax(1)
    columns = precision_recall_fscore_support(labels, predicted, labels=indices, average=None, zero_division=0.0)
    confusion = confusion_matrix(labels, predicted, labels=indices)
    areas = {curve.name: curve.area for curve in roc_curves(labels, probabilities, classes)}
    metrics = {}
    for index, (name, precision, recall, f1, support) in enumerate(zip(classes, *columns, strict=True)):
        rest = len(labels) - int(support)
        false_positives = int(confusion[:, index].sum() - confusion[index, index])
        metrics[name] = {
            "precision": float(precision),
            "recall": float(recall),
            "specificity": (rest - false_positives) / rest if rest else None,
            "f1": float(f1),
            "support": int(support),
            "auc": areas.get(name),
        }
    return metrics


def roc_curves(
    labels: Sequence[int], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> tuple[RocCurve, ...]:
    """Compute the ROC curve of each class against the rest.

    Classes of no image or of all have none; where a probability is not finite, none has.
    """
    if not np.isfinite(probabilities).all():
        return ()
    truth = np.asarray(labels)
    curves = []
    for index, name in enumerate(classes):
        own = truth == index
        if own.any() and not own.all():
            false_rate, true_rate, _ = roc_curve(own, probabilities[:, index])
            curves.append(RocCurve(name, false_rate, true_rate, float(auc(false_rate, true_rate))))
    return tuple(curves)


def mean_curve(curves: Sequence[RocCurve], name: str = "macro") -> RocCurve:
    """Average the true positive rates at each false positive rate, so that the area is the mean of the areas.

    Vertical steps are kept: at each rate that occurs, the curves are read from the left and from the right.

    Args:
        curves: at least one.
        name: name of the result.
    """
    rates = np.unique(np.concatenate([curve.false_positive_rate for curve in curves]))
    sides = []
    for sign in (-1, 1):  # of points with equal x, np.interp takes the last: mirrored, that is the first
        read = [
            np.interp(sign * rates, (sign * curve.false_positive_rate)[::sign], curve.true_positive_rate[::sign])
            for curve in curves
        ]
        sides.append(np.mean(read, axis=0))
    x, y = np.repeat(rates, 2), np.stack(sides, 1).reshape(-1)
    return RocCurve(name, x, y, float(auc(x, y)))


def _unknown(images: int, classes: Sequence[str]) -> dict[str, Any]:
    """Result of `summarize` where a logit is not finite."""
    names = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "mcc", "kappa", "auc")
    return {
        "images": images,
        **dict.fromkeys(names),
        "auc_left_out": list(classes),
        **dict.fromkeys(("ece", "brier")),
        "recall": dict.fromkeys(classes),
        "confusion": None,
        "loss": None,
    }


def _beyond_chance(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], indices: NDArray[np.int64]
) -> dict[str, Any]:
    """Compute MCC and kappa, which are undefined with one class on both sides: scikit-learn warns of that."""
    if len(np.union1d(truth, predicted)) < 2:
        return {"mcc": 0.0, "kappa": None}
    return {
        "mcc": float(matthews_corrcoef(truth, predicted)),
        "kappa": float(cohen_kappa_score(truth, predicted, labels=indices)),
    }


def _of_probabilities(
    truth: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, Any]:
    """Compute the metrics of the probabilities (n, classes) beyond their argmax: AUC, ECE, Brier score."""
    areas, left_out = [], []
    for index, name in enumerate(classes):
        own = truth == index
        if own.any() and not own.all():
            areas.append(float(roc_auc_score(own, probabilities[:, index])))
        else:
            left_out.append(name)
    return {
        "auc": float(np.mean(areas)) if areas else None,
        "auc_left_out": left_out,
        "ece": expected_calibration_error(truth, probabilities),
        "brier": brier_score(truth, probabilities),
    }
