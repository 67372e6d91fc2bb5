"""Two models on the same images: figures beside scipy's, and values worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine

from hemf_export.verify.comparison import compare, mcnemar


def logits(images: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, images, classes]).standard_normal((images, classes)).astype(np.float32)


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
    assert found.overall.max_difference == differences[-1]
    assert found.mean_difference == pytest.approx(math.fsum(differences) / len(differences))
    place = 0.99 * (len(differences) - 1)
    low = differences[int(place)]
    high = differences[min(int(place) + 1, len(differences) - 1)]
    assert found.p99_difference == pytest.approx(low + (place - int(place)) * (high - low))
    cosines = [1 - cosine(a.astype(float), b.astype(float)) for a, b in zip(ours, theirs, strict=True)]
    assert (found.cosine, found.least_cosine) == pytest.approx((np.mean(cosines), min(cosines)))
    assert found.largest_logit == max(abs(float(value)) for value in theirs.ravel())
    assert found.changed == tuple(i for i in range(images) if ours[i].argmax() != theirs[i].argmax())
    assert found.overall.agreement == pytest.approx(1 - len(found.changed) / images)


def test_without_labels_there_is_nothing_to_be_right_on():
    found = compare(logits(5, 3, 1), logits(5, 3, 2), None)
    assert found.mcnemar is None
    assert found.to_dict()["accuracy_drop_points"] is None


def test_rows_of_zeros_have_no_direction():
    zeros, ones = np.zeros((2, 3), np.float32), np.array([[0, 0, 0], [1, 0, 0]], np.float32)
    found = compare(zeros, ones, None)
    assert (found.cosine, found.least_cosine) == (0.5, 0.0)


def test_the_same_logits_differ_in_nothing():
    same, labels = logits(30, 4, 1), np.arange(30) % 4
    found = compare(same, same, labels).to_dict()
    assert found["logit_difference"] == {"max": 0.0, "mean": 0.0, "p99": 0.0}
    assert found["cosine"]["min"] == pytest.approx(1)
    assert found["mcnemar"] == {"losses": 0, "gains": 0, "p_value": 1.0}
    assert (found["accuracy_drop_points"], found["accuracy_drop_interval_points"]) == (0.0, [0.0, 0.0])


def test_the_bootstrap_is_seeded():
    ours, theirs, labels = logits(60, 3, 1), logits(60, 3, 2), np.arange(60) % 3
    intervals = [compare(ours, theirs, labels, seed).overall.drop_interval for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1]
    assert intervals[0] != intervals[2]


def test_the_interval_is_that_of_images_drawn_anew():
    """The bootstrap as it is usually written, image by image."""
    ours, theirs, labels = logits(80, 3, 1), logits(80, 3, 2), np.arange(80) % 3
    lost = (theirs.argmax(1) == labels).astype(int) - (ours.argmax(1) == labels)
    drawn = np.random.default_rng(9).integers(0, 80, (20_000, 80))
    expected = np.percentile(100 * lost[drawn].mean(1), (2.5, 97.5))
    assert compare(ours, theirs, labels).overall.drop_interval == pytest.approx(expected, abs=1.3)


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
