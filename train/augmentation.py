"""Random variants of training images: crops, flips and RandAugment of one image; MixUp and CutMix of a batch.

All draws come from the generator that is passed in, so an image is the same in whichever process it is made.

"crop-flip" is the authors' recipe. "rand" adds operations after RandAugment (Cubuk et al. 2020, "RandAugment:
Practical automated data augmentation with a reduced search space"): each drawn with equal probability from one list,
all with one magnitude. The list is RandAugment's without the operations that change what an image shows: inverting,
solarizing and posterizing exchange or merge grey levels, which are densities in CT and diagnostic criteria of a skin
lesion; equalizing and autocontrast have no magnitude, and amplify the noise of pale smears until it looks like cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageStat
from torch import Tensor
from torch.nn import functional as F

from hemf_export.images.images import PixelArray
from hemf_export.train.recipe import LARGEST_MAGNITUDE, Recipe

CROP_AREA = (0.08, 1.0)  # share of the image; torchvision's RandomResizedCrop, as the authors use it
CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10
# At the largest magnitude. As in RandAugment except for brightness (0.9 there) and translation (0.45): both could
# remove the finding from the image, brightness by saturating what is bright already.
BRIGHTNESS = 0.5  # share of the brightness that is added or removed
ENHANCEMENT = 0.9  # share of contrast, colour and sharpness that is added or removed
ROTATION_DEGREES = 30.0
SHEAR = 0.3
TRANSLATION = 0.3  # share of the side

Operation = Callable[[Image.Image, float], Image.Image]  # strength: -1 to 1


def augment(image: Image.Image, size: int, rng: np.random.Generator, recipe: Recipe) -> PixelArray:
    """Crop and resize at random, flip horizontally at random, and add the recipe's operations.

    RGB image → (size, size, 3) uint8.
    """
    crop = image.crop(random_crop_box(*image.size, rng)).resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if recipe.augmentation == "rand":
        crop = rand_augment(crop, rng, operations=recipe.rand_operations, magnitude=recipe.rand_magnitude)
    return np.asarray(crop)


def random_crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box (left, top, right, bottom) of random area and aspect ratio, in pixels; if none fits, the centre."""
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width + 1))
            top = int(rng.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, max(1, round(height * CROP_RATIO[1])))
    crop_height = min(height, max(1, round(width / CROP_RATIO[0])))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def rand_augment(image: Image.Image, rng: np.random.Generator, *, operations: int, magnitude: float) -> Image.Image:
    """Apply `operations` of OPERATIONS, drawn with replacement, each with strength ± `magnitude` / 30."""
    for _ in range(operations):
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image = operation(image, sign * magnitude / LARGEST_MAGNITUDE)
    return image


def identity(image: Image.Image, strength: float) -> Image.Image:
    """Return the image unchanged, so that an image may get fewer operations."""
    return image


def brightness(image: Image.Image, strength: float) -> Image.Image:
    """Multiply all values by 1 + 0.5 strength."""
    return ImageEnhance.Brightness(image).enhance(1 + BRIGHTNESS * strength)


def contrast(image: Image.Image, strength: float) -> Image.Image:
    """Multiply distances from the mean brightness by 1 + 0.9 strength."""
    return ImageEnhance.Contrast(image).enhance(1 + ENHANCEMENT * strength)


def colour(image: Image.Image, strength: float) -> Image.Image:
    """Multiply the saturation, distances from the greyscale image, by 1 + 0.9 strength. Greyscale stays unchanged."""
    return ImageEnhance.Color(image).enhance(1 + ENHANCEMENT * strength)


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    """Multiply distances from a smoothed image by 1 + 0.9 strength."""
    return ImageEnhance.Sharpness(image).enhance(1 + ENHANCEMENT * strength)


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """Rotate by up to 30 degrees about the centre."""
    return image.rotate(ROTATION_DEGREES * strength, Image.Resampling.BILINEAR, fillcolor=mean_colour(image))


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Shift each row sideways, by up to 0.3 pixels per row of distance from the middle."""
    return _affine(image, (1, SHEAR * strength, -SHEAR * strength * image.height / 2, 0, 1, 0))


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    """Shift each column up or down, by up to 0.3 pixels per column of distance from the middle."""
    return _affine(image, (1, 0, 0, SHEAR * strength, 1, -SHEAR * strength * image.width / 2))


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """Shift to the side, by up to 0.3 of the width."""
    return _affine(image, (1, 0, TRANSLATION * strength * image.width, 0, 1, 0))


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    """Shift up or down, by up to 0.3 of the height."""
    return _affine(image, (1, 0, 0, 0, 1, TRANSLATION * strength * image.height))


def mean_colour(image: Image.Image) -> tuple[int, ...]:
    """The mean colour, which fills the corners: a constant would show the network that the image was transformed."""
    return tuple(round(value) for value in ImageStat.Stat(image).mean)


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    """Take pixel (x, y) from (ax + by + c, dx + ey + f); outside the image it gets the mean colour."""
    fill = mean_colour(image)
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)


OPERATIONS: tuple[Operation, ...] = (
    identity, brightness, contrast, colour, sharpness, rotate, shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip


def mix(
    images: Tensor, labels: Tensor, classes: int, rng: np.random.Generator, *, mixup_alpha: float, cutmix_alpha: float
) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with another of the same batch (or with itself) by MixUp or CutMix.

    MixUp (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"): λ x + (1 - λ) x'. CutMix (Yun et al. 2019,
    "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"): a box of x' in x, λ is
    then the share of x that remains. λ is drawn from Beta(α, α), once per batch.

    Args:
        images: (n, 3, h, w), on any device; not modified.
        labels: (n,) int64.
        classes: number of classes.
        rng: generator of this batch.
        mixup_alpha: α of MixUp; 0 for none.
        cutmix_alpha: α of CutMix; 0 for none. With both, one of the two is drawn.

    Returns:
        Images, and targets (n, classes) float32 whose rows sum to 1.
    """
    targets = F.one_hot(labels, classes).float()
    if not mixup_alpha and not cutmix_alpha:
        return images, targets
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or rng.random() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if cut:
        left, top, right, bottom = cutmix_box(images.shape[3], images.shape[2], share, rng)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        # The box may be cut at the edge: labels are weighted by the area that was pasted.
        share = 1 - (right - left) * (bottom - top) / (images.shape[2] * images.shape[3])
    else:
        mixed = images * share + images[partner] * (1 - share)
    return mixed, targets * share + targets[partner] * (1 - share)


def cutmix_box(width: int, height: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box (left, top, right, bottom) of 1 - `share` of the area, centred anywhere and cut at the edges."""
    side = math.sqrt(1 - share)
    half_width, half_height = round(width * side) // 2, round(height * side) // 2
    column, row = int(rng.integers(width)), int(rng.integers(height))
    return (
        max(column - half_width, 0),
        max(row - half_height, 0),
        min(column + half_width, width),
        min(row + half_height, height),
    )
