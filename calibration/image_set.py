"""Select the calibration set and the held-out set of a graph.

Both are drawn stratified by class, with a seed, and share no image. Images that would give meaningless ranges are
refused: none, of one class only, all black.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemf_export.files import names
from hemf_export.files.errors import BadInputError
from hemf_export.images import folders
from hemf_export.images.folders import LabelledImages
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.images.images import decode
from hemf_export.images.model_input import ModelInput

CALIBRATION_IMAGES = 512
HELD_OUT_SHARE = 0.3  # of a folder without splits
_SPLITS = (("train", "val"), ("val", None))  # of a data folder: calibration set, held-out set


@dataclass(frozen=True)
class ImageSet:
    """Set of images with their preprocessing to a graph's input.

    Args:
        images: files, and labels where the folder has classes.
        input: the graph's input and the preprocessing for it.
        batch: the graph's fixed batch; images beyond a whole number of batches are left out. None if dynamic.
    """

    images: LabelledImages
    input: ModelInput
    batch: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """True classes, where there are any."""
        return None if self.images.labels is None else np.asarray(self.images.labels, np.int64)

    def batches(self, size: int) -> Iterator[NDArray[np.generic]]:
        """Yield network input, `size` images at a time, or the graph's fixed batch."""
        for pixels in folders.batches(self.images, self.input, self.batch or size):
            yield self.input.network(pixels)

    def only(self, indices: Sequence[int]) -> ImageSet:
        """Select the images at `indices`; repeated to fill the last batch of a fixed size."""
        if self.batch is not None:
            missing = -len(indices) % self.batch
            indices = [*indices, *(indices[place % len(indices)] for place in range(missing))]
        return dataclasses.replace(self, images=self.images.select(list(indices)))

    def whole(self, count: int | None = None) -> ImageSet:
        """Draw at most `count` of the images, evenly by class, in whole batches if the graph has a fixed one.

        Raises:
            BadInputError: fewer images than one batch.
        """
        wanted = len(self) if count is None else min(count, len(self))
        if self.batch is not None:
            wanted -= wanted % self.batch
            if not wanted:
                raise BadInputError(
                    f"{self.images.root} gives {len(self)} images; the graph's fixed batch is {self.batch}.",
                    "Give more images, or export with `batch='dynamic'`.",
                )
        chosen = self.images if wanted == len(self) else stratified(self.images, wanted, seed=0)
        return dataclasses.replace(self, images=chosen)

    def content_sha256(self) -> str:
        """Return a hash of the files' bytes in their order and of the preprocessing."""
        digest = hashlib.sha256(repr((self.input, self.batch)).encode())
        for path in self.images.paths:
            digest.update(file_digest(path))
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return a record of the images for a manifest: folder, count of each class, hash of the names."""
        return self.images.to_dict()


def stratified(images: LabelledImages, count: int, seed: int) -> LabelledImages:
    """Draw `count` of the images at random, each class by its share but at least one."""
    if count >= len(images):
        return images
    generator = np.random.default_rng(seed)
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(images.labels or (0,) * len(images)):
        by_class[label].append(index)
    order = {label: list(generator.permutation(indices)) for label, indices in sorted(by_class.items())}
    # Each class gets its share of `count`; the rest goes to the classes that lost most by rounding.
    exact = {label: len(indices) * count / len(images) for label, indices in order.items()}
    quotas = {label: min(len(order[label]), max(1, int(share))) for label, share in exact.items()}
    by_loss = sorted(exact, key=lambda label: quotas[label] - exact[label])
    while sum(quotas.values()) != count:
        step = 1 if sum(quotas.values()) < count else -1
        for label in by_loss if step > 0 else reversed(by_loss):
            room = quotas[label] < len(order[label]) if step > 0 else quotas[label] > (1 if count >= len(order) else 0)
            if room and sum(quotas.values()) != count:
                quotas[label] += step
    return images.select(sorted(int(index) for label in order for index in order[label][: quotas[label]]))


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error


@dataclass(frozen=True)
class Selection:
    """Calibration set and held-out set.

    Args:
        calibration: images that ranges are measured on.
        held_out: images that accuracy is measured on.
        notes: remarks for the user.
    """

    calibration: ImageSet
    held_out: ImageSet
    notes: tuple[str, ...]


def select(
    folder: Path,
    input: ModelInput,
    classes: Sequence[str] | None,
    *,
    held_out: Path | None = None,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
    allow_single_class: bool = False,
    batch: int | None = None,
) -> Selection:
    """Select the calibration set and the held-out set from `folder`.

    Args:
        folder: a data folder, whose train/ calibrates and whose val/ is held out (test/ is never used), or one
            with class folders or plain images, which is divided.
        input: the graph's input and the preprocessing for it.
        classes: the model's class names; the folder's must be the same.
        held_out: another folder for the held-out set.
        count: largest number of calibration images.
        seed: seed of the selection.
        allow_single_class: take images of one class only.
        batch: see `ImageSet`.

    Raises:
        BadInputError: no images, other classes, one class only, all black, files that don't decode, or images of a size
            that the graph doesn't take.
    """
    notes: list[str] = []
    pool, held_out_images = _pools(folder, classes, allow_single_class)
    if held_out is not None:
        held_out_images = _images(held_out, classes, allow_single_class)
    if held_out_images is None:
        pool, held_out_images = _divide(pool, seed)
        notes.append(
            f"{folder} has no splits: {len(held_out_images)} of its images are held out, the others calibrate."
        )
    if not allow_single_class and pool.labels is not None and len(set(pool.labels)) < 2:
        raise BadInputError(
            f"{pool.root} has images of one class only: ranges would fit that class.",
            "Add the others, or say `allow_single_class`.",
        )
    chosen = stratified(pool, min(count, len(pool)), seed)
    for images in (chosen, held_out_images):
        _require_sizes(images, input)
    notes += check_pictures(ImageSet(chosen, input, batch))
    held_out_images, duplicates = _without_copies(held_out_images, chosen)
    if duplicates:
        notes.append(f"{duplicates} held-out images are also in the calibration set; they are not counted.")
    if not len(held_out_images):
        raise BadInputError(
            f"No image of {folder} is left for the held-out set.", "Give other images with `held_out=DIR`."
        )
    sets = ImageSet(chosen, input, batch), ImageSet(held_out_images, input, batch)
    return Selection(sets[0].whole(), sets[1].whole(), tuple(notes))


def _require_sizes(images: LabelledImages, input: ModelInput) -> None:
    """Refuse images of a size that the graph doesn't take, before any work; undecodable ones are refused later."""
    if input.source is None:
        return
    sizes: dict[Path, tuple[int, int]] = {}

    def look(index: int, image: Image.Image) -> None:
        sizes[images.paths[index]] = image.height, image.width

    folders.unreadable(images, look=look)
    input.require_sizes(dict(sorted(sizes.items())))


