"""Two models on the same images: comparisons beside scikit-learn's and scipy's, and values worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.special import log_softmax, rel_entr
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from hemf_export.metrics.comparison import compare, mcnemar, read


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
    assert found.accuracy_drop_points == pytest.approx(100 * (found.reference_accuracy - found.accuracy))
    assert found.balanced_accuracy_drop_points == pytest.approx(100 * (recalls[1] - recalls[0]))


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
    assert found.logit_difference.max == np.abs(wide[0] - wide[1]).max()


def test_a_shift_of_all_logits_of_an_image_changes_no_probability():
    theirs = np.round(logits(30, 4) * 64) / 64
    found = compare(theirs + np.float32(8), theirs, None)
    assert found.kl_divergence < 1e-12
    assert (found.agreement, found.expected.changes, found.logit_difference.max) == (1.0, 0.0, 8.0)


def test_ties_go_to_the_first_class_on_both_sides():
    tied = np.zeros((6, 3), np.float32)
    found = compare(tied, tied, np.array([0, 0, 0, 1, 2, 2]))
    assert (found.agreement, found.accuracy, found.expected.changes) == (1.0, 0.5, 0.0)


def test_agreement_counts_images_that_keep_their_class():
    theirs = np.eye(4, dtype=np.float32)
    assert compare(theirs[[0, 1, 3, 2]], theirs, None).agreement == 0.5


def test_without_labels_there_are_no_accuracies():
    found = compare(logits(5, 3, 1), logits(5, 3, 2), None)
    unknown = {name: value for name, value in found.to_dict().items() if "accuracy" in name or name == "mcnemar"}
    assert len(unknown) == 8
    assert set(unknown.values()) == {None}


def test_a_comparison_worked_out_by_hand():
    theirs = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    found = compare(np.array([[1.0, 2.5], [1.0, 2.0]], np.float32), theirs, np.array([1, 1]))
    assert (found.logit_difference.max, found.logit_difference.mean) == (2.0, (0 + 0.5 + 2 + 2) / 4)
    assert (found.logit_difference.relative, found.largest_logit) == (2 / 3, 3.0)
    assert (found.agreement, found.changed) == (0.5, (1,))
    assert (found.accuracy, found.reference_accuracy, found.accuracy_drop_points) == (1.0, 0.5, -50.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_one_logit_that_is_not_finite_spoils_the_comparison(bad, sides):
    pair = [logits(4, 3, 1), logits(4, 3, 2)]
    for side in sides:
        pair[side][2, 1] = bad
    found = compare(pair[0], pair[1], np.zeros(4, np.int64))
    assert not found.finite
    assert found.expected.changes == 1.0
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("worse", [0, 3, 20])
def test_the_bootstrap_interval_holds_the_drop(worse):
    labels = np.arange(200) % 2
    theirs = np.eye(2, dtype=np.float32)[labels]
    ours = theirs.copy()
    ours[:worse] = ours[:worse, ::-1]
    low, high = compare(ours, theirs, labels).accuracy_drop_interval_points
    assert low <= worse / 2 <= high
    if worse:
        share = worse / 200
        expected = 100 * 1.96 * np.sqrt(share * (1 - share) / 200)
        assert (high - low) / 2 == pytest.approx(expected, rel=0.25)
    else:
        assert (low, high) == (0.0, 0.0)


def test_images_that_are_wrong_on_both_sides_widen_no_interval():
    same = logits(100, 3)
    assert compare(same, same, labels_of(100, 3, "random")).accuracy_drop_interval_points == (0.0, 0.0)


@given(losses=st.integers(0, 25), gains=st.integers(0, 25), same=st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_mcnemars_test_counts_how_many_tosses_are_as_uneven(losses, gains, same):
    right = [True] * losses + [False] * gains + [True] * same
    ours = [False] * losses + [True] * gains + [True] * same
    found = mcnemar(np.array(ours, bool), np.array(right, bool))
    assert (found.losses, found.gains) == (losses, gains)
    tosses = losses + gains
    uneven = [heads for heads in range(tosses + 1) if abs(2 * heads - tosses) >= abs(losses - gains)]
    assert found.p_value == pytest.approx(sum(math.comb(tosses, heads) for heads in uneven) / 2**tosses)


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (7, 3), (120, 5)])
def test_differences_and_cosines(images, classes):
    ours, theirs = logits(images, classes, 1), logits(images, classes, 2)
    found = compare(ours, theirs, None)
    differences = sorted(abs(float(a) - float(b)) for a, b in zip(ours.ravel(), theirs.ravel(), strict=True))
    assert found.logit_difference.max == differences[-1]
    assert found.logit_difference.mean == pytest.approx(math.fsum(differences) / len(differences))
    place = 0.99 * (len(differences) - 1)
    low = differences[int(place)]
    high = differences[min(int(place) + 1, len(differences) - 1)]
    assert found.logit_difference.p99 == pytest.approx(low + (place - int(place)) * (high - low))
    cosines = [1 - cosine(a.astype(float), b.astype(float)) for a, b in zip(ours, theirs, strict=True)]
    assert (found.cosine, found.least_cosine) == pytest.approx((np.mean(cosines), min(cosines)))
    assert found.largest_logit == max(abs(float(value)) for value in theirs.ravel())
    assert found.logit_difference.relative == found.logit_difference.max / found.largest_logit
    assert found.changed == tuple(i for i in range(images) if ours[i].argmax() != theirs[i].argmax())
    assert found.agreement == pytest.approx(1 - len(found.changed) / images)


def test_rows_of_zeros_have_no_direction():
    zeros, ones = np.zeros((2, 3), np.float32), np.array([[0, 0, 0], [1, 0, 0]], np.float32)
    found = compare(zeros, ones, None)
    assert (found.cosine, found.least_cosine) == (0.5, 0.0)


def test_the_same_logits_differ_in_nothing():
    same, labels = logits(30, 4, 1), np.arange(30) % 4
    found = compare(same, same, labels).to_dict()
    assert set(found["logit_difference"].values()) == {0.0}
    assert found["cosine"]["min"] == pytest.approx(1)
    assert found["mcnemar"] == {"losses": 0, "gains": 0, "p_value": 1.0}
    assert (found["accuracy_drop_points"], found["accuracy_drop_interval_points"]) == (0.0, [0.0, 0.0])


def test_the_bootstrap_is_seeded():
    ours, theirs, labels = logits(60, 3, 1), logits(60, 3, 2), np.arange(60) % 3
    intervals = [compare(ours, theirs, labels, seed=seed).accuracy_drop_interval_points for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1]
    assert intervals[0] != intervals[2]


def test_the_interval_is_that_of_images_drawn_anew():
    """The bootstrap as it is usually written, image by image."""
    ours, theirs, labels = logits(80, 3, 1), logits(80, 3, 2), np.arange(80) % 3
    lost = (theirs.argmax(1) == labels).astype(int) - (ours.argmax(1) == labels)
    drawn = np.random.default_rng(9).integers(0, 80, (20_000, 80))
    expected = np.percentile(100 * lost[drawn].mean(1), (2.5, 97.5))
    assert compare(ours, theirs, labels).accuracy_drop_interval_points == pytest.approx(expected, abs=1.3)


@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_logits_that_are_not_finite_are_counted_and_equal_nothing(sides):
    pair = [logits(4, 3, 1), logits(4, 3, 1)]
    for side in sides:
        pair[side][2] = math.nan
    found = compare(pair[0], pair[1], np.zeros(4, np.int64))
    assert found.not_finite == (2,)
    values = found.to_dict()
    json.dumps(values, allow_nan=False)
    assert not values["finite"]
    assert values["logit_difference"]["max"] is None
    assert values["mcnemar"] is None


def test_a_comparison_is_read_back_under_its_names():
    written = compare(logits(9, 3, 1), logits(9, 3, 2), np.arange(9) % 3).to_dict()
    assert read(json.loads(json.dumps(written))) == written


def test_manifests_of_earlier_versions_are_read_under_todays_names():
    calibrated = read({"images": 50, "agreement": 0.98, "max_difference": 0.01, "accuracy": 0.9, "drop": 0.5,
                       "drop_interval": [0.0, 1.0], "balanced_drop": 0.25})  # fmt: skip
    assert calibrated["logit_difference"] == {"max": 0.01}
    assert (calibrated["accuracy_drop_points"], calibrated["accuracy_drop_interval_points"]) == (0.5, [0.0, 1.0])
    assert (calibrated["accuracy"], calibrated["balanced_accuracy_drop_points"]) == (0.9, 0.25)
    exported = read({"images": 6, "max_difference": 1e-6, "mean_difference": 1e-7, "largest_logit": 3.0,
                     "accuracy": {"candidate": 0.5, "reference": 0.75}})  # fmt: skip
    assert exported["logit_difference"] == {"max": 1e-6, "mean": 1e-7}
    assert (exported["accuracy"], exported["reference_accuracy"]) == (0.5, 0.75)
    assert not any(name.startswith(("max_", "mean_", "drop")) for name in (*calibrated, *exported))


@pytest.mark.parametrize("entry", [None, "many", 3, [], {}])
def test_an_entry_that_is_no_comparison_says_nothing(entry):
    assert not any(read(entry).values())
