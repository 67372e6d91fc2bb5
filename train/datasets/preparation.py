"""Preparing a data set: a folder of images → train/, val/, test/ with class folders, and split.json.

Every image is decoded once to find unreadable files and duplicates. The output folder appears complete or not at all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hemf_export.files import artifact_folder, artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import LabelledImages, class_folders
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.train.datasets import checks, groups, published_sets, split_file, splits
from hemf_export.train.datasets.groups import GroupColumn
from hemf_export.train.datasets.published_sets import SETS
from hemf_export.train.datasets.split_file import Entry, Origin
from hemf_export.train.datasets.splits import SPLITS, Shares, Split

DEFAULT_SHARES = Shares.parse("0.7/0.1/0.2")


@dataclass(frozen=True)
class Request:
    """A data set to prepare, and how to split it.

    Args:
        data_set: a published set, or the user's own class folders.
        source: folder of the downloaded set, or of the class folders.
        output: a new or empty folder.
        shares: share of each split; None for the paper's, or DEFAULT_SHARES for class folders.
        seed: seed of the split; None for the authors' 123 if their algorithm splits, else 0.
        fold: 1 or 2, one of Kvasir's two halves.
        published: use the lists that COVID-CT is published with.
        group_column: groups that must not be divided.
        copy: copy the images instead of hard-linking them.
        skip_unreadable: leave out images that can't be decoded, instead of refusing the data.

    Raises:
        UsageError: options exclude each other.
    """

    data_set: Literal["isic2018", "kvasir", "covid-ct", "class-folders"]
    source: Path
    output: Path
    shares: Shares | None = None
    seed: int | None = None
    fold: Literal[1, 2] | None = None
    published: bool = False
    group_column: GroupColumn | None = None
    copy: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if self.fold is not None and (self.data_set != "kvasir" or self.shares or self.group_column):
            raise UsageError(
                "A fold is one of the two halves of Kvasir; it can't be combined with `split` or `groups`."
            )
        if self.published and (
            self.data_set != "covid-ct" or self.shares or self.group_column or self.seed is not None
        ):
            raise UsageError(
                "The published split is that of COVID-CT; it can't be combined with `split`, `groups` or `seed`."
            )

    @property
    def method(self) -> Literal["authors", "folds", "published", "stratified", "grouped"]:
        """How the images are split."""
        if self.group_column is not None:
            return "grouped"
        if self.published:
            return "published"
        if self.shares is not None or self.data_set == "class-folders":
            return "stratified"
        return "folds" if self.data_set == "kvasir" else "authors"


@dataclass(frozen=True)
class Assignment:
    """The split of each image of a list.

    Args:
        assigned: one split per image.
        used: the splits that get images.
        groups: the group of each image; None without groups.
        origin: how the split was decided, for split.json.
        notes: notes for the user.
    """

    assigned: tuple[Split, ...]
    used: tuple[Split, ...]
    groups: tuple[str, ...] | None
    origin: Origin
    notes: list[str]


def assign(request: Request, images: LabelledImages) -> Assignment:
    """Assign each image to a split.

    Raises:
        BadInputError: the groups or published lists don't match the images.
    """
    paper = DEFAULT_SHARES if request.data_set == "class-folders" else SETS[request.data_set].shares
    shares = request.shares or paper
    method = request.method
    by_authors = method in ("authors", "folds")
    seed = request.seed if request.seed is not None else splits.AUTHORS_SEED if by_authors else 0
    group_of: tuple[str, ...] | None = None
    notes: list[str] = []
    fold = (request.fold or 1) if method == "folds" else None
    if request.group_column is not None:
        group_of, notes = groups.read(request.group_column, images)
        assigned = splits.grouped(images, group_of, shares, seed)
    elif method == "published":
        assigned = published_sets.published_split(request.source, images)
    elif fold is not None:
        assigned = splits.fold(images, fold, seed=seed)
        notes = [
            "val is the other half, as in the paper: the best epoch is selected on the images that it is evaluated on. "
            f"Train on `fold={3 - fold}` as well, and average."
        ]
    elif method == "authors":
        assigned = splits.authors(images, shares, seed=seed)
    else:
        assigned = splits.stratified(images, shares, seed)
    if by_authors and request.data_set != "isic2018":
        notes.append(
            "The authors' code shuffles the files in the order of their file system, which is not known. Here they are "
            "sorted by name, so the split is not exactly theirs."
        )
    origin = Origin(
        data_set=request.data_set,
        source=str(request.source),
        method=method,
        shares=None if method == "published" else str(shares),
        seed=None if method == "published" else seed,
        fold=fold,
        order="rows of the CSV" if request.data_set == "isic2018" and by_authors else "names",
        groups=_record(request.group_column),
        classes=images.classes,
    )
    return Assignment(assigned, splits.SPLITS if method == "published" else shares.used, group_of, origin, notes)


def _record(column: GroupColumn | None) -> dict[str, str] | None:
    if column is None:
        return None
    return {
        "file": str(column.path),
        "sha256": artifacts.sha256(column.path),
        "column": column.column,
        "image_column": column.image_column,
    }


@dataclass(frozen=True)
class Prepared:
    """A prepared data folder.

    Args:
        output: the folder.
        origin: how it was split.
        digest: SHA-256 of the split; equal on every machine.
        counts: number of images by class and split.
        linked: number of hard links to the source's files.
        copied: number of copied files.
        left_out: unreadable images and the reasons.
        notes: notes for the user.
    """

    output: Path
    origin: Origin
    digest: str
    counts: dict[str, dict[Split, int]]
    linked: int
    copied: int
    left_out: dict[str, str]
    notes: list[str]


def prepare(request: Request, progress: Progress = SILENT) -> Prepared:
    """Split a data set and write it as a data folder.

    Raises:
        BadInputError: the source has another layout, unreadable images, or too few of a class; or the output is not
            empty or can't be written. Then nothing is written.
    """
    if request.output.resolve().is_relative_to(request.source.resolve()):
        raise BadInputError(f"{request.output} lies in the source {request.source}.", "Choose a folder outside it.")
    with artifact_folder.whole(request.output) as folder:
        unpacked = folder / ".unpacked"
        images = _find(request, unpacked, progress)
        places = [_below(path, request.source, unpacked) for path in images.paths]
        assignment = assign(request, images)
        bad, notes = _read(request, images, assignment, progress)
        # Left out only now, so that they don't change the split of the others.
        assigned = [None if index in bad else split for index, split in enumerate(assignment.assigned)]
        counts = splits.count(images, assigned)
        splits.check_classes(counts, assignment.used)
        entries, linked = _write(folder, request, images, assignment, assigned, places, progress)
        if unpacked.exists():
            linked = 0  # the links' targets are removed now
            shutil.rmtree(unpacked)
        left_out = {places[index]: reason for index, reason in bad.items()}
        digest = split_file.write(folder, assignment.origin, entries, left_out)
    if request.data_set != "class-folders":
        notes = published_sets.differences(request.data_set, images) + notes
    return Prepared(
        output=request.output,
        origin=assignment.origin,
        digest=digest,
        counts=counts,
        linked=linked,
        copied=len(entries) - linked,
        left_out=left_out,
        notes=[*assignment.notes, *notes],
    )


def _find(request: Request, unpacked: Path, progress: Progress) -> LabelledImages:
    if request.data_set == "class-folders":
        return class_folders(request.source)
    return published_sets.find(request.data_set, request.source, unpacked, progress)


def _below(path: Path, source: Path, unpacked: Path) -> str:
    """Path of an image below the source, or below the archive that it was unpacked from."""
    root = unpacked if path.is_relative_to(unpacked) else source
    return path.relative_to(root).as_posix()


def _read(
    request: Request, images: LabelledImages, assignment: Assignment, progress: Progress
) -> tuple[dict[int, str], list[str]]:
    """Decode every image; return the unreadable ones with reasons, and notes on duplicates and grey levels.

    Raises:
        BadInputError: images are unreadable, and are not to be skipped.
    """
    levels = GreyLevels()
    contents = checks.decode_all(images, progress, levels)
    if contents.bad and not request.skip_unreadable:
        raise BadInputError(
            checks.unreadable_message(images, contents.bad),
            "Repair or remove them, or leave them out with `skip_unreadable`.",
        )
    notes = [checks.left_out_note(images, contents.bad)] if contents.bad else []
    notes += levels.notes(str(request.source))
    members = {name: [i for i, split in enumerate(assignment.assigned) if split == name] for name in SPLITS}
    return contents.bad, notes + checks.duplicate_notes(
        {name: images.select(indices) for name, indices in members.items()},
        {name: tuple(contents.digests[index] for index in indices) for name, indices in members.items()},
    )


def _write(
    folder: Path,
    request: Request,
    images: LabelledImages,
    assignment: Assignment,
    assigned: list[Split | None],
    places: list[str],
    progress: Progress,
) -> tuple[list[Entry], int]:
    """Link or copy every image that has a split into its folder; return the entries and the number of links."""
    assert images.labels is not None
    entries: list[Entry] = []
    linked = 0
    with progress.task(f"Writing {request.output}", len(images), "images") as task:
        for index, (path, label, split) in enumerate(zip(images.paths, images.labels, assigned, strict=True)):
            task.advance()
            if split is None:
                continue
            target = folder / split / images.classes[label] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            linked += artifact_folder.link_or_copy(path, target, copy=request.copy)
            entries.append(
                Entry(
                    file=target.relative_to(folder).as_posix(),
                    source=places[index],
                    sha256=artifacts.sha256(target),
                    group=None if assignment.groups is None else assignment.groups[index],
                )
            )
    return entries, linked
