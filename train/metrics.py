"""Figures of a classifier on labelled images: definitions are scikit-learn's, where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from hemf.model_output import LOGITS, ModelOutput

ECE_BINS = 15
_ROUNDING = 1e-9


def summarize(
    labels: Sequence[int], logits: NDArray[np.float32], classes: Sequence[str], output: ModelOutput = LOGITS
) -> dict[str, Any]:
    """What is known of a classifier from its logits of labelled images, in plain types.

    Args:
        labels: true classes, n of them.
        logits: (n, number of classes); scores of any other kind with `output`.
        classes: names, in the order of the logits.
        output: what the scores are.

    Returns:
        `accuracy`, `balanced_accuracy` (mean recall of the classes that there are), `macro_precision`, `macro_recall`
        and `macro_f1` (of the classes that are true or predicted), `mcc` (0 where it is undefined, as in scikit-learn),
        `kappa` (Cohen's), `auc` (one against the rest, mean over the classes; `auc_left_out` names those that have
        none, as all images are theirs or none is), `ece` (see `expected_calibration_error`), `brier` (see
        `brier_score`), `recall` of each class, the `confusion` matrix (row: true class) and the mean cross-entropy,
        `loss`. Kappa and AUC are None where they are undefined. Where a logit is not finite, all figures but `images`
        are: such an image has no class, though NumPy's argmax gives it one.
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
    found: dict[str, Any] = {
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
    return found


def _unknown(images: int, classes: Sequence[str]) -> dict[str, Any]:
    """The figures of `summarize` where there are none."""
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


def expected_calibration_error(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean distance between confidence and accuracy, over `ECE_BINS` bins of equal width weighted by their images.

    Guo et al. 2017, equation 3: the confidence is the largest probability, bin m is ((m - 1) / M, m / M].
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    # A tie of three classes has the confidence 1/3, an edge: which side rounding puts it on must not decide.
    bins = np.clip(np.ceil(confidence * ECE_BINS - _ROUNDING).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def brier_score(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Squared distance of the probabilities from the true class, summed over the classes: 0 to 2 (Brier 1950)."""
    target = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - target) ** 2).sum(1).mean())


def _beyond_chance(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], indices: NDArray[np.int64]
) -> dict[str, Any]:
    """MCC and kappa. One class on both sides is all agreement and all chance: scikit-learn warns of it."""
    if len(np.union1d(truth, predicted)) < 2:
        return {"mcc": 0.0, "kappa": None}
    return {
        "mcc": float(matthews_corrcoef(truth, predicted)),
        "kappa": float(cohen_kappa_score(truth, predicted, labels=indices)),
    }


def _of_probabilities(
    truth: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, Any]:
    """Figures of the probabilities (n, classes), beyond which one is the largest."""
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
