"""What is expected of other images, beside what is counted on many of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import poisson, skellam

from hemf_export.metrics.comparison import compare
from hemf_export.metrics.expected_changes import ExpectedChanges, estimate


def logits(images: int, classes: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng([seed, images, classes]).standard_normal((images, classes)) * scale).astype("f4")


def test_equal_logits_are_expected_to_change_nothing():
    same = logits(50, 3)
    assert estimate(same, same.copy(), None).changes == 0.0


def test_noise_on_logits_without_a_margin_is_expected_to_change_half():
    theirs = np.zeros((1000, 2), np.float32)
    assert estimate(logits(1000, 2, scale=0.01), theirs, None).changes == pytest.approx(0.5)


def test_a_single_output_never_changes_class():
    assert estimate(logits(5, 1, 1), logits(5, 1, 2), None) == ExpectedChanges(0.0, 0.0, 0.0)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_expected_changes_are_those_counted_over_many_images(classes, noise):
    theirs = logits(40_000, classes, 1)
    ours = theirs + logits(40_000, classes, 2, noise)
    counted = 1 - compare(ours, theirs, None).agreement
    # With more than two classes, others than the second may win as well.
    assert estimate(ours, theirs, None).changes == pytest.approx(counted, rel=0.08 if classes == 2 else 0.3)


def test_losses_and_gains_are_those_counted_over_many_images():
    theirs = logits(40_000, 2, 1)
    ours = theirs + logits(40_000, 2, 2, 0.3)
    labels = np.where(np.random.default_rng(0).random(len(theirs)) < 0.7, theirs.argmax(1), 1 - theirs.argmax(1))
    right = ours.argmax(1) == labels, theirs.argmax(1) == labels
    found = estimate(ours, theirs, labels)
    assert found.losses == pytest.approx((right[1] & ~right[0]).mean(), rel=0.1)
    assert found.gains == pytest.approx((right[0] & ~right[1]).mean(), rel=0.1)


def test_noise_of_the_images_near_the_border_counts_and_not_that_of_the_others():
    theirs = logits(1000, 2, 1)
    near = np.abs(theirs[:, 0] - theirs[:, 1]) < 0.5
    noise = logits(1000, 2, 2, 0.2)
    calm, wild = (theirs + noise * np.where(near == side, 1.0, 0.05)[:, None] for side in (False, True))
    assert estimate(wild, theirs, None).changes > 8 * estimate(calm, theirs, None).changes


def test_one_image_on_the_border_is_no_half_change():
    theirs = logits(200, 2, 1)
    theirs[0] = 1.0
    ours = theirs + logits(200, 2, 2, 0.001)
    assert 0 < estimate(ours, theirs, None).changes < 0.1 * 0.5 / 200


@pytest.mark.parametrize("images", [30, 100, 250])
def test_sets_of_a_few_hundred_images_give_the_figure_on_average(images):
    theirs = logits(images * 200, 2, 1)
    ours = theirs + logits(len(theirs), 2, 2, 0.2)
    parts = [estimate(*pair, None).changes for pair in zip(np.split(ours, 200), np.split(theirs, 200), strict=True)]
    assert np.mean(parts) == pytest.approx(
        (ours.argmax(1) != theirs.argmax(1)).mean(), rel=0.3 if images < 50 else 0.15
    )


@pytest.mark.parametrize(("losses", "gains"), [(0.0, 0.0), (1e-4, 0.0), (0.002, 0.001), (0.01, 0.02), (0.2, 0.1)])
@pytest.mark.parametrize("images", [30, 250, 20_000])
def test_likely_figures_are_the_quantiles_of_rare_events(losses, gains, images):
    found = ExpectedChanges(losses + gains, losses, gains)
    expected = skellam.ppf(0.95, images * losses, images * gains) if gains else poisson.ppf(0.95, images * losses)
    assert found.likely_drop(images) == pytest.approx(100 * expected / images)
    assert found.likely_changes(images) == pytest.approx(poisson.ppf(0.95, images * (losses + gains)) / images)


def test_without_labels_every_change_may_be_a_loss():
    theirs, ours = logits(300, 3, 1), logits(300, 3, 1) + logits(300, 3, 2, 0.1)
    found = estimate(ours, theirs, None)
    assert found.losses == found.changes > 0
    assert found.gains == 0
