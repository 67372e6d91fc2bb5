"""The three data sets of the paper, as their publishers pack them: where the images are, and of which class.

- ISIC2018 task 3 (challenge.isic-archive.com): ISIC2018_Task3_Training_Input/ with the images, and
  ISIC2018_Task3_Training_GroundTruth/….csv with a column a class.
- Kvasir, version 1 (datasets.simula.no): kvasir-dataset/ with a folder a class.
- COVID-CT (github.com/UCSD-AI4H/COVID-CT): Images-processed/ with CT_COVID and CT_NonCOVID, and lists in Data-split/.

Each folder may be there as it is, or as the ZIP file that is downloaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hemf_export.files import names as spelling
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import EXTENSIONS, LabelledImages, class_folders, image_files, listed
from hemf_export.train.datasets import archives, groups
from hemf_export.train.datasets.splits import SPLITS, Shares, Split

Name = Literal["isic2018", "kvasir", "covid-ct"]

_ISIC_IMAGES = "ISIC2018_Task3_Training_Input"
_ISIC_TRUTH = "ISIC2018_Task3_Training_GroundTruth"
_COVID = {"CT_COVID": "COVID", "CT_NonCOVID": "NonCOVID"}  # the folder of a class → the one of its lists


@dataclass(frozen=True)
class PublishedSet:
    """What the paper says of a data set.

    Args:
        counts: images by class (Table 4), in the order of the labels.
        shares: of the paper's split.
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
    """The images of a download and their classes, in the order that the authors' split takes them in.

    Args:
        name: which set.
        source: the folder of the download.
        unpacked: where archives are unpacked; made if it is needed.
        progress: receives how many members are unpacked.

    Raises:
        BadInputError: something of the published layout is missing, or says what it can't mean.
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
    """A note where the classes have other counts than the paper's."""
    assert images.labels is not None
    found = {label: images.labels.count(index) for index, label in enumerate(images.classes)}
    other = [f"{label} {found[label]} (paper: {count})" for label, count in SETS[name].counts.items()
             if found[label] != count]  # fmt: skip
    if not other:
        return []
    hint = " Version 2 of Kvasir has 1,000 of each." if name == "kvasir" else ""
    return [f"These are not the images that the paper counts: {', '.join(other)}.{hint}"]


def published_split(source: Path, images: LabelledImages) -> tuple[Split, ...]:
    """The split of COVID-CT that its publishers give, in lists of file names.

    Raises:
        BadInputError: a list is missing, or they don't name each image once.
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
    spelling.by_key(("/".join(key), path) for key, path in zip(keys, images.paths, strict=True))  # refuses twins
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
            raise BadInputError(f"{truth}, line {number}: {image} is there twice.")
        labels[image] = values.index(1.0)
    for what, names in (
        (f"images of {truth} are not in {folder}", [image for image in labels if image not in files]),
        (f"images of {folder} are not in {truth}", sorted(set(files) - set(labels))),
    ):
        if names:
            raise BadInputError(listed(f"{len(names)} {what}", names), "Take both from the same download.")
    names = [image for label in range(len(classes)) for image in labels if labels[image] == label]
    return LabelledImages(source, classes, tuple(files[n] for n in names), tuple(labels[n] for n in names))


def _covid_ct(source: Path, unpacked: Path, progress: Progress) -> LabelledImages:
    root = source / "Images-processed" if (source / "Images-processed").is_dir() else source
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(_COVID):
        folder = _folder(root, name, unpacked, progress)
        found = image_files(folder)
        paths.extend(found)
        labels.extend([label] * len(found))
    return LabelledImages(source, tuple(_COVID), tuple(paths), tuple(labels))


def _folder(source: Path, name: str, unpacked: Path, progress: Progress) -> Path:
    """A folder of the download, unpacked if it is there as a ZIP file only."""
    if (source / name).is_dir():
        return source / name
    archive = source / f"{name}.zip"
    if not archive.is_file():
        raise BadInputError(f"{source} has neither {name}/ nor {name}.zip.", "Give the folder that they lie in.")
    unpacked.mkdir(exist_ok=True)
    archives.unpack(archive, unpacked, progress)
    if not (unpacked / name).is_dir():
        raise BadInputError(f"{archive} has no folder {name}.", "Download it again.")
    return unpacked / name
