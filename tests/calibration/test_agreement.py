"""Comparisons of logits beside scikit-learn's and scipy's own figures, and beside simulated noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from calibration.agreement import compare


def logits(images: int, classes: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng([seed, images, classes]).standard_normal((images, classes)) * scale).astype("f4")


def labels_of(images: int, classes: int, kind: str) -> np.ndarray:
    if kind == "one class":
        return np.full(images, classes - 1, np.int64)
    if kind == "rare class":
        return np.where(np.arange(images) == 0, 1, 0).astype(np.int64)
    return np.random.default_rng(7).integers(0, classes, images)


@pytest.mark.parametrize("kind", ["random", "one class", "rare class"])
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (1, 5), (2, 3), (40, 2), (300, 7)])
def test_accuracies_are_those_of_scikit_learn(images, classes, kind):
    ours, theirs, labels = logits(images, classes, 1), logits(images, classes, 2), labels_of(images, classes, kind)
    found = compare(ours, theirs, labels)
    assert found.accuracy == pytest.approx(accuracy_score(labels, ours.argmax(1)))
    assert found.reference_accuracy == pytest.approx(accuracy_score(labels, theirs.argmax(1)))
    recalls = [(side.argmax(1)[labels == c] == c).mean() for side in (ours, theirs) for c in np.unique(labels)]
    recalls = np.reshape(recalls, (2, -1)).mean(1)
    assert (found.balanced_accuracy, found.reference_balanced_accuracy) == pytest.approx(tuple(recalls))
    assert found.drop == pytest.approx(100 * (found.reference_accuracy - found.accuracy))
    assert found.balanced_drop == pytest.approx(100 * (recalls[1] - recalls[0]))


def test_balanced_accuracy_is_that_of_scikit_learn():
    ours, labels = logits(500, 4, 1), labels_of(500, 4, "random")
    found = compare(ours, logits(500, 4, 2), labels)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, ours.argmax(1)))


@pytest.mark.parametrize("scale", [0.01, 2.0, 60.0])
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (50, 3), (200, 10)])
def test_the_divergence_is_that_of_the_softmaxes(images, classes, scale):
    ours, theirs = logits(images, classes, 1, scale), logits(images, classes, 2, scale)
    wide = ours.astype(np.float64), theirs.astype(np.float64)
    exact = np.exp(log_softmax(wide[1], 1))
    expected = (exact * (log_softmax(wide[1], 1) - log_softmax(wide[0], 1))).sum(1).mean()
    found = compare(ours, theirs, None)
    assert found.kl_divergence == pytest.approx(expected, rel=1e-7, abs=1e-12)
    if scale <= 2:
        assert found.kl_divergence == pytest.approx(
            rel_entr(exact, np.exp(log_softmax(wide[0], 1))).sum(1).mean(), rel=1e-7
        )
    assert found.max_difference == np.abs(wide[0] - wide[1]).max()


def test_a_shift_of_all_logits_of_an_image_changes_no_probability():
    theirs = np.round(logits(30, 4) * 64) / 64
    found = compare(theirs + np.float32(8), theirs, None)
    assert found.kl_divergence < 1e-12
    assert (found.agreement, found.expected_changes, found.max_difference) == (1.0, 0.0, 8.0)


def test_ties_go_to_the_first_class_on_both_sides():
    tied = np.zeros((6, 3), np.float32)
    found = compare(tied, tied, np.array([0, 0, 0, 1, 2, 2]))
    assert (found.agreement, found.accuracy, found.expected_changes) == (1.0, 0.5, 0.0)


def test_agreement_counts_images_that_keep_their_class():
    theirs = np.eye(4, dtype=np.float32)
    assert compare(theirs[[0, 1, 3, 2]], theirs, None).agreement == 0.5


def test_without_labels_there_are_no_accuracies():
    found = compare(logits(5, 3, 1), logits(5, 3, 2), None)
    assert found.accuracy is found.drop is found.balanced_drop is found.drop_interval is None
    assert {"accuracy", "drop", "drop_interval"}.isdisjoint(found.to_dict())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_one_logit_that_is_not_finite_spoils_the_comparison(bad, sides):
    pair = [logits(4, 3, 1), logits(4, 3, 2)]
    for side in sides:
        pair[side][2, 1] = bad
    found = compare(pair[0], pair[1], np.zeros(4, np.int64))
    assert not found.finite
    assert found.expected_changes == 1.0
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("worse", [0, 3, 20])
def test_the_bootstrap_interval_holds_the_drop(worse):
    labels = np.arange(200) % 2
    theirs = np.eye(2, dtype=np.float32)[labels]
    ours = theirs.copy()
    ours[:worse] = ours[:worse, ::-1]
    low, high = compare(ours, theirs, labels).drop_interval
    assert low <= worse / 2 <= high
    if worse:
        share = worse / 200
        expected = 100 * 1.96 * np.sqrt(share * (1 - share) / 200)
        assert (high - low) / 2 == pytest.approx(expected, rel=0.25)
    else:
        assert (low, high) == (0.0, 0.0)


def test_images_that_are_wrong_on_both_sides_widen_no_interval():
    same = logits(100, 3)
    assert compare(same, same, labels_of(100, 3, "random")).drop_interval == (0.0, 0.0)
