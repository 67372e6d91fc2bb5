"""Label images by a model's classes; where those have no names, by the folder's classes in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hemf_export.images import folders
from hemf_export.images.folders import LabelledImages


def are_names(classes: Sequence[str]) -> bool:
    """Whether classes have real names: class_0, class_1 … are placeholders."""
    return tuple(classes) != tuple(f"class_{index}" for index in range(len(classes)))


def read(folder: Path, classes: Sequence[str]) -> tuple[LabelledImages, tuple[str, ...]]:
    """List the images of `folder`, with labels where it has class folders, and notes on the labels.

    Args:
        folder: a data folder, class folders, or a folder of images.
        classes: class names of the model.

    Raises:
        BadInputError: no image, or class folders that are not the model's classes.
    """
    if are_names(classes):
        return folders.any_images(folder, classes), ()
    images, notes = match(folders.any_images(folder), classes)
    return dataclasses.replace(images, classes=tuple(classes)), notes


def match(images: LabelledImages, classes: Sequence[str]) -> tuple[LabelledImages, tuple[str, ...]]:
    """Label `images` for a model without class names in the folder's order, or drop the labels where counts differ."""
    own = images.classes
    if images.labels is None:
        return images, ()
    if len(own) != len(classes):
        note = f"The folder has {len(own)} classes and the model {len(classes)}: only agreement is measured."
        return dataclasses.replace(images, labels=None), (note,)
    note = f"The model names no classes: they are taken for those of the folder, in its order: {', '.join(own)}."
    return images, (note,)
