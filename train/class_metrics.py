"""Figures of each class alone, and its ROC curve against the rest: definitions are scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, confusion_matrix, precision_recall_fscore_support, roc_curve


@dataclass(frozen=True)
class RocCurve:
    """True positive rate over false positive rate, from (0, 0) to (1, 1), straight between the points.

    Args:
        name: of the class, or "macro".
        false_positive_rate: never falling.
        true_positive_rate: the same.
        area: below it.
    """

    name: str
    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    area: float


def by_class(
    labels: Sequence[int], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Precision, recall (sensitivity), specificity, F1, support (images) and AUC of each class against the rest.

    Precision is 0 where the class was never predicted, recall and F1 where it has no image, as in scikit-learn;
    specificity is None where all images are of the class, AUC where all or none are. Where a probability is not
    finite, all figures but the support are None.

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
    found = {}
    for index, (name, precision, recall, f1, support) in enumerate(zip(classes, *columns, strict=True)):
        rest = len(labels) - int(support)
        false_positives = int(confusion[:, index].sum() - confusion[index, index])
        found[name] = {
            "precision": float(precision),
            "recall": float(recall),
            "specificity": (rest - false_positives) / rest if rest else None,
            "f1": float(f1),
            "support": int(support),
            "auc": areas.get(name),
        }
    return found


def roc_curves(
    labels: Sequence[int], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> tuple[RocCurve, ...]:
    """The curve of each class against the rest; classes that all images or none are of have none, and none has one
    where a probability is not finite."""
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
    """The mean true positive rate at each false positive rate; so its area is the mean of the areas.

    A rise straight up is kept as one: at each rate that occurs, the curves are read from the left and from the right.

    Args:
        curves: at least one.
        name: of the result.
    """
    rates = np.unique(np.concatenate([curve.false_positive_rate for curve in curves]))
    sides = []
    for sign in (-1, 1):  # np.interp takes the last of several points at one place: the first, seen backwards
        read = [
            np.interp(sign * rates, (sign * curve.false_positive_rate)[::sign], curve.true_positive_rate[::sign])
            for curve in curves
        ]
        sides.append(np.mean(read, axis=0))
    x, y = np.repeat(rates, 2), np.stack(sides, 1).reshape(-1)
    return RocCurve(name, x, y, float(auc(x, y)))
