"""Training images, augmented and in the epoch's order; both depend on seed and epoch alone.

Each image's augmentation is drawn from (seed, epoch, image), never from a global generator: the same tensors with
any number of loader processes, and after resuming.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hemf.folders import LabelledImages, class_folders
from hemf.images import Preprocess, decode
from train.augmentation import augment
from train.recipe import Recipe
from train.sampling import order


def load_splits(root: Path) -> tuple[LabelledImages, LabelledImages, LabelledImages | None]:
    """train/, val/ and, where it is, test/ below `root`, with one numbering of the classes.

    Raises:
        BadInputError: a split or a class is missing, or the classes differ between splits.
    """
    train = class_folders(root / "train")
    validation = class_folders(root / "val", train.classes)
    test = class_folders(root / "test", train.classes) if (root / "test").is_dir() else None
    return train, validation, test


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """One epoch of augmented images, in that epoch's order.

    Args:
        images: files and labels.
        preprocess: size and normalization.
        recipe: augmentation, sampling and the seed of both.
        epoch: counted from 0.
    """

    def __init__(self, images: LabelledImages, preprocess: Preprocess, recipe: Recipe, *, epoch: int) -> None:
        assert images.labels is not None
        self.images, self.preprocess, self.recipe, self.epoch = images, preprocess, recipe, epoch
        self.order = order(images.labels, seed=recipe.seed, epoch=epoch, sampling=recipe.sampling)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = int(self.order[position])
        assert self.images.labels is not None
        stream = [self.recipe.seed, self.epoch, index]
        if self.recipe.sampling != "shuffled":
            stream.append(position)  # an image that comes again comes otherwise
        rng = np.random.default_rng(stream)
        pixels = augment(decode(self.images.paths[index]), self.preprocess.size, rng, self.recipe)
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
