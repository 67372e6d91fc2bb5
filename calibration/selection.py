"""Which images calibrate a graph, and which judge it: stratified by class, seeded, never the same image in both.

Refuses what would give ranges of nothing: no images, one class only, all black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from calibration.image_set import ImageSet, file_digest, stratified
from hemf import folders, names
from hemf.errors import BadInputError
from hemf.folders import LabelledImages
from hemf.grey_levels import GreyLevels
from hemf.images import decode
from hemf.model_input import ModelInput

CALIBRATION_IMAGES = 512
HELD_OUT_SHARE = 0.3  # of a folder without splits
_SPLITS = (("train", "val"), ("val", None))  # of a data folder: calibration, held out


@dataclass(frozen=True)
class Selection:
    """Images to calibrate on, and others to judge by.

    Args:
        calibration: what ranges are taken from.
        held_out: what accuracy is measured on.
        notes: what a user should know.
    """

    calibration: ImageSet
    held_out: ImageSet
    notes: tuple[str, ...]


def select(
    folder: Path,
    taken: ModelInput,
    classes: Sequence[str] | None,
    *,
    held_out: Path | None = None,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
    allow_single_class: bool = False,
    batch: int | None = None,
) -> Selection:
    """Choose the images of `folder`.

    Args:
        folder: a data folder with train/ and val/ (calibrates on the first, judges by the second; test/ is left
            alone), or one with class folders or plain images, which is divided.
        taken: what the graph takes of an image.
        classes: of the model; the folder's must be the same.
        held_out: another folder to judge by.
        count: calibration images, at most.
        seed: of the choice.
        allow_single_class: take images of one class only.
        batch: see `ImageSet`.

    Raises:
        BadInputError: no images, other classes, one class only, all black, files that don't decode, or images of a size
            that the graph doesn't take.
    """
    notes: list[str] = []
    pool, judges = _pools(folder, classes, allow_single_class)
    if held_out is not None:
        judges = _images(held_out, classes, allow_single_class)
    if judges is None:
        pool, judges = _divide(pool, seed)
        notes.append(f"{folder} has no splits: {len(judges)} of its images are held out, the others calibrate.")
    if not allow_single_class and pool.labels is not None and len(set(pool.labels)) < 2:
        raise BadInputError(
            f"{pool.root} has images of one class only: ranges would fit that class.",
            "Add the others, or say --allow-single-class.",
        )
    chosen = stratified(pool, min(count, len(pool)), seed)
    for images in (chosen, judges):
        _require_sizes(images, taken)
    notes += check_pictures(ImageSet(chosen, taken, batch))
    judges, same = _without_copies(judges, chosen)
    if same:
        notes.append(f"{same} held-out images are also among those that calibrate; they don't judge.")
    if not len(judges):
        raise BadInputError(f"No image of {folder} is left to judge by.", "Give others with --held-out DIR.")
    sets = ImageSet(chosen, taken, batch), ImageSet(judges, taken, batch)
    return Selection(sets[0].whole(), sets[1].whole(), tuple(notes))


def _require_sizes(images: LabelledImages, taken: ModelInput) -> None:
    """Refuse images that a graph doesn't take, before any work; those that don't decode are refused as they come."""
    if taken.source is None:
        return
    sizes: dict[Path, tuple[int, int]] = {}

    def look(index: int, image: Image.Image) -> None:
        sizes[images.paths[index]] = image.height, image.width

    folders.unreadable(images, look=look)
    taken.require_sizes(dict(sorted(sizes.items())))


def check_pictures(images: ImageSet) -> list[str]:
    """Decode images until one has any light in it and they use enough of their range; notes where they don't.

    Raises:
        BadInputError: all are black, or one doesn't decode.
    """
    lit, levels = False, GreyLevels()
    for path in images.images.paths:
        image = decode(path)
        levels.look(image)
        lit = lit or bool(images.taken.pixels(image).any())
        if lit and not levels.suspicious:
            return []
    if not lit:
        raise BadInputError(
            f"All {len(images)} images of {images.images.root} are black: there is nothing to calibrate on.",
            "Give real images.",
        )
    return levels.notes(str(images.images.root))


def _pools(folder: Path, classes: Sequence[str] | None, single: bool) -> tuple[LabelledImages, LabelledImages | None]:
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder of images.", "Calibration needs real images: --images DIR.")
    for first, second in _SPLITS:
        if (folder / first).is_dir() and (classes is None or first not in classes):
            has_second = second is not None and (folder / second).is_dir()
            judges = _images(folder / second, classes, single) if second is not None and has_second else None
            return _images(folder / first, classes, single), judges
    return _images(folder, classes, single), None


def _images(folder: Path, classes: Sequence[str] | None, single: bool) -> LabelledImages:
    """The images of a folder, with labels in the order of `classes`; one class folder alone only if `single`."""
    found = folders.any_images(folder)
    if found.labels is None or classes is None:
        return found
    labels = [names.place_of(name, classes) for name in found.classes]
    if None in labels or (len(set(labels)) < len(classes) and not (single and len(found.classes) == 1)):
        if labels == [labels[0]] and labels[0] is not None:
            raise BadInputError(
                f"{found.root} has images of one class only, {found.classes[0]}: ranges would fit that class.",
                "Add the others, or say --allow-single-class.",
            )
        return folders.class_folders(found.root, classes)  # refuses, and tells the difference
    own = [label for label in labels if label is not None]
    return LabelledImages(found.root, tuple(classes), found.paths, tuple(own[label] for label in found.labels))


def _divide(pool: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
    if len(pool) < 2:
        raise BadInputError(f"{pool.root} has one image; some must calibrate and others judge.", "Add images.")
    judges = stratified(pool, max(1, round(len(pool) * HELD_OUT_SHARE)), seed)
    held_out = set(judges.paths)
    return pool.select([index for index, path in enumerate(pool.paths) if path not in held_out]), judges


def _without_copies(judges: LabelledImages, chosen: LabelledImages) -> tuple[LabelledImages, int]:
    """The judges whose content is in none of the chosen files, and how many were left out."""
    known = {file_digest(path) for path in chosen.paths}
    kept = [index for index, path in enumerate(judges.paths) if file_digest(path) not in known]
    return judges.select(kept), len(judges) - len(kept)
