"""Training images: the order and the augmentation depend on seed, epoch and image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hemf.images import Preprocess
from train import data
from train.recipe import Recipe


@pytest.fixture
def images(image_data: Path):
    return data.load_splits(image_data)[0]


def epoch(images, *, seed: int = 0, number: int = 0, workers: int = 0, batch: int = 5) -> list[torch.Tensor]:
    dataset = data.TrainingImages(images, Preprocess.for_size(32), Recipe(seed=seed), epoch=number)
    return [part for pair in data.training_batches(dataset, batch, workers=workers, pin_memory=False) for part in pair]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
def test_the_same_tensors_with_any_number_of_loader_processes(images):
    alone, shared = epoch(images), epoch(images, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_another_epoch_or_seed_gives_other_tensors(images):
    first = epoch(images)
    assert not torch.equal(first[0], epoch(images, number=1)[0])
    assert not torch.equal(first[0], epoch(images, seed=1)[0])


def test_every_image_comes_once_with_its_label(images):
    labels = torch.cat(epoch(images)[1::2])
    assert sorted(labels.tolist()) == sorted(images.labels)


def test_a_last_batch_of_one_is_left_out(images):
    assert data.steps_per_epoch(21, 5) == 4
    assert data.steps_per_epoch(22, 5) == 5
    some = images.select(range(21))
    assert len(epoch(some)) // 2 == 4


def test_an_image_that_comes_twice_in_an_epoch_comes_in_two_variants(images):
    few = images.select([0, *(index for index, label in enumerate(images.labels) if label)])
    recipe = Recipe(sampling="class-balanced")
    dataset = data.TrainingImages(few, Preprocess.for_size(32), recipe, epoch=0)
    rare = [dataset[position][0] for position in np.flatnonzero(dataset.order == 0)]
    assert len(rare) > 2
    assert not any(torch.equal(rare[0], other) for other in rare[1:])


def test_the_recipe_says_the_augmentation(images):
    plain, more = (
        data.TrainingImages(images, Preprocess.for_size(32), Recipe(augmentation=kind), epoch=0)
        for kind in ("crop-flip", "rand")
    )
    same = [torch.equal(plain[position][0], more[position][0]) for position in range(len(images))]
    assert sum(same) < len(same) / 2
