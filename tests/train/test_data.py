"""Training images: the order and the augmentation depend on seed, epoch and image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemf.images import Preprocess
from train import data


@pytest.fixture
def images(image_data: Path):
    return data.load_splits(image_data)[0]


def epoch(images, *, seed: int = 0, number: int = 0, workers: int = 0, batch: int = 5) -> list[torch.Tensor]:
    dataset = data.TrainingImages(images, Preprocess.for_size(32), seed=seed, epoch=number)
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


def test_crops_stay_inside_and_have_the_areas_and_ratios_asked_for():
    generator = np.random.default_rng(0)
    boxes = np.array([data.random_crop_box(120, 90, generator) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 120
    assert boxes[:, 3].max() <= 90
    area, ratio = width * height / (120 * 90), width / height
    assert area.min() > 0.07
    assert area.max() > 0.9
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4


def test_an_image_that_no_crop_fits_gives_its_middle():
    assert data.random_crop_box(1, 1000, np.random.default_rng(0)) == (0, 499, 1, 500)


def test_half_of_the_images_are_flipped():
    gradient = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    image = Image.fromarray(gradient)
    flipped = [
        (pixels := data.augment(image, 32, np.random.default_rng(seed)))[0, 0, 0] > pixels[0, -1, 0]
        for seed in range(400)
    ]
    assert 0.4 < np.mean(flipped) < 0.6
