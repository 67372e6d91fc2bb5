"""Figures of a classifier on labelled images: definitions are scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score


def summarize(labels: Sequence[int], logits: NDArray[np.float32], classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, recall per class, confusion matrix (row: true class) and mean cross-entropy.

    Args:
        labels: true classes, n of them.
        logits: (n, number of classes).
        classes: names, in the order of the logits.
    """
    truth = np.asarray(labels)
    predicted = logits.argmax(1)
    indices = np.arange(len(classes))
    recall = recall_score(truth, predicted, labels=indices, average=None, zero_division=0.0)
    return {
        "images": len(truth),
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall[np.isin(indices, truth)].mean()),
        "recall": {name: float(value) for name, value in zip(classes, recall, strict=True)},
        "confusion": confusion_matrix(truth, predicted, labels=indices).tolist(),
        "loss": _cross_entropy(truth, logits),
    }


def _cross_entropy(truth: NDArray[np.int64], logits: NDArray[np.float32]) -> float:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_probabilities[np.arange(len(truth)), truth].mean())
