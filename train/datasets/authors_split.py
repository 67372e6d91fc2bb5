"""The split of the authors' code: Python's generator, seeded once, shuffles each class in turn.

Their code takes files in the order that it finds them in: for ISIC2018 that of the ground-truth CSV, which is known;
for the other sets that of the file system, which is not.
"""

from __future__ import annotations

import math
import random
from typing import Literal

from hemf_export.images.folders import LabelledImages
from hemf_export.train.datasets.splits import Shares, Split

SEED = 123


def authors(images: LabelledImages, shares: Shares, *, seed: int = SEED) -> tuple[Split, ...]:
    """The split of each image: of each class, shuffled, the first ⌈n · train⌉ are for training and the last
    ⌊n · test⌋ for testing; the rest is for validation.

    Args:
        images: classes and, within each, files in the order that the authors' code sees.
        shares: of train and test.
        seed: of `random.Random`.
    """
    assert images.labels is not None
    generator = random.Random(seed)
    # In floating point, as theirs: where a product is a whole number, rounding may decide on one image.
    train, test = float(shares.train), float(shares.test)
    found: list[Split] = ["val"] * len(images)
    for label in range(len(images.classes)):
        members = [index for index in range(len(images)) if images.labels[index] == label]
        generator.shuffle(members)
        first, last = math.ceil(len(members) * train), math.floor(len(members) * test)
        for index in members[:first]:
            found[index] = "train"
        for index in members[len(members) - last :]:
            found[index] = "test"
    return tuple(found)


def fold(images: LabelledImages, number: Literal[1, 2], *, seed: int = SEED) -> tuple[Split, ...]:
    """One of two folds: half of each class for training, the other for validation; the second fold swaps them."""
    first = authors(images, Shares.parse("0.5/0.5"), seed=seed)
    if number == 1:
        return first
    return tuple("val" if split == "train" else "train" for split in first)
