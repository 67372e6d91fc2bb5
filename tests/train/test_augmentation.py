"""Augmentation: boxes and operations by what they do to pixels; MixUp and CutMix mix pixels and labels alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hemf_export.train import augmentation
from hemf_export.train.augmentation import cutmix_box, mix
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


LABELS = torch.tensor([0, 1, 2, 3])
# Image i is full of the value i: what a pixel holds tells which image it is from.
IMAGES = LABELS.float().reshape(4, 1, 1, 1).expand(4, 3, 24, 40).clone()


def mixed(seed: int, **alphas: float) -> tuple[torch.Tensor, torch.Tensor]:
    settings = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, **alphas}
    return mix(IMAGES, LABELS, 5, np.random.default_rng(seed), **settings)


@pytest.mark.parametrize(
    "alphas", [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.2, "cutmix_alpha": 1}]
)
@pytest.mark.parametrize("seed", range(20))
def test_the_mean_pixel_is_the_mean_label(alphas, seed):
    images, targets = mixed(seed, **alphas)
    assert images.shape == IMAGES.shape
    assert targets.shape == (4, 5)
    assert targets.dtype == torch.float32
    assert targets.sum(1).tolist() == pytest.approx([1] * 4)
    # Pixels hold their label's number, so the expected label is the mean pixel.
    expected = targets @ torch.arange(5.0)
    assert images.mean((1, 2, 3)).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_cutmix_pastes_one_box_of_one_other_image():
    seen = 0
    for seed in range(20):
        images, targets = mixed(seed, cutmix_alpha=1.0)
        for index, image in enumerate(images):
            strange = image[0] != index
            if not strange.any():
                continue
            seen += 1
            rows, columns = (np.flatnonzero(strange.any(axis).numpy()) for axis in (1, 0))
            inside = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert len(inside.unique()) == 1, "a whole box"
            other = int(inside.unique())
            assert float(targets[index, other]) == pytest.approx(float(strange.float().mean()), abs=1e-6)
    assert seen > 20


def test_mixup_mixes_all_pixels_alike():
    images, targets = mixed(3, mixup_alpha=1.0)
    assert all(len(image.unique()) == 1 for image in images)
    assert (targets > 0).sum(1).max() == 2


def test_both_take_turns():
    kinds = [
        all(len(image.unique()) == 1 for image in mixed(seed, mixup_alpha=1, cutmix_alpha=1)[0]) for seed in range(200)
    ]
    assert 0.35 < np.mean(kinds) < 0.75  # a small box may fall away


def test_the_batch_that_came_is_left_as_it_was():
    before = IMAGES.clone()
    mixed(0, cutmix_alpha=1.0)
    mixed(0, mixup_alpha=1.0)
    assert torch.equal(IMAGES, before)


def test_without_either_the_targets_are_the_labels():
    images, targets = mixed(0)
    assert torch.equal(images, IMAGES)
    assert torch.equal(targets, torch.eye(5)[LABELS])


def test_the_same_generator_gives_the_same_batch():
    for alphas in ({"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}):
        assert all(torch.equal(a, b) for a, b in zip(mixed(5, **alphas), mixed(5, **alphas), strict=True))


def test_boxes_stay_inside_and_have_at_most_their_area():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.999, 1.0):
        for _ in range(50):
            left, top, right, bottom = cutmix_box(40, 24, share, rng)
            assert 0 <= left <= right <= 40
            assert 0 <= top <= bottom <= 24
            assert (right - left) * (bottom - top) <= (1 - share) * 40 * 24 * 1.1 + 1
