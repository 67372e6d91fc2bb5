"""Training images: the order and the augmentation depend on seed, epoch and image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.images.images import Preprocess
from hemf_export.train import data
from hemf_export.train.datasets import checks
from hemf_export.train.recipe import Recipe
from hemf_export.train.sampling import Division


@pytest.fixture
def images(image_data: Path):
    return checks.load_splits(image_data)["train"]


def epoch(images, *, seed: int = 0, number: int = 0, workers: int = 0, batch: int = 5) -> list[torch.Tensor]:
    loader = loader_of(images, Recipe(seed=seed), batch, workers=workers)
    found = [part for pieces in loader.epoch(number) for pair in pieces for part in pair]
    loader.close()
    return found


def loader_of(images, recipe: Recipe, batch: int, *, workers: int = 0, **division: int) -> data.TrainingLoader:
    dataset = data.TrainingImages(images, Preprocess.for_size(32), recipe)
    return data.TrainingLoader(dataset, Division(len(images), batch, **division), workers=workers)


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


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
def test_loader_processes_outlive_an_epoch_and_know_which_one_it_is(images):
    loader = loader_of(images, Recipe(), 8, workers=1)
    seen = [[pieces[0][0] for pieces in loader.epoch(number)] for number in (0, 1, 0)]
    processes = {worker.pid for worker in loader._loader._iterator._workers}
    again = [pieces[0][0] for pieces in loader.epoch(1)]
    assert {worker.pid for worker in loader._loader._iterator._workers} == processes
    loader.close()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[1], again, strict=True))
    assert not torch.equal(seen[0][0], seen[1][0])


def test_micro_batches_are_the_batch_in_pieces(images):
    whole = list(loader_of(images, Recipe(), 8).epoch(0))
    divided = list(loader_of(images, Recipe(), 8, micro_batches=3).epoch(0))
    assert [len(pieces) for pieces in divided] == [3, 3, 3]
    for one, pieces in zip(whole, divided, strict=True):
        assert torch.equal(one[0][0], torch.cat([images for images, _ in pieces]))
        assert torch.equal(one[0][1], torch.cat([labels for _, labels in pieces]))


def test_reading_images_leaves_torchs_generator_alone(images):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_images_for_evaluation_are_the_same_with_loader_processes(images):
    preprocess = Preprocess.for_size(32)
    ways = [
        torch.cat(list(data.evaluation_batches(images, preprocess, 5, workers=workers, pin_memory=False)))
        for workers in (0, 2)
    ]
    assert torch.equal(*ways)
    assert torch.equal(ways[0][7], torch.from_numpy(preprocess.normalize(preprocess.load(images.paths[7]))))


def test_an_image_that_comes_twice_in_an_epoch_comes_in_two_variants(images):
    few = images.select([0, *(index for index, label in enumerate(images.labels) if label)])
    recipe = Recipe(sampling="class-balanced")
    dataset = data.TrainingImages(few, Preprocess.for_size(32), recipe)
    rare = [dataset[0, int(position)][0] for position in np.flatnonzero(dataset.order(0) == 0)]
    assert len(rare) > 2
    assert not any(torch.equal(rare[0], other) for other in rare[1:])


def test_the_recipe_says_the_augmentation(images):
    plain, more = (
        data.TrainingImages(images, Preprocess.for_size(32), Recipe(augmentation=kind))
        for kind in ("crop-flip", "rand")
    )
    same = [torch.equal(plain[0, position][0], more[0, position][0]) for position in range(len(images))]
    assert sum(same) < len(same) / 2
