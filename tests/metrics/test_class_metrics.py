"""Figures of single classes beside scikit-learn's, and by hand where it leaves them open."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import (
    balanced_accuracy_score,
    classification_report,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from hemf_export.metrics.classification import RocCurve, by_class, mean_curve, roc_curves, summarize


def case(seed: int) -> tuple[list[int], np.ndarray, list[str]]:
    """Labels in which every class occurs, logits with ties, and names."""
    generator = np.random.default_rng(seed)
    classes, images = int(generator.integers(2, 8)), int(generator.integers(8, 60))
    truth = np.concatenate([np.arange(classes), generator.integers(0, classes, images)])
    logits = generator.integers(-2, 3, (len(truth), classes)) + np.eye(classes)[truth] * generator.integers(0, 2)
    return truth.tolist(), logits.astype(np.float32), [f"c{index}" for index in range(classes)]


@pytest.mark.parametrize("seed", range(20))
def test_every_class_and_every_average_beside_scikit_learn(seed):
    truth, logits, names = case(seed)
    probabilities = softmax(logits.astype(float), axis=1)
    found = by_class(truth, probabilities, names)
    json.dumps(found, allow_nan=False)
    report = classification_report(
        truth, logits.argmax(1), labels=range(len(names)), target_names=names, output_dict=True, zero_division=0.0
    )
    for index, name in enumerate(names):
        own = np.array(truth) == index
        assert found[name]["precision"] == pytest.approx(report[name]["precision"])
        assert found[name]["recall"] == pytest.approx(report[name]["recall"])
        assert found[name]["f1"] == pytest.approx(report[name]["f1-score"])
        assert found[name]["support"] == report[name]["support"]
        assert found[name]["auc"] == pytest.approx(roc_auc_score(own, probabilities[:, index]))
        assert found[name]["specificity"] == pytest.approx(recall_score(~own, logits.argmax(1) != index))
    summary = summarize(truth, logits, names)
    for key, score in (("macro_precision", precision_score), ("macro_recall", recall_score), ("macro_f1", f1_score)):
        expected = score(truth, logits.argmax(1), average="macro", zero_division=0.0)
        assert summary[key] == pytest.approx(expected), key
    assert summary["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)))
    assert summary["macro_recall"] == pytest.approx(summary["balanced_accuracy"]), "every class occurs"


@pytest.mark.parametrize("seed", range(20))
def test_curves_are_scikit_learns_and_the_macro_curve_has_their_mean_area(seed):
    truth, logits, names = case(seed)
    probabilities = softmax(logits.astype(float), axis=1)
    curves = roc_curves(truth, probabilities, names)
    assert [curve.name for curve in curves] == names
    for index, curve in enumerate(curves):
        false_rate, true_rate, _ = roc_curve(np.array(truth) == index, probabilities[:, index])
        np.testing.assert_array_equal(curve.false_positive_rate, false_rate)
        np.testing.assert_array_equal(curve.true_positive_rate, true_rate)
    macro = mean_curve(curves)
    scores = probabilities if len(names) > 2 else probabilities[:, 1]
    assert macro.area == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr", average="macro"))
    assert (np.diff(macro.false_positive_rate) >= 0).all()
    assert (np.diff(macro.true_positive_rate) >= -1e-12).all()
    assert (macro.true_positive_rate[0], macro.true_positive_rate[-1]) == (0, 1)


def test_the_mean_of_two_curves_by_hand():
    """A step at 0 and the diagonal: between them the line from (0, 1/2) to (1, 1)."""
    step = RocCurve("a", np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), 1.0)
    diagonal = RocCurve("b", np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.5)
    found = mean_curve([step, diagonal])
    assert found.false_positive_rate.tolist() == [0, 0, 1, 1]
    assert found.true_positive_rate.tolist() == [0, 0.5, 1, 1]
    assert found.area == 0.75


def test_classes_without_images_or_without_others():
    found = by_class([0, 0], np.array([[0.9, 0.1], [0.2, 0.8]]), ("a", "b"))
    assert found["a"] == {"precision": 1, "recall": 0.5, "specificity": None, "f1": pytest.approx(2 / 3),
                          "support": 2, "auc": None}  # fmt: skip
    assert found["b"] == {"precision": 0, "recall": 0, "specificity": 0.5, "f1": 0, "support": 0, "auc": None}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_probability_that_is_not_finite_leaves_the_support_alone(bad):
    probabilities = np.array([[bad, 0.0], [0.2, 0.8], [0.9, 0.1]])
    found = by_class([0, 1, 0], probabilities, ("a", "b"))
    assert [found[name].pop("support") for name in ("a", "b")] == [2, 1]
    assert all(value is None for name in ("a", "b") for value in found[name].values())
    assert roc_curves([0, 1, 0], probabilities, ("a", "b")) == ()
