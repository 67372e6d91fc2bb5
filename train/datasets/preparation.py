"""From a set of images to a folder that can be trained on: train/, val/, test/ with class folders, and split.json.

Images are read once to find those that don't decode and those that are there twice. The folder appears whole or not at
all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hemf_export.files import artifact_folder, artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import LabelledImages, class_folders
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.train.datasets import checks, published_sets, split_file, splits
from hemf_export.train.datasets.assignment import Assignment, Request, assign
from hemf_export.train.datasets.split_file import Entry, Origin
from hemf_export.train.datasets.splits import SPLITS, Split


@dataclass(frozen=True)
class Prepared:
    """A folder that is ready.

    Args:
        output: the folder.
        origin: how it was divided.
        digest: of the split; the same wherever it is made.
        counts: images by class and split.
        linked: files that are hard links to the source's.
        copied: files that are the folder's own.
        left_out: unreadable images.
        notes: for the user.
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
    """Divide a set of images and write it as a data folder.

    Raises:
        BadInputError: the source is not what it should be, has unreadable images, or too few of a class; the output is
            not empty or can't be written. Then nothing is written.
    """
    if request.output.resolve().is_relative_to(request.source.resolve()):
        raise BadInputError(f"{request.output} lies in the source {request.source}.", "Choose a folder outside it.")
    with artifact_folder.whole(request.output) as folder:
        unpacked = folder / ".unpacked"
        images = _find(request, unpacked, progress)
        places = [_below(path, request.source, unpacked) for path in images.paths]
        assignment = assign(request, images)
        bad, notes = _read(request, images, assignment, progress)
        # Left out only now: what the others' split is must not hang on it.
        assigned = [None if index in bad else split for index, split in enumerate(assignment.assigned)]
        counts = splits.count(images, assigned)
        splits.check_classes(counts, assignment.used)
        entries, linked = _write(folder, request, images, assignment, assigned, places, progress)
        if unpacked.exists():
            linked = 0  # to files that go now
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
    """An image's place in the source, whether it was unpacked from there or not."""
    root = unpacked if path.is_relative_to(unpacked) else source
    return path.relative_to(root).as_posix()


def _read(
    request: Request, images: LabelledImages, assignment: Assignment, progress: Progress
) -> tuple[dict[int, str], list[str]]:
    """Decode every image: those that can't be read, and notes of those that are there twice.

    Raises:
        BadInputError: unreadable images that are not to be skipped.
    """
    levels = GreyLevels()
    contents = checks.look_at(images, progress, levels)
    if contents.bad and not request.skip_unreadable:
        raise BadInputError(
            checks.told_unreadable(images, contents.bad),
            "Mend or remove them, or leave them out with `skip_unreadable`.",
        )
    notes = [checks.told_left_out(images, contents.bad)] if contents.bad else []
    notes += levels.notes(str(request.source))
    members = {name: [i for i, split in enumerate(assignment.assigned) if split == name] for name in SPLITS}
    return contents.bad, notes + checks.repeated(
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
    """Put every image that has a split into its place; what was put, and how many of them are links."""
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
