"""The order of an epoch, and its division: nothing twice, nothing lost but what BatchNorm can't take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.train.sampling import Division, order

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


@given(st.integers(6, 200), st.integers(1, 4), st.integers(1, 3), st.integers(2, 12))
def test_every_image_is_in_one_piece_of_at_least_two(images, micro_batches, processes, least):
    division = Division(images, least * micro_batches * processes, micro_batches, processes)
    seen: list[int] = []
    for step in range(division.steps):
        pieces = [division.pieces(step, rank) for rank in range(processes)]
        assert len({len(own) for own in pieces}) == 1, "each process runs as often"
        lengths = [len(piece) for own in pieces for piece in own]
        assert min(lengths) >= 2
        assert max(lengths) - min(lengths) <= 1
        assert sum(lengths) == division.size(step)
        seen.extend(position for own in pieces for piece in own for position in piece)
    assert len(set(seen)) == len(seen)
    left_out = set(range(images)) - set(seen)
    assert len(left_out) < 2 * processes
    assert left_out == set(range(images - len(left_out), images)), "only of the last step"


def test_a_process_more_takes_what_a_micro_batch_more_would():
    alone, shared = Division(19, 8, 2), Division(19, 8, 1, 2)
    assert (alone.steps, shared.steps) == (3, 2), "two processes can't share the last three images"
    for step in range(2):
        assert alone.pieces(step, 0) == [*shared.pieces(step, 0), *shared.pieces(step, 1)]


def test_one_process_has_the_batches_that_it_always_had():
    assert [list(Division(21, 5).pieces(step, 0)[0]) for step in range(4)][-1] == [15, 16, 17, 18, 19]
    assert Division(21, 5).steps == 4, "a last batch of one is left out"
    assert Division(22, 5).steps == 5
    assert Division(22, 8, 4).pieces(2, 0) == [range(16, 18), range(18, 20), range(20, 22)], "fewer micro-batches"


@pytest.mark.parametrize(("micro_batches", "processes"), [(5, 1), (2, 3)])
def test_a_batch_too_small_to_divide_is_a_usage_error(micro_batches, processes):
    with pytest.raises(UsageError, match=f"`batch_size={2 * micro_batches * processes}`"):
        Division(100, 8, micro_batches, processes)


def test_too_few_images_for_the_processes_are_refused():
    with pytest.raises(BadInputError, match="3 training images are too few for 2 processes"):
        Division(3, 8, processes=2)
