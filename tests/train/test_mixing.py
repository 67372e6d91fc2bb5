"""MixUp and CutMix: labels and pixels are mixed in the same proportion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hemf_export.train.mixing import box, mix

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
            left, top, right, bottom = box(40, 24, share, rng)
            assert 0 <= left <= right <= 40
            assert 0 <= top <= bottom <= 24
            assert (right - left) * (bottom - top) <= (1 - share) * 40 * 24 * 1.1 + 1
