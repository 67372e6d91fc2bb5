"""Image folders: which files are images, and class folders with labels. Lists files; decodes only on request."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from hemf_export.files import names
from hemf_export.files.errors import BadInputError
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.images import PixelArray, decode

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class LabelledImages:
    """Image files and their labels.

    Args:
        root: the folder with the images.
        classes: class names, as they were given, else those of the folders (see `files.names`); labels are indices
            into them.
        paths: files, sorted by class and name, which gives the same list on every machine.
        labels: label of each image; None where the folder has no class folders.
    """

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Sequence[int]) -> LabelledImages:
        """The images at `indices`, in that order."""
        labels = None if self.labels is None else tuple(self.labels[index] for index in indices)
        return LabelledImages(self.root, self.classes, tuple(self.paths[index] for index in indices), labels)

    def spread(self, count: int) -> LabelledImages:
        """Select at most `count` images, spread evenly over the list and so over the classes."""
        if len(self) <= count:
            return self
        return self.select([int(index) for index in np.linspace(0, len(self) - 1, count)])

    def to_dict(self) -> dict[str, Any]:
        """Record for a manifest: the folder, the number of images of each class, and a hash of the names."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(names.composed(str(path.relative_to(self.root)))) + b"\0")
        labels = self.labels
        counts = {} if labels is None else {name: labels.count(label) for label, name in enumerate(self.classes)}
        return {
            "folder": self.root.name,
            "images": len(self),
            "classes": counts,
            "names_sha256": digest.hexdigest(),
        }


def image_files(folder: Path) -> list[Path]:
    """List the image files directly in `folder`, sorted by name; hidden and system files are ignored.

    Raises:
        BadInputError: the folder can't be read, or has files without an image's extension, folders, broken links or
            special files in it.
    """
    images: list[Path] = []
    strange: list[str] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: (names.composed(entry.name), entry.name))
    except OSError as error:
        raise BadInputError(f"Can't read the folder {folder}: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
            continue
        path = folder / entry.name
        if not entry.name.lower().endswith(EXTENSIONS):
            strange.append(f"{path} (not an image by its name)")
        elif problem := _not_regular(path):
            strange.append(f"{path} ({problem})")
        else:
            images.append(path)
    if strange:
        raise BadInputError(
            listed(f"{len(strange)} of the entries of {folder} are not images", strange), "Move them out."
        )
    return images


def class_folders(root: Path, classes: Sequence[str] | None = None) -> LabelledImages:
    """List images in one subfolder per class.

    Args:
        root: the folder with the class folders.
        classes: the required names, in the order of their labels; by default the subfolders, sorted.

    Raises:
        BadInputError: no class folders, empty ones, or other classes than required.
    """
    if not root.is_dir():
        raise BadInputError(f"{root} is not a folder.", "Class folders with images are needed, one a class.")
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    by_name = _by_class(entries)
    if not by_name:
        raise BadInputError(f"{root} has no class folders.", "Put each class's images into a folder of its own.")
    loose = [path for path in entries if not path.is_dir() and _belongs(path)]
    if loose:
        raise BadInputError(
            listed(f"{len(loose)} entries of {root} are in no class folder", [str(path) for path in loose]),
            "Move them into one, or away.",
        )
    wanted = {names.composed(name) for name in classes or by_name}
    if by_name.keys() != wanted:
        missing, extra = sorted(wanted - by_name.keys()), sorted(by_name.keys() - wanted)
        parts = [f"missing {_names(missing)}"] * bool(missing) + [f"unexpected {_names(extra)}"] * bool(extra)
        raise BadInputError(
            f"The classes of {root} differ from the expected ones: {'; '.join(parts)}.",
            "Name its class folders like the expected classes, or choose other images.",
        )
    labelled = tuple(classes) if classes is not None else tuple(by_name)
    paths: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(labelled):
        folder = by_name[names.composed(name)]
        files = image_files(folder)
        if not files:
            empty.append(str(folder))
        paths.extend(files)
        labels.extend([label] * len(files))
    if len(empty) == 1:
        raise BadInputError(f"The class folder {empty[0]} has no images.", "Add some or remove the folder.")
    if empty:
        raise BadInputError(listed(f"{len(empty)} class folders have no images", empty), "Add some or remove them.")
    return LabelledImages(root, labelled, tuple(paths), tuple(labels))


def class_names(root: Path) -> tuple[str, ...]:
    """List the names of the class folders of `root`, sorted, without reading them."""
    return tuple(_by_class(path for path in root.iterdir() if not path.name.startswith(".")))


def _by_class(entries: Iterable[Path]) -> dict[str, Path]:
    """Map normalized names to class folders, sorted: in the same order whatever system wrote them."""
    folders = names.by_key((names.composed(path.name), path) for path in sorted(entries) if path.is_dir())
    return dict(sorted(folders.items()))


def any_images(folder: Path, classes: Sequence[str] | None = None) -> LabelledImages:
    """List images, with labels where `folder` has class folders (or a test/ or val/ with them), else without.

    Raises:
        BadInputError: no image at all, or class folders of other classes.
    """
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder of images.", "Name a folder that has images in it.")
    for split in ("test", "val"):
        if (folder / split).is_dir() and (classes is None or split not in classes):
            return class_folders(folder / split, classes)
    if any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()):
        return class_folders(folder, classes)
    files = image_files(folder)
    if not files:
        raise BadInputError(f"{folder} has no images.", f"They are known by their names: {', '.join(EXTENSIONS)}.")
    return LabelledImages(folder, tuple(classes or ()), tuple(files), None)


def unreadable(
    images: LabelledImages,
    progress: Progress = SILENT,
    look: Callable[[int, Image.Image], None] = lambda index, image: None,
) -> dict[int, str]:
    """Decode every image, and collect the index and the reason of each that can't be decoded.

    Args:
        images: image files.
        progress: receives the number of images read.
        look: called with the index and the decoded image, from several threads.
    """
    bad: dict[int, str] = {}

    def check(index: int) -> None:
        try:
            look(index, decode(images.paths[index]))
        except BadInputError as error:
            bad[index] = error.message

    where = "" if images.root == Path() else f" of {images.root}"
    with (
        progress.task(f"Reading the images{where}", len(images), "images") as task,
        ThreadPoolExecutor(min(8, usable_cores())) as pool,
    ):
        for _ in pool.map(check, range(len(images))):
            task.advance()
    return dict(sorted(bad.items()))


class Loader(Protocol):
    """Anything that turns an image file into pixels, such as `Preprocess` or `ModelInput`."""

    def load(self, path: Path) -> PixelArray: ...


def batches(images: LabelledImages, loader: Loader, size: int) -> Iterator[PixelArray]:
    """Yield pixels (n, H, W, 3) uint8, `size` images at a time, in order; one batch is held at a time."""
    with ThreadPoolExecutor(min(4, usable_cores())) as pool:
        for start in range(0, len(images), size):
            yield np.stack(list(pool.map(loader.load, images.paths[start : start + size])))


def listed(what: str, items: Sequence[str]) -> str:
    """Message with the first few of many items."""
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{what}: {'; '.join(items[:_SHOWN])}{more}."


def _belongs(path: Path) -> bool:
    """Whether an entry beside the class folders may be a misplaced image, unlike a list or a licence."""
    return path.suffix.lower() in EXTENSIONS or not path.exists()


def _not_regular(path: Path) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a broken link"
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "not a regular file"


def _names(classes: list[str]) -> str:
    return ", ".join(classes[:_SHOWN]) + (f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else "")
