"""Images for a model, labelled by its classes; a model whose classes have no names takes them in the folder's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hemf_export.images import folders
from hemf_export.images.folders import LabelledImages


def are_names(classes: Sequence[str]) -> bool:
    """Whether classes have names of their own: class_0, class_1 … are what they get where nobody knows them."""
    return tuple(classes) != tuple(f"class_{index}" for index in range(len(classes)))


def read(folder: Path, classes: Sequence[str]) -> tuple[LabelledImages, tuple[str, ...]]:
    """The images of `folder`, with labels where it has class folders, and what a user should know of these.

    Args:
        folder: a data folder, class folders, or images alone.
        classes: of the model.

    Raises:
        BadInputError: no image, or class folders that are not the model's classes.
    """
    if are_names(classes):
        return folders.any_images(folder, classes), ()
    images, notes = match(folders.any_images(folder), classes)
    return dataclasses.replace(images, classes=tuple(classes)), notes


def match(images: LabelledImages, classes: Sequence[str]) -> tuple[LabelledImages, tuple[str, ...]]:
    """`images` for a model without class names: labelled in the folder's order and by its names, or without labels."""
    own = images.classes
    if images.labels is None:
        return images, ()
    if len(own) != len(classes):
        note = f"The folder has {len(own)} classes and the model {len(classes)}: only agreement is measured."
        return dataclasses.replace(images, labels=None), (note,)
    note = f"The model names no classes: they are taken for those of the folder, in its order: {', '.join(own)}."
    return images, (note,)
