"""Checks of a data folder before the first epoch: classes, unreadable files, and images that are in two splits.

All faults are reported at once. Images are read, never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import LabelledImages, class_folders, class_names, listed, unreadable
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.train.datasets.splits import SPLITS


@dataclass(frozen=True)
class Contents:
    """The result of decoding each image of a list.

    Args:
        bad: index and reason of each image that can't be decoded.
        digests: SHA-256 of size and RGB pixels of each image, None for a bad one. Lossless copies of a picture in
            other formats have equal digests.
    """

    bad: dict[int, str]
    digests: tuple[str | None, ...]


@dataclass(frozen=True)
class Checked:
    """Splits that can be trained on, and notes on them for the user."""

    splits: dict[str, LabelledImages]
    notes: list[str]


def load_splits(root: Path) -> dict[str, LabelledImages]:
    """List train/, val/ and, if there is one, test/ below `root`, with the same class order.

    Raises:
        BadInputError: there are no splits; or splits or classes are missing, empty or different between splits, which
            are all named.
    """
    splits: dict[str, LabelledImages] = {}
    errors: list[BadInputError] = []
    if root.is_dir() and not any((root / split).is_dir() for split in SPLITS):
        raise BadInputError(
            f"{root} has no train/ and val/ with a folder of images per class.",
            "Name the folder that holds them; if it holds class folders alone, divide them with `split_data()`.",
        )
    classes = _class_names(root)
    for split in SPLITS:
        if split == "test" and not (root / split).is_dir():
            continue
        try:
            splits[split] = class_folders(root / split, classes)
        except BadInputError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listing = "\n  ".join(error.message for error in errors)
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise BadInputError(f"{len(errors)} splits below {root} can't be used:\n  {listing}", " ".join(hints) or None)
    return splits


def check(splits: Mapping[str, LabelledImages], *, skip: bool, progress: Progress = SILENT) -> Checked:
    """Check splits by decoding every image once.

    Args:
        splits: images by split name.
        skip: leave unreadable images out with a note, instead of refusing them.
        progress: receives the number of images read.

    Raises:
        BadInputError: images are unreadable, each named; or there are too few images or classes for training.
    """
    levels = GreyLevels()
    contents = {name: decode_all(images, progress, levels) for name, images in splits.items()}
    unreadable_by_split = {
        name: unreadable_message(images, contents[name].bad) for name, images in splits.items() if contents[name].bad
    }
    if unreadable_by_split and not skip:
        raise BadInputError(
            "\n  ".join(unreadable_by_split.values()),
            "Repair or remove them, or leave them out with `skip_unreadable`.",
        )
    notes: list[str] = []
    readable: dict[str, LabelledImages] = {}
    for name, images in splits.items():
        bad = contents[name].bad
        readable[name] = images.select([index for index in range(len(images)) if index not in bad])
        _refuse_lost_classes(readable[name])
        if bad:
            notes.append(left_out_note(images, bad))
    _refuse_too_little(readable["train"])
    notes += levels.notes(str(splits["train"].root.parent))
    return Checked(
        readable, [*notes, *duplicate_notes(splits, {name: each.digests for name, each in contents.items()})]
    )


def decode_all(images: LabelledImages, progress: Progress = SILENT, levels: GreyLevels | None = None) -> Contents:
    """Decode every image of a list on several threads; `levels` collects their grey levels."""
    digests: list[str | None] = [None] * len(images)

    def digest(index: int, image: Image.Image) -> None:
        hasher = hashlib.sha256(f"{image.width}×{image.height}".encode())
        hasher.update(image.tobytes())
        digests[index] = hasher.hexdigest()
        if levels is not None:
            levels.look(image)

    bad = unreadable(images, progress, digest)
    return Contents(bad, tuple(digests))


def unreadable_message(images: LabelledImages, bad: Mapping[int, str]) -> str:
    """Message that lists the unreadable images, each with its reason."""
    reasons = "\n  ".join(bad.values())
    return f"{len(bad)} of {len(images)} images below {images.root} can't be read:\n  {reasons}"


def left_out_note(images: LabelledImages, bad: Mapping[int, str]) -> str:
    """Note that lists the unreadable images that are left out."""
    reasons = "\n  ".join(bad.values())
    return f"{len(bad)} unreadable images left out below {images.root}:\n  {reasons}"


def duplicate_notes(splits: Mapping[str, LabelledImages], digests: Mapping[str, tuple[str | None, ...]]) -> list[str]:
    """Notes on pictures that are in two splits or under two classes, with counts and the first few names."""
    first: dict[str, dict[str, Path]] = {}  # digest → split → the first image there
    classes: dict[str, tuple[str, Path]] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    disputed: list[str] = []
    for split, images in splits.items():
        assert images.labels is not None
        for path, label, digest in zip(images.paths, images.labels, digests[split], strict=True):
            if digest is None:
                continue
            for other, twin in first.get(digest, {}).items():
                if other != split:
                    pairs.setdefault((split, other), []).append(f"{path} = {twin}")
            first.setdefault(digest, {}).setdefault(split, path)
            known, twin = classes.setdefault(digest, (images.classes[label], path))
            if known != images.classes[label]:
                disputed.append(f"{path} = {twin}")
    notes = [
        listed(f"{len(twins)} images of {split} are also in {other}, pixel for pixel", twins)
        + f" Figures on {split} are better than they should be."
        for (split, other), twins in pairs.items()
    ]
    if disputed:
        notes.append(listed(f"{len(disputed)} images are in two classes, pixel for pixel", disputed))
    return notes


def _class_names(root: Path) -> tuple[str, ...] | None:
    """Names of the class folders of train/; None if they can't be listed."""
    folder = root / "train"
    if not folder.is_dir():
        return None
    try:
        return class_names(folder) or None
    except BadInputError:
        return None  # reported when the folder is read


def _refuse_lost_classes(images: LabelledImages) -> None:
    assert images.labels is not None
    lost = sorted(set(range(len(images.classes))) - set(images.labels))
    if lost:
        names = ", ".join(images.classes[label] for label in lost)
        raise BadInputError(f"No image of {names} below {images.root} can be read.")


def _refuse_too_little(train: LabelledImages) -> None:
    if len(train) < 2:
        raise BadInputError(f"{train.root} has {len(train)} image; at least 2 are needed.")
    if len(train.classes) < 2:
        raise BadInputError(f"{train.root} has one class, {train.classes[0]}; a classifier needs two.")
