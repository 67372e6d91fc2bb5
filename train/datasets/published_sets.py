"""The three data sets of the paper in their published layouts: where the images are, and their classes.

- ISIC2018 task 3 (challenge.isic-archive.com): ISIC2018_Task3_Training_Input/ with the images, and
  ISIC2018_Task3_Training_GroundTruth/….csv with a column per class.
- Kvasir, version 1 (datasets.simula.no): kvasir-dataset/ with a folder per class.
- COVID-CT (github.com/UCSD-AI4H/COVID-CT): Images-processed/ with CT_COVID and CT_NonCOVID, and lists in Data-split/.

Each folder may be unpacked, or still be the ZIP file that was downloaded.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, cast

from hemf_export.files import artifact_folder
from hemf_export.files import names as spelling
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import EXTENSIONS, LabelledImages, class_folders, image_files, listed
from hemf_export.train.datasets import groups
from hemf_export.train.datasets.splits import SPLITS, Shares, Split

Name = Literal["isic2018", "kvasir", "covid-ct"]

_ISIC_IMAGES = "ISIC2018_Task3_Training_Input"
_ISIC_TRUTH = "ISIC2018_Task3_Training_GroundTruth"
_COVID = {"CT_COVID": "COVID", "CT_NonCOVID": "NonCOVID"}  # folder of a class → folder of its lists
_UNPACKED = (*EXTENSIONS, ".csv", ".txt")  # the only files taken from an archive


@dataclass(frozen=True)
class PublishedSet:
    """Description of a data set as published in the paper.

    Args:
        counts: images by class (Table 4), in the order of the labels.
        shares: shares of the paper's split.
    """

    counts: dict[str, int]
    shares: Shares


SETS: dict[Name, PublishedSet] = {
    "isic2018": PublishedSet(
        {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142},
        Shares.parse("0.6/0.1/0.3"),
    ),
    "kvasir": PublishedSet(
        dict.fromkeys(
            ("dyed-lifted-polyps", "dyed-resection-margins", "esophagitis", "normal-cecum", "normal-pylorus",
             "normal-z-line", "polyps", "ulcerative-colitis"), 500,
        ),
        Shares.parse("0.5/0.5"),
    ),
    "covid-ct": PublishedSet({"CT_COVID": 349, "CT_NonCOVID": 397}, Shares.parse("0.6/0.15/0.25")),
}  # fmt: skip


def find(name: Name, source: Path, unpacked: Path, progress: Progress = SILENT) -> LabelledImages:
    """List the images of a download and their classes, in the order that the authors' split uses.

    Args:
        name: the data set.
        source: folder of the download.
        unpacked: folder for unpacked archives; created if needed.
        progress: receives the number of unpacked files.

    Raises:
        BadInputError: part of the published layout is missing or invalid.
    """
    if not source.is_dir():
        raise BadInputError(f"{source} is not a folder.", "The folder of the downloaded data set is needed.")
    if name == "isic2018":
        return _isic2018(source, unpacked, progress)
    if name == "kvasir":
        classes = sorted(SETS["kvasir"].counts)
        there = source if (source / classes[0]).is_dir() else _folder(source, "kvasir-dataset", unpacked, progress)
        return class_folders(there, classes)
    return _covid_ct(source, unpacked, progress)


def differences(name: Name, images: LabelledImages) -> list[str]:
    """A note if the classes have other counts than in the paper."""
    assert images.labels is not None
    counts = {label: images.labels.count(index) for index, label in enumerate(images.classes)}
    other = [f"{label} {counts[label]} (paper: {count})" for label, count in SETS[name].counts.items()
             if counts[label] != count]  # fmt: skip
    if not other:
        return []
    hint = " Version 2 of Kvasir has 1,000 of each." if name == "kvasir" else ""
    return [f"These are not the images that the paper counts: {', '.join(other)}.{hint}"]


def recognize(splits: Iterable[LabelledImages]) -> Name | None:
    """Recognize the paper's data set by the names of its classes, in any case, and the images of each (Table 4).

    Args:
        splits: all its images, with labels, divided into splits of the same classes.
    """
    counts: Counter[str] = Counter()
    for images in splits:
        assert images.labels is not None
        counts.update(images.classes[label].casefold() for label in images.labels)
    for name, published in SETS.items():
        if counts == {label.casefold(): count for label, count in published.counts.items()}:
            return name
    return None


def published_split(source: Path, images: LabelledImages) -> tuple[Split, ...]:
    """The split of COVID-CT that its publishers provide as lists of file names.

    Raises:
        BadInputError: a list is missing, or the lists don't name each image once.
    """
    assert images.labels is not None
    named: dict[tuple[str, str], Split] = {}
    for label, folder in _COVID.items():
        for split in SPLITS:
            path = source / "Data-split" / folder / f"{split}{label}.txt"
            try:
                names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise BadInputError(
                    f"Can't read {path}: {error}.", "Leave out `published` for the paper's own split."
                ) from error
            for name in names:
                other = named.setdefault((label, spelling.image_key(name)), split)
                if other != split:
                    raise BadInputError(f"{name} is in the lists of {other} and of {split} in {source}.")
    keys = [
        (images.classes[label], spelling.image_key(path.name))
        for label, path in zip(images.labels, images.paths, strict=True)
    ]
    spelling.by_key(("/".join(key), path) for key, path in zip(keys, images.paths, strict=True))  # refuses duplicates
    unlisted = ["/".join(key) for key in keys if key not in named]
    absent = ["/".join(key) for key in sorted(set(named) - set(keys))]
    for what, names in (("images are in no list", unlisted), ("names of the lists have no image", absent)):
        if names:
            raise BadInputError(listed(f"{len(names)} {what} of {source / 'Data-split'}", names))
    return tuple(named[key] for key in keys)


def _isic2018(source: Path, unpacked: Path, progress: Progress) -> LabelledImages:
    folder = _folder(source, _ISIC_IMAGES, unpacked, progress)
    truth = source / f"{_ISIC_TRUTH}.csv"
    if not truth.is_file():
        truth = _folder(source, _ISIC_TRUTH, unpacked, progress) / f"{_ISIC_TRUTH}.csv"
    classes = tuple(SETS["isic2018"].counts)
    # ATTRIBUTION.txt and LICENSE.txt lie among the images.
    entries = sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    files = spelling.by_key(
        (spelling.composed(path.stem), path) for path in entries if path.suffix.lower() in EXTENSIONS
    )
    labels: dict[str, int] = {}
    for number, (cell, *cells) in groups.rows(truth, ("image", *classes)):
        image = spelling.composed(cell)
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            raise BadInputError(f"{truth}, line {number}: {error}.") from error
        if sorted(values) != [0.0] * (len(classes) - 1) + [1.0]:
            raise BadInputError(f"{truth}, line {number}: {image} is not of one class: {', '.join(cells)}.")
        if image in labels:
            raise BadInputError(f"{truth}, line {number}: {image} is listed twice.")
        labels[image] = values.index(1.0)
    for what, names in (
        (f"images of {truth} are not in {folder}", [image for image in labels if image not in files]),
        (f"images of {folder} are not in {truth}", sorted(set(files) - set(labels))),
    ):
        if names:
            raise BadInputError(listed(f"{len(names)} {what}", names), "Use both from the same download.")
    names = [image for label in range(len(classes)) for image in labels if labels[image] == label]
    return LabelledImages(source, classes, tuple(files[n] for n in names), tuple(labels[n] for n in names))


def _covid_ct(source: Path, unpacked: Path, progress: Progress) -> LabelledImages:
    root = source / "Images-processed" if (source / "Images-processed").is_dir() else source
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(_COVID):
        folder = _folder(root, name, unpacked, progress)
        files = image_files(folder)
        paths.extend(files)
        labels.extend([label] * len(files))
    return LabelledImages(source, tuple(_COVID), tuple(paths), tuple(labels))


def _folder(source: Path, name: str, unpacked: Path, progress: Progress) -> Path:
    """A folder of the download, unpacked first if only its ZIP file is there."""
    if (source / name).is_dir():
        return source / name
    archive = source / f"{name}.zip"
    if not archive.is_file():
        raise BadInputError(f"{source} has neither {name}/ nor {name}.zip.", "Give the folder that they lie in.")
    unpacked.mkdir(exist_ok=True)
    unpack(archive, unpacked, progress)
    if not (unpacked / name).is_dir():
        raise BadInputError(f"{archive} has no folder {name}.", "Download it again.")
    return unpacked / name


def unpack(path: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Unpack the images and lists of a ZIP archive below `folder`, with their folders.

    Raises:
        BadInputError: the file is not a ZIP archive, is damaged, encrypted or too large for the disk, or a member
            would leave `folder`; then nothing of it is unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if _is_wanted(path, member)]
            needed = sum(member.file_size for member in members)
            if needed > shutil.disk_usage(folder).free:
                raise BadInputError(
                    f"{path} holds {needed / 1e9:.1f} GB; the disk of {folder.parent} has no room for it.",
                    "Choose another output folder with `output`.",
                )
            with progress.task(f"Unpacking {path.name}", len(members), "files") as task:
                for member in members:
                    target = folder.joinpath(*_member_path(member).parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as file:
                        artifact_folder.write_stream(target, cast(BinaryIO, file))
                    task.advance()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # zipfile raises RuntimeError for an encrypted archive.
        raise BadInputError(f"{path} can't be unpacked: {error}.", "Download it again.") from error


def _is_wanted(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a member is an image or a list, and not hidden or metadata of the packing system."""
    place = _member_path(member)
    if place.is_absolute() or ".." in place.parts or ":" in member.filename:
        raise BadInputError(f"{path} has a member that leads out of its folder: {member.filename!r}.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BadInputError(f"{path} has a link in it: {member.filename!r}.")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
    return not member.is_dir() and not hidden and place.suffix.lower() in _UNPACKED


def _member_path(member: zipfile.ZipInfo) -> PurePosixPath:
    """Path of a member; archives made on Windows may have backslashes as separators."""
    return PurePosixPath(member.filename.replace("\\", "/"))
