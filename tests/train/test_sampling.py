"""The order of an epoch: each image once, or each class equally often."""

from __future__ import annotations

import numpy as np
import pytest

from hemf_export.train.sampling import order

LABELS = [0] * 67 + [1] * 11 + [2] * 1 + [4] * 21


def test_shuffled_is_one_permutation_of_seed_and_epoch():
    found = order(LABELS, seed=3, epoch=5, sampling="shuffled")
    assert np.array_equal(found, np.random.default_rng([3, 5]).permutation(100))


@pytest.mark.parametrize("epoch", range(5))
def test_class_balanced_takes_each_class_equally_often_and_its_images_in_turn(epoch):
    found = order(LABELS, seed=0, epoch=epoch, sampling="class-balanced")
    assert found.shape == (100,)
    labels = np.asarray(LABELS)[found]
    assert np.unique(labels, return_counts=True)[1].tolist() == [25] * 4
    times = np.bincount(found, minlength=100)
    for name in np.unique(LABELS):
        own = times[np.asarray(LABELS) == name]
        assert own.max() - own.min() <= 1, "none again before all of its class were there"


def test_what_does_not_divide_goes_to_other_classes_in_other_epochs():
    counts = [
        np.bincount(np.asarray([0, 0, 0, 1, 2])[order([0, 0, 0, 1, 2], seed=0, epoch=epoch, sampling="class-balanced")])
        for epoch in range(60)
    ]
    assert all(sorted(row.tolist()) == [1, 2, 2] for row in counts)
    assert np.mean(counts, axis=0) == pytest.approx([5 / 3] * 3, abs=0.25)


def test_seed_and_epoch_decide():
    first = order(LABELS, seed=0, epoch=0, sampling="class-balanced")
    assert np.array_equal(first, order(LABELS, seed=0, epoch=0, sampling="class-balanced"))
    assert not np.array_equal(first, order(LABELS, seed=0, epoch=1, sampling="class-balanced"))
    assert not np.array_equal(first, order(LABELS, seed=1, epoch=0, sampling="class-balanced"))