def check_pictures(images: ImageSet) -> list[str]:
    """Decode images until one isn't black and their grey levels use enough of the range; return notes where they don't.

    Raises:
        BadInputError: all are black, or one doesn't decode.
    """
    lit, levels = False, GreyLevels()
    for path in images.images.paths:
        image = decode(path)
        levels.look(image)
        lit = lit or bool(images.input.pixels(image).any())
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
        raise BadInputError(f"{folder} is not a folder of images.", "Calibration needs real images: `images=DIR`.")
    for first, second in _SPLITS:
        if (folder / first).is_dir() and (classes is None or first not in classes):
            has_second = second is not None and (folder / second).is_dir()
            held_out_images = _images(folder / second, classes, single) if second is not None and has_second else None
            return _images(folder / first, classes, single), held_out_images
    return _images(folder, classes, single), None


def _images(folder: Path, classes: Sequence[str] | None, single: bool) -> LabelledImages:
    """List the images of a folder, with labels in the order of `classes`; one class folder alone only if `single`."""
    images = folders.any_images(folder)
    if images.labels is None or classes is None:
        return images
    labels = [names.place_of(name, classes) for name in images.classes]
    if None in labels or (len(set(labels)) < len(classes) and not (single and len(images.classes) == 1)):
        if labels == [labels[0]] and labels[0] is not None:
            raise BadInputError(
                f"{images.root} has images of one class only, {images.classes[0]}: ranges would fit that class.",
                "Add the others, or say `allow_single_class`.",
            )
        return folders.class_folders(images.root, classes)  # raises, with the difference in the message
    own = [label for label in labels if label is not None]
    return LabelledImages(images.root, tuple(classes), images.paths, tuple(own[label] for label in images.labels))


def _divide(pool: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
    if len(pool) < 2:
        raise BadInputError(f"{pool.root} has one image: none would be left for the held-out set.", "Add images.")
    held_out_images = stratified(pool, max(1, round(len(pool) * HELD_OUT_SHARE)), seed)
    held_out = set(held_out_images.paths)
    return pool.select([index for index, path in enumerate(pool.paths) if path not in held_out]), held_out_images


def _without_copies(held_out_images: LabelledImages, chosen: LabelledImages) -> tuple[LabelledImages, int]:
    """Drop the held-out images whose content is in the calibration set; return the rest and the number dropped."""
    known = {file_digest(path) for path in chosen.paths}
    kept = [index for index, path in enumerate(held_out_images.paths) if file_digest(path) not in known]
    return held_out_images.select(kept), len(held_out_images) - len(kept)
