"""The images that a user names, one by one or by folder, and what the names of their folders say of their classes.

Unlike `images.folders`, which insists on well-formed data, this takes any tree: nothing is learned or proven from it.
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
    """How many images of a folder's class folders were given the class of their folder."""

    folder: Path
    images: int
    right: int


@dataclass(frozen=True)
class ImageList:
    """Image files to classify.

    Args:
        paths: files, as they were named, those of a folder sorted.
        folders: for each file the named folder that it was found in; None for a file that was named itself.
        passed_over: what lies in the folders and is not an image by its name.
    """

    paths: tuple[Path, ...]
    folders: tuple[Path | None, ...]
    passed_over: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def class_folders(self, classes: Collection[str]) -> tuple[Path | None, ...]:
        """For each image the nearest folder above it, up to the named one, that is called like a class; else None."""
        found = []
        for path, root in zip(self.paths, self.folders, strict=True):
            depth = 0 if root is None else len(path.parts) - len(root.parts)
            parents = path.parents[:depth]
            found.append(next((one for one in parents if names.place_of(one.name, classes) is not None), None))
        return tuple(found)

    def shares(self, classes: Collection[str], labels: Sequence[str]) -> tuple[FolderShare, ...]:
        """What share is right, for each folder that has class folders.

        Args:
            classes: of the model.
            labels: the class found for each image.
        """
        counts: dict[Path, list[bool]] = {}
        for folder, label in zip(self.class_folders(classes), labels, strict=True):
            if folder is not None:
                counts.setdefault(folder.parent, []).append(names.same([label], [folder.name]))
        return tuple(FolderShare(folder, len(right), sum(right)) for folder, right in counts.items())


def collect(named: Sequence[str | os.PathLike[str]]) -> ImageList:
    """The files named, and the image files at any depth below the folders named. Nothing is decoded.

    A file that is named is taken whatever it is called; in folders the name decides, and hidden entries don't count.

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
    """Every file below a folder, in the order of the names. Links to folders are followed, but never in a circle."""
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
    """Whether it is known to be one; what is wrong with anything else, decoding tells."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
