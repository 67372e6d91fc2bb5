"""Augmentation: boxes and operations by what they do to pixels; the same generator gives the same image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from hemf_export.train import augmentation
from hemf_export.train.recipe import Recipe

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 60, 3)).astype(np.uint8))
RAND = Recipe(augmentation="rand")


def test_crops_stay_inside_and_have_the_areas_and_ratios_asked_for():
    generator = np.random.default_rng(0)
    boxes = np.array([augmentation.random_crop_box(120, 90, generator) for _ in range(2000)])
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
    assert augmentation.random_crop_box(1, 1000, np.random.default_rng(0)) == (0, 499, 1, 500)


def test_half_of_the_images_are_flipped():
    gradient = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    image = Image.fromarray(gradient)
    flipped = [
        (pixels := augmentation.augment(image, 32, np.random.default_rng(seed), Recipe()))[0, 0, 0] > pixels[0, -1, 0]
        for seed in range(400)
    ]
    assert 0.4 < np.mean(flipped) < 0.6


def test_the_default_is_the_crop_and_the_flip_alone():
    rng = np.random.default_rng(7)
    box = augmentation.random_crop_box(60, 48, rng)
    flipped = rng.random() < 0.5
    resized = NOISE.resize((32, 32), Image.Resampling.BILINEAR, box=box)
    expected = np.asarray(ImageOps.mirror(resized) if flipped else resized).astype(int)
    found = augmentation.augment(NOISE, 32, np.random.default_rng(7), Recipe())
    assert found.shape == (32, 32, 3)
    assert np.array_equal(found[8:24, 8:24], expected[8:24, 8:24])  # a box and a crop differ at the edges


@pytest.mark.parametrize("magnitude", [0.0, 9.0, 30.0])
def test_rand_gives_the_same_image_from_the_same_generator(magnitude):
    recipe = Recipe(augmentation="rand", rand_operations=4, rand_magnitude=magnitude)
    for seed in range(20):
        first, second = (augmentation.augment(NOISE, 32, np.random.default_rng(seed), recipe) for _ in range(2))
        assert first.dtype == np.uint8
        assert first.shape == (32, 32, 3)
        assert np.array_equal(first, second)


def test_rand_starts_from_the_same_crop_and_changes_most_images():
    pairs = [
        [augmentation.augment(NOISE, 32, np.random.default_rng(seed), recipe) for recipe in (Recipe(), RAND)]
        for seed in range(60)
    ]
    changed = np.mean([not np.array_equal(plain, more) for plain, more in pairs])
    assert 0.85 < changed <= 1, "one of the ten operations does nothing"


@pytest.mark.parametrize("operation", augmentation.OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_without_strength_does_nothing(operation):
    assert np.array_equal(np.asarray(operation(NOISE, 0.0)), np.asarray(NOISE))


def test_colours_by_their_formulas():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    assert np.asarray(augmentation.brightness(grey, 0.5))[0, 0].tolist() == [125] * 3
    assert np.asarray(augmentation.brightness(grey, -0.5))[0, 0].tolist() == [75] * 3
    two = Image.fromarray(np.array([[[50] * 3, [150] * 3]], np.uint8))  # about their mean, 100
    assert np.asarray(augmentation.contrast(two, 0.5))[0, :, 0].tolist() == [27, 172]
    assert np.asarray(augmentation.colour(two, 1.0)).tolist() == np.asarray(two).tolist(), "greyscale stays so"


def test_geometry_by_where_a_point_goes():
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[28:32, 44:48] = 255  # to the right of the middle
    image = Image.fromarray(pixels)

    def middle(operation, strength) -> list[float]:
        moved = np.asarray(operation(image, strength))[..., 0].astype(float)
        moved[moved < 128] = 0
        return [float((moved.sum(axis) * (np.arange(60) + 0.5)).sum() / moved.sum()) for axis in (0, 1)]

    assert middle(augmentation.translate_x, 1.0) == pytest.approx([46 - 18, 30], abs=0.6)
    assert middle(augmentation.translate_y, -0.5) == pytest.approx([46, 30 + 9], abs=0.6)
    assert middle(augmentation.rotate, 1.0) == pytest.approx([30 + 16 * 0.866, 30 - 16 * 0.5], abs=0.6)
    assert middle(augmentation.shear_y, 1.0) == pytest.approx([46, 30 - 0.3 * 16], abs=0.6)
    assert middle(augmentation.shear_x, 1.0) == pytest.approx([46, 30], abs=0.6), "its row is the middle one"


def test_corners_get_the_mean_colour():
    image = Image.new("RGB", (40, 40), (200, 120, 40))
    for operation in (augmentation.rotate, augmentation.shear_x, augmentation.translate_y):
        assert (np.asarray(operation(image, 1.0)) == (200, 120, 40)).all()
