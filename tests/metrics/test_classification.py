"""Figures of a classifier, worked out by hand, and beside other ways to compute them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import brier_score_loss, roc_auc_score

from hemf_export.metrics.classification import brier_score, expected_calibration_error, summarize


def test_figures_of_a_small_case():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]], np.float32))
    figures = summarize([0, 1, 1, 1], logits, ("a", "b", "c"))
    assert figures["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert figures["accuracy"] == 0.75
    assert figures["recall"] == {"a": 1.0, "b": 2 / 3, "c": 0.0}
    assert math.isclose(figures["balanced_accuracy"], (1 + 2 / 3) / 2)  # of the classes that there are
    assert math.isclose(figures["macro_precision"], (1 / 2 + 1) / 2)
    assert math.isclose(figures["macro_f1"], (2 / 3 + 4 / 5) / 2)
    assert math.isclose(figures["mcc"], (1 * 2 - 1 * 0) / math.sqrt(2 * 1 * 3 * 2))
    assert math.isclose(figures["kappa"], (3 / 4 - 1 / 2) / (1 - 1 / 2))
    assert figures["auc"] == pytest.approx(1.0), "0.7 is above 0.6, 0.2, 0.1; all of b above the one of a"
    assert figures["auc_left_out"] == ["c"]
    assert figures["brier"] == pytest.approx((0.14 + 0.86 + 0.38 + 0.26) / 4)
    assert figures["ece"] == pytest.approx((0.3 + abs(1.2 - 1) + 0.5) / 4), "0.6 and 0.6 share a bin"
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.5) + math.log(0.6)) / 4
    assert math.isclose(figures["loss"], expected, rel_tol=1e-5)


def test_huge_logits_do_not_overflow():
    assert summarize([0], np.array([[1e30, 0.0]], np.float32), ("a", "b"))["loss"] == 0.0


@pytest.mark.parametrize("seed", range(40))
def test_figures_are_those_of_their_definitions(seed):
    """MCC and kappa from the confusion matrix, AUC from the ranks of all pairs: by none of the formulas used."""
    generator = np.random.default_rng(seed)
    classes, images = int(generator.integers(2, 6)), int(generator.integers(1, 30))
    # Few values: ties among the logits, and among the images, are common.
    logits = generator.integers(-1, 2, (images, classes)).astype(np.float32)
    truth = generator.integers(0, min(classes, 1 + seed % 4), images).tolist()
    names = [f"c{index}" for index in range(classes)]
    found = summarize(truth, logits, names)
    json.dumps(found, allow_nan=False)

    matrix = np.array(found["confusion"], float)
    rights, rows_, columns = np.trace(matrix), matrix.sum(1), matrix.sum(0)
    down = math.sqrt((images**2 - (columns**2).sum()) * (images**2 - (rows_**2).sum()))
    assert found["mcc"] == pytest.approx((rights * images - rows_ @ columns) / down if down else 0.0, abs=1e-9)
    chance = rows_ @ columns / images**2
    expected = None if chance == 1 else pytest.approx((rights / images - chance) / (1 - chance), abs=1e-9)
    assert found["kappa"] == expected

    probabilities = np.exp(log_softmax(logits.astype(float), 1))
    areas = []
    for index in range(classes):
        own = np.array(truth) == index
        pairs = probabilities[own, index][:, None] - probabilities[~own, index][None, :]
        if pairs.size:
            areas.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        assert (names[index] in found["auc_left_out"]) == (pairs.size == 0)
    assert found["auc"] == (pytest.approx(np.mean(areas), abs=1e-9) if areas else None)

    gaps = 0.0
    for low in range(15):
        inside = (probabilities.max(1) > low / 15 + 1e-10) & (probabilities.max(1) <= (low + 1) / 15 + 1e-10)
        if inside.any():
            right = (logits.argmax(1) == truth)[inside]
            gaps += inside.sum() * abs(right.mean() - probabilities.max(1)[inside].mean())
    assert found["ece"] == pytest.approx(gaps / images, abs=1e-9)


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (1, 4), (50, 2), (200, 6)])
def test_brier_score_and_auc_beside_scikit_learns_own(images, classes):
    generator = np.random.default_rng([images, classes])
    logits = generator.standard_normal((images, classes)).astype(np.float32)
    truth = generator.integers(0, classes, images)
    found = summarize(truth.tolist(), logits, [str(index) for index in range(classes)])
    powers = np.exp(logits.astype(float))
    probabilities = powers / powers.sum(1, keepdims=True)
    if classes > 2:
        own = brier_score_loss(truth, probabilities, labels=range(classes), scale_by_half=False)
    else:
        own = 2 * brier_score_loss(truth, probabilities[:, 1], labels=[0, 1])
    assert found["brier"] == pytest.approx(own)
    if images > 1:
        scores = probabilities if classes > 2 else probabilities[:, 1]
        assert found["auc"] == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr", average="macro"))


@pytest.mark.parametrize("predicted", [0, 1])
def test_one_class_alone(predicted):
    """All images of one class, all given one: scikit-learn would warn, and divide nothing by nothing."""
    logits = np.zeros((4, 2), np.float32)
    logits[:, predicted] = 1
    found = summarize([0] * 4, logits, ("a", "b"))
    assert (found["accuracy"], found["mcc"]) == (float(predicted == 0), 0.0)
    assert found["kappa"] == (None if predicted == 0 else 0.0)
    assert (found["auc"], found["auc_left_out"]) == (None, ["a", "b"])


def test_a_perfect_classifier():
    truth = np.arange(9) % 3
    found = summarize(truth.tolist(), np.eye(3, dtype=np.float32)[truth] * 50, ("a", "b", "c"))
    names = ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "mcc", "kappa", "auc")
    assert [found[name] for name in names] == pytest.approx([1.0] * 7)
    assert found["ece"] == pytest.approx(0)
    assert found["brier"] == pytest.approx(0)


def test_the_edges_of_the_bins_belong_to_the_lower_one():
    """Confidences of 3/5 (9/15, an edge) and a little above: two bins, whose gaps are added, not set off."""
    truth = np.array([0, 1])
    apart = np.array([[0.6, 0.4], [0.6 + 1e-6, 0.4 - 1e-6]])
    assert expected_calibration_error(truth, apart) == pytest.approx((0.4 + 0.6) / 2, abs=1e-5)
    together = np.array([[0.6, 0.4], [0.6 - 1e-6, 0.4 + 1e-6]])
    assert expected_calibration_error(truth, together) == pytest.approx(abs(0.4 - 0.6) / 2, abs=1e-5)
    rounded = np.array([[0.6, 0.4], [np.nextafter(0.6, 1), 0.4]])
    assert expected_calibration_error(truth, rounded) == pytest.approx(abs(0.4 - 0.6) / 2), "no more than rounding"
    assert brier_score(truth, apart) == pytest.approx((0.32 + 0.72) / 2, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_leave_no_figure(bad):
    """NumPy's argmax takes NaN for the largest: in the first column, an image would be right by it."""
    logits = np.array([[0.0, 1.0], [bad, 0.0]], np.float32)
    found, whole = (summarize([1, 0], each, ("a", "b")) for each in (logits, np.eye(2, dtype=np.float32)))
    assert found.pop("images") == 2
    assert found.pop("auc_left_out") == ["a", "b"]
    assert found.pop("recall") == {"a": None, "b": None}
    assert set(found.values()) == {None}
    assert {"images", "auc_left_out", "recall", *found} == set(whole)
