"""Training images: augmentation, and an order that depends on seed and epoch alone.

Each image's augmentation is drawn from (seed, epoch, position), never from a global generator: the same tensors with
any number of loader processes, and after resuming.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hemf.folders import LabelledImages
from hemf.images import Preprocess, decode
from train import checks

CROP_AREA = (0.08, 1.0)  # share of the image; torchvision's RandomResizedCrop, as the authors use it
CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10


def load_splits(root: Path) -> tuple[LabelledImages, LabelledImages, LabelledImages | None]:
    """`train.checks.load_splits`, as a tuple."""
    splits = checks.load_splits(root)
    return splits["train"], splits["val"], splits.get("test")


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


def augment(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Random resized crop and horizontal flip: RGB image → (size, size, 3) uint8."""
    crop = image.crop(random_crop_box(*image.size, rng)).resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """One epoch of augmented images, in that epoch's order.

    Args:
        images: files and labels.
        preprocess: size and normalization.
        seed: of order and augmentation.
        epoch: counted from 0.
    """

    def __init__(self, images: LabelledImages, preprocess: Preprocess, *, seed: int, epoch: int) -> None:
        self.images, self.preprocess, self.seed, self.epoch = images, preprocess, seed, epoch
        self.order = np.random.default_rng([seed, epoch]).permutation(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = int(self.order[position])
        assert self.images.labels is not None
        rng = np.random.default_rng([self.seed, self.epoch, index])
        pixels = augment(decode(self.images.paths[index]), self.preprocess.size, rng)
        return torch.from_numpy(self.preprocess.normalize(pixels)), self.images.labels[index]


def training_batches(
    dataset: TrainingImages, batch_size: int, *, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images (n, 3, size, size) and labels (n,). A last batch of one is left out: BatchNorm needs two."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=False,  # the data set is in the epoch's order already
        num_workers=workers,
        pin_memory=pin_memory,
        drop_last=len(dataset) % batch_size == 1,
    )
    yield from loader


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Steps of `training_batches`."""
    return images // batch_size + (images % batch_size > 1)
