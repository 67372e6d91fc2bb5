"""Splits of images into training, validation and test: stratified, with groups kept together, or the authors'.

`stratified` and `grouped` are seeded by a hash of each image's class and name, and computed in exact fractions: the
split is the same on any machine, with any library version, whatever order the files come in. Nothing here reads files.
"""

from __future__ import annotations

import hashlib
import math
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.folders import LabelledImages

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
AUTHORS_SEED = 123


@dataclass(frozen=True)
class Shares:
    """The share of the images that each split should have.

    Args:
        train: above 0.
        val: above 0.
        test: 0 for no test images.

    Raises:
        UsageError: a share is out of range, or the sum is not 1.
    """

    train: Fraction
    val: Fraction
    test: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if self.train <= 0 or self.val <= 0 or self.test < 0:
            raise UsageError(f"The split {self} needs training and validation images.", _EXAMPLE)
        if sum(self.of(split) for split in SPLITS) != 1:
            raise UsageError(f"The shares of the split {self} don't add up to 1.", _EXAMPLE)

    @classmethod
    def parse(cls, text: str) -> Shares:
        """Parse `0.7/0.1/0.2` for train, val and test, or `0.8/0.2` for train and val."""
        try:
            values = [Fraction(part.strip()) for part in text.split("/")]
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(f"{text!r} is not a valid split.", _EXAMPLE) from error
        if len(values) not in (2, 3):
            raise UsageError(f"The split {text!r} has {len(values)} shares.", _EXAMPLE)
        return cls(*values)

    def of(self, split: Split) -> Fraction:
        """The share of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def used(self) -> tuple[Split, ...]:
        """The splits that get images."""
        return tuple(split for split in SPLITS if self.of(split))

    def __str__(self) -> str:
        return "/".join(f"{float(self.of(split)):g}" for split in SPLITS if split != "test" or self.test)


_EXAMPLE = "For train, val and test: 0.7/0.1/0.2; without test images: 0.8/0.2."


def key(images: LabelledImages, index: int) -> str:
    """Identify an image independently of its folder, by class and name."""
    assert images.labels is not None
    return f"{images.classes[images.labels[index]]}/{images.paths[index].name}"


def stratified(images: LabelledImages, shares: Shares, seed: int) -> tuple[Split, ...]:
    """Split stratified by class: every split gets its share of each class's images, to within one image.

    Remaining images go to the splits with the largest remainders.
    """
    assert images.labels is not None
    assigned: list[Split] = ["train"] * len(images)
    for label in range(len(images.classes)):
        members = [index for index in range(len(images)) if images.labels[index] == label]
        members.sort(key=lambda index: _sort_key(seed, key(images, index)))
        start = 0
        for split, count in zip(SPLITS, _quotas(len(members), shares), strict=True):
            for index in members[start : start + count]:
                assigned[index] = split
            start += count
    return tuple(assigned)


def grouped(images: LabelledImages, groups: Sequence[str], shares: Shares, seed: int) -> tuple[Split, ...]:
    """Split so that all images of a group (a patient, a lesion) are in one split.

    Large groups are assigned first, groups of similar size in an order drawn from the seed. Each goes to the split that
    brings the counts of images by class and split closest to their shares, by the chi-square statistic
    Σ (observed − expected)² / expected. This is greedy, so counts may miss their shares by about one group.

    Args:
        images: the images to split.
        groups: the group of each image.
        shares: shares of images, not of groups.
        seed: seed of the order.
    """
    assert images.labels is not None
    totals = Counter(images.labels)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    # Sizes in powers of two: exact sizes would leave the seed little to decide.
    order = sorted(members, key=lambda group: (-len(members[group]).bit_length(), _sort_key(seed, group)))
    counts: dict[Split, Counter[int]] = {split: Counter() for split in SPLITS}
    assigned: list[Split] = ["train"] * len(images)
    for group in order:
        here = Counter(images.labels[index] for index in members[group])
        costs = {split: _cost(here, counts[split], totals, shares.of(split)) for split in shares.used}
        best = min(shares.used, key=lambda split: costs[split])
        counts[best].update(here)
        for index in members[group]:
            assigned[index] = best
    return tuple(assigned)


def count(images: LabelledImages, assigned: Iterable[Split | None]) -> dict[str, dict[Split, int]]:
    """Count images by class and split; an image without a split is not counted."""
    assert images.labels is not None
    table: dict[str, dict[Split, int]] = {name: dict.fromkeys(SPLITS, 0) for name in images.classes}
    for label, split in zip(images.labels, assigned, strict=True):
        if split is not None:
            table[images.classes[label]][split] += 1
    return table


def check_classes(table: dict[str, dict[Split, int]], used: Sequence[Split]) -> None:
    """Check that every class has an image in every used split.

    Raises:
        BadInputError: a class has none; names each class and split.
    """
    empty = [
        f"{name}: none in {' and '.join(missing)}, {sum(counts.values())} in all"
        for name, counts in table.items()
        if (missing := [split for split in used if not counts[split]])
    ]
    if empty:
        raise BadInputError(
            "Too few images of some classes to have one in each split:\n  " + "\n  ".join(empty),
            "Add images, leave the class out, or choose larger shares for val and test.",
        )


def _quotas(total: int, shares: Shares) -> list[int]:
    expected = [total * shares.of(split) for split in SPLITS]
    counts = [int(value) for value in expected]
    by_remainder = sorted(range(len(SPLITS)), key=lambda index: counts[index] - expected[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _cost(sizes: Counter[int], counts: Counter[int], totals: Counter[int], share: Fraction) -> Fraction:
    """Increase of the chi-square statistic when a group is added to a split."""
    cost = Fraction(0)
    for label, size in sizes.items():
        expected = totals[label] * share
        cost += (size * size + 2 * size * (counts[label] - expected)) / expected
    return cost


def _sort_key(seed: int, name: str) -> tuple[bytes, str]:
    """Sort key that depends on seed and name alone; names are equal if their NFC forms are."""
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return hashlib.sha256(f"{seed}\n".encode() + text).digest(), name


def authors(images: LabelledImages, shares: Shares, *, seed: int = AUTHORS_SEED) -> tuple[Split, ...]:
    """Split as the authors' code does: Python's generator, seeded once, shuffles each class in turn.

    Of the n images of a class, the first ⌈n · train⌉ are for training, the last ⌊n · test⌋ for testing, and the rest
    for validation. Their code takes files in the order in which it finds them: for ISIC2018 that of the ground-truth
    CSV, which is known; for the other sets that of the file system, which is not.

    Args:
        images: classes and, within each, files in the order that the authors' code sees.
        shares: shares of train and test.
        seed: seed of `random.Random`.
    """
    assert images.labels is not None
    generator = random.Random(seed)
    # In floating point, as theirs: if the exact product is an integer, rounding may move one image.
    train, test = float(shares.train), float(shares.test)
    assigned: list[Split] = ["val"] * len(images)
    for label in range(len(images.classes)):
        members = [index for index in range(len(images)) if images.labels[index] == label]
        generator.shuffle(members)
        first, last = math.ceil(len(members) * train), math.floor(len(members) * test)
        for index in members[:first]:
            assigned[index] = "train"
        for index in members[len(members) - last :]:
            assigned[index] = "test"
    return tuple(assigned)


def fold(images: LabelledImages, number: Literal[1, 2], *, seed: int = AUTHORS_SEED) -> tuple[Split, ...]:
    """Split into two folds: half of each class for training, half for validation; fold 2 swaps them."""
    first = authors(images, Shares.parse("0.5/0.5"), seed=seed)
    if number == 1:
        return first
    return tuple("val" if split == "train" else "train" for split in first)
