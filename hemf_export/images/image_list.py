"""Images that a user names, one by one or by folder, and the classes that their folders are named after.

Unlike `images.folders`, which requires well-formed data, this takes any tree: nothing is trained or proven on it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hemf_export.files import names
from hemf_export.files.errors import BadInputError
from hemf_export.images.folders import EXTENSIONS


@dataclass(frozen=True)
class FolderShare:
    """Number of images in a folder's class folders, and how many were given the class of their folder."""

    folder: Path
    images: int
    right: int


@dataclass(frozen=True)
class ImageList:
    """Image files to classify.

    Args:
        paths: files in the order given, those of a folder sorted.
        folders: for each file the given folder that it is in; None for a file that was given itself.
        passed_over: other files in the folders, by their extensions.
    """

    paths: tuple[Path, ...]
    folders: tuple[Path | None, ...]
    passed_over: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def class_folders(self, classes: Collection[str]) -> tuple[Path | None, ...]:
        """Find for each image the nearest folder above it, up to the given one, named after a class; else None."""
        nearest = []
        for path, root in zip(self.paths, self.folders, strict=True):
            depth = 0 if root is None else len(path.parts) - len(root.parts)
            parents = path.parents[:depth]
            nearest.append(next((one for one in parents if names.place_of(one.name, classes) is not None), None))
        return tuple(nearest)

    def shares(self, classes: Collection[str], labels: Sequence[str]) -> tuple[FolderShare, ...]:
        """Count the images given their folder's class, for each folder that has class folders.

        Args:
            classes: class names of the model.
            labels: predicted class of each image.
        """
        counts: dict[Path, list[bool]] = {}
        for folder, label in zip(self.class_folders(classes), labels, strict=True):
            if folder is not None:
                counts.setdefault(folder.parent, []).append(names.same([label], [folder.name]))
        return tuple(FolderShare(folder, len(right), sum(right)) for folder, right in counts.items())


def collect(named: Sequence[str | os.PathLike[str]]) -> ImageList:
    """List the given files, and the image files at any depth below the given folders. Nothing is decoded.

    A given file is taken whatever its name; in folders the extension decides, and hidden entries are ignored.

    Raises:
        BadInputError: nothing at a path, a folder without images, or one that can't be read.
    """
    places = [Path(place) for place in named]
    missing = [f"{place} ({reason})" for place in places if (reason := _out_of_reach(place))]
    if missing:
        raise BadInputError(f"No image or folder at {', '.join(missing)}.", "Is the path right?")
    paths: list[Path] = []
    folders: list[Path | None] = []
    passed_over: list[Path] = []
    for place in places:
        if not _is_folder(place):
            paths.append(place)
            folders.append(None)
            continue
        files = list(_below(place, frozenset()))
        images = [path for path in files if path.name.lower().endswith(EXTENSIONS)]
        if not images:
            raise BadInputError(f"{place} has no images.", f"They are known by their names: {', '.join(EXTENSIONS)}.")
        paths.extend(images)
        folders.extend([place] * len(images))
        passed_over.extend(path for path in files if not path.name.lower().endswith(EXTENSIONS))
    return ImageList(tuple(paths), tuple(folders), tuple(passed_over))


def _below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield every file below a folder, sorted by name. Links to folders are followed, but not in cycles."""
    own = folder.resolve()
    if own in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise BadInputError(f"Can't read the folder {folder}: {error.strerror or error}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _below(entry, above | {own})
        else:
            yield entry


def _out_of_reach(path: Path) -> str | None:
    try:
        os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; errors of anything else are left to decoding."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
