"""Random variants of a training image, drawn from the generator given: the same in whatever process they are made.

"crop-flip" is the authors' recipe. "rand" adds operations after RandAugment (Cubuk et al. 2020, "RandAugment:
Practical automated data augmentation with a reduced search space"): each drawn with equal chance from one list, all of
one strength. The list is RandAugment's without what makes another finding of an image: inverting, solarizing and
posterizing exchange or merge grey levels, which are densities in CT and the very criteria of a skin lesion; equalizing
and autocontrast know no strength, and blow up the noise of pale smears to cells of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageStat

from hemf_export.images.images import PixelArray
from hemf_export.train.recipe import LARGEST_MAGNITUDE, Recipe

CROP_AREA = (0.08, 1.0)  # share of the image; torchvision's RandomResizedCrop, as the authors use it
CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10
# At the largest magnitude; RandAugment's, but for brightness, 0.9 there, and translation, 0.45: both lose the finding,
# the first in white where much of the image is bright already.
BRIGHTNESS = 0.5  # share that is added, or taken away
ENHANCEMENT = 0.9  # the same, of contrast, colour and sharpness
ROTATION_DEGREES = 30.0
SHEAR = 0.3
TRANSLATION = 0.3  # share of the side

Operation = Callable[[Image.Image, float], Image.Image]  # strength: -1 to 1


def augment(image: Image.Image, size: int, rng: np.random.Generator, recipe: Recipe) -> PixelArray:
    """Random resized crop, horizontal flip and what the recipe adds: RGB image → (size, size, 3) uint8."""
    crop = image.crop(random_crop_box(*image.size, rng)).resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if recipe.augmentation == "rand":
        crop = rand_augment(crop, rng, operations=recipe.rand_operations, magnitude=recipe.rand_magnitude)
    return np.asarray(crop)


def random_crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of random area and aspect ratio, in pixels (left, top, right, bottom); the central one if none fits."""
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
    """`operations` of OPERATIONS, with replacement, each of the strength `magnitude` / 30 up or down."""
    for _ in range(operations):
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image = operation(image, sign * magnitude / LARGEST_MAGNITUDE)
    return image


def identity(image: Image.Image, strength: float) -> Image.Image:
    """Nothing: an image may come with fewer operations."""
    return image


def brightness(image: Image.Image, strength: float) -> Image.Image:
    """All values times 1 + 0.5 strength."""
    return ImageEnhance.Brightness(image).enhance(1 + BRIGHTNESS * strength)


def contrast(image: Image.Image, strength: float) -> Image.Image:
    """Distances from the mean brightness times 1 + 0.9 strength."""
    return ImageEnhance.Contrast(image).enhance(1 + ENHANCEMENT * strength)


def colour(image: Image.Image, strength: float) -> Image.Image:
    """Saturation: distances from the greyscale image times 1 + 0.9 strength. Greyscale images stay as they are."""
    return ImageEnhance.Color(image).enhance(1 + ENHANCEMENT * strength)


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    """Distances from a smoothed image times 1 + 0.9 strength."""
    return ImageEnhance.Sharpness(image).enhance(1 + ENHANCEMENT * strength)


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """By up to 30 degrees about the centre."""
    return image.rotate(ROTATION_DEGREES * strength, Image.Resampling.BILINEAR, fillcolor=mean_colour(image))


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Rows moved along, by up to 0.3 pixels for each row from the middle one."""
    return _affine(image, (1, SHEAR * strength, -SHEAR * strength * image.height / 2, 0, 1, 0))


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    """Columns moved up and down, as `shear_x`."""
    return _affine(image, (1, 0, 0, SHEAR * strength, 1, -SHEAR * strength * image.width / 2))


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """To the side, by up to 0.3 of the width."""
    return _affine(image, (1, 0, TRANSLATION * strength * image.width, 0, 1, 0))


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    """Up or down, by up to 0.3 of the height."""
    return _affine(image, (1, 0, 0, 0, 1, TRANSLATION * strength * image.height))


def mean_colour(image: Image.Image) -> tuple[int, ...]:
    """What fills the corners: a constant one would tell the network that the image was turned."""
    return tuple(round(value) for value in ImageStat.Stat(image).mean)


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    """Pixel (x, y) is taken from (ax + by + c, dx + ey + f); what lies outside gets the mean colour."""
    fill = mean_colour(image)
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)


OPERATIONS: tuple[Operation, ...] = (
    identity, brightness, contrast, colour, sharpness, rotate, shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip
