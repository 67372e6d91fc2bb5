"""Images into training, validation and test: stratified by class, or with groups that stay together.

Seeded by a hash of each image's class and name, and computed in exact fractions: the same split on any machine, with
any version of any library, whatever order the files come in. Knows nothing of folders.
"""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True)
class Shares:
    """The share of the images that each split is to have.

    Args:
        train: above 0.
        val: the same.
        test: 0 for no test images.

    Raises:
        UsageError: a share out of range, or a sum other than 1.
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
        """`0.7/0.1/0.2` for train, val and test, or `0.8/0.2` for train and val."""
        try:
            values = [Fraction(part.strip()) for part in text.split("/")]
        except (ValueError, ZeroDivisionError) as error:
            raise UsageError(f"{text!r} is no split.", _EXAMPLE) from error
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
    """What an image is called wherever it lies: its class and its name."""
    assert images.labels is not None
    return f"{images.classes[images.labels[index]]}/{images.paths[index].name}"


def stratified(images: LabelledImages, shares: Shares, seed: int) -> tuple[Split, ...]:
    """The split of each image: in each class, every split has its share of the images, to within one image.

    What the shares leave over goes to the splits that lack most of an image (largest remainder).
    """
    assert images.labels is not None
    found: list[Split] = ["train"] * len(images)
    for label in range(len(images.classes)):
        members = [index for index in range(len(images)) if images.labels[index] == label]
        members.sort(key=lambda index: _drawn(seed, key(images, index)))
        start = 0
        for split, count in zip(SPLITS, _quotas(len(members), shares), strict=True):
            for index in members[start : start + count]:
                found[index] = split
            start += count
    return tuple(found)


def grouped(images: LabelledImages, groups: Sequence[str], shares: Shares, seed: int) -> tuple[Split, ...]:
    """The split of each image, where all images of a group (a patient, a lesion) are in one split.

    Large groups first, those of about the same size in an order drawn by the seed; each goes where it brings the counts
    of images by class and split closest to their shares, by the chi-square statistic Σ (found − due)² / due. Greedy, so
    the counts may miss their shares by about a group.

    Args:
        images: what to split.
        groups: the group of each image.
        shares: of images, not of groups.
        seed: of the order.
    """
    assert images.labels is not None
    totals = Counter(images.labels)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    # By powers of two: sizes alone would leave nothing to the seed.
    order = sorted(members, key=lambda group: (-len(members[group]).bit_length(), _drawn(seed, group)))
    counts: dict[Split, Counter[int]] = {split: Counter() for split in SPLITS}
    found: list[Split] = ["train"] * len(images)
    for group in order:
        here = Counter(images.labels[index] for index in members[group])
        costs = {split: _cost(here, counts[split], totals, shares.of(split)) for split in shares.used}
        best = min(shares.used, key=lambda split: costs[split])
        counts[best].update(here)
        for index in members[group]:
            found[index] = best
    return tuple(found)


def count(images: LabelledImages, assigned: Iterable[Split | None]) -> dict[str, dict[Split, int]]:
    """Images by class and split; None is left out."""
    assert images.labels is not None
    table: dict[str, dict[Split, int]] = {name: dict.fromkeys(SPLITS, 0) for name in images.classes}
    for label, split in zip(images.labels, assigned, strict=True):
        if split is not None:
            table[images.classes[label]][split] += 1
    return table


def check_classes(table: dict[str, dict[Split, int]], used: Sequence[Split]) -> None:
    """Refuse a split in which a class has no image somewhere.

    Raises:
        BadInputError: names each class and split.
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
    due = [total * shares.of(split) for split in SPLITS]
    counts = [int(value) for value in due]
    lacking = sorted(range(len(SPLITS)), key=lambda index: counts[index] - due[index])
    for index in lacking[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _cost(here: Counter[int], counts: Counter[int], totals: Counter[int], share: Fraction) -> Fraction:
    """By how much the chi-square statistic grows when a group comes to a split."""
    cost = Fraction(0)
    for label, size in here.items():
        due = totals[label] * share
        cost += (size * size + 2 * size * (counts[label] - due)) / due
    return cost


def _drawn(seed: int, name: str) -> tuple[bytes, str]:
    """A place in an order that seed and name alone decide; composed and decomposed letters are the same name."""
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return hashlib.sha256(f"{seed}\n".encode() + text).digest(), name
