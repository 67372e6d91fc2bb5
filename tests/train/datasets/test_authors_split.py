"""The authors' split, against a second transcription of their algorithm."""

from __future__ import annotations

import csv
import hashlib
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hemf_export.images.folders import LabelledImages
from hemf_export.train.datasets import authors_split, published_sets
from hemf_export.train.datasets.published_sets import SETS
from hemf_export.train.datasets.splits import Shares

# Table 4 of the paper; 10,015 images.
ISIC = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142}
# ⌈0.6 n⌉, the rest, ⌊0.3 n⌋, by hand.
ISIC_COUNTS = {
    "MEL": (668, 112, 333),
    "NV": (4023, 671, 2011),
    "BCC": (309, 51, 154),
    "AKIEC": (197, 32, 98),
    "BKL": (660, 110, 329),
    "DF": (69, 12, 34),
    "VASC": (86, 14, 42),
}


def transcribed(names_by_class: dict[str, list[str]], train: float, test: float) -> dict[str, str]:
    """What the authors' script does, on lists of names and with Python's global generator."""
    state = random.getstate()
    try:
        random.seed(123)
        found = {}
        for names in names_by_class.values():
            names = list(names)
            random.shuffle(names)
            train_end = math.ceil(len(names) * train)
            test_start = len(names) - math.floor(len(names) * test)
            found.update(dict.fromkeys(names[:train_end], "train"))
            found.update(dict.fromkeys(names[train_end:test_start], "val"))
            found.update(dict.fromkeys(names[test_start:], "test"))
        return found
    finally:
        random.setstate(state)


def digest(assigned: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{split}/{name}\n" for name, split in sorted(assigned.items())).encode()).hexdigest()


@pytest.fixture(scope="module")
def isic(tmp_path_factory) -> Path:
    """A download with the published counts, its rows in an order of their own; the images are empty files."""
    root = tmp_path_factory.mktemp("isic")
    labels = np.repeat(list(ISIC), list(ISIC.values()))
    np.random.default_rng(0).shuffle(labels)
    (root / "ISIC2018_Task3_Training_Input").mkdir()
    (root / "ISIC2018_Task3_Training_GroundTruth").mkdir()
    truth = root / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    with open(truth, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *ISIC])
        for number, label in enumerate(labels):
            name = f"ISIC_{24306 + number:07d}"
            writer.writerow([name, *(1.0 if label == each else 0.0 for each in ISIC)])
            (root / "ISIC2018_Task3_Training_Input" / f"{name}.jpg").touch()
    return root


def names_in_the_csv(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in ISIC}
    with open(next(root.glob("*/*.csv"))) as file:
        for row in csv.DictReader(file):
            found[next(name for name in ISIC if row[name] == "1.0")].append(row["image"])
    return found


def test_the_isic_split_is_that_of_the_authors_code(isic, tmp_path):
    images = published_sets.find("isic2018", isic, tmp_path / "unpacked")
    assert len(images) == 10_015
    assert not published_sets.differences("isic2018", images)
    found = authors_split.authors(images, SETS["isic2018"].shares)
    by_name = {path.stem: split for path, split in zip(images.paths, found, strict=True)}
    expected = transcribed(names_in_the_csv(isic), 0.6, 0.3)
    assert digest(by_name) == digest(expected)
    counted = Counter((images.classes[label], split) for label, split in zip(images.labels, found, strict=True))
    assert {name: tuple(counted[name, split] for split in ("train", "val", "test")) for name in ISIC} == ISIC_COUNTS
    assert Counter(found) == {"train": 6012, "val": 1002, "test": 3001}


def test_pythons_shuffle_is_what_it_always_was():
    """The split hangs on it, whatever the version of Python."""
    values = list(range(10))
    random.Random(123).shuffle(values)
    assert values == [8, 7, 5, 9, 2, 3, 6, 1, 4, 0]


def test_covid_ct_has_the_papers_counts():
    names = {"CT_COVID": 349, "CT_NonCOVID": 397}
    images = LabelledImages(
        Path(), tuple(names),
        tuple(Path(name, f"{i:03}.png") for name, count in names.items() for i in range(count)),
        (0,) * 349 + (1,) * 397,
    )  # fmt: skip
    found = authors_split.authors(images, SETS["covid-ct"].shares)
    listed = {name: [str(path) for path in images.paths if path.parent.name == name] for name in names}
    expected = transcribed(listed, 0.6, 0.25)
    assert dict(zip(map(str, images.paths), found, strict=True)) == expected
    assert Counter(found) == {"train": 210 + 239, "val": 52 + 59, "test": 87 + 99}


def test_the_folds_of_kvasir_are_halves_that_swap():
    classes = tuple(SETS["kvasir"].counts)
    images = LabelledImages(
        Path(), classes, tuple(Path(name, f"{i}.jpg") for name in classes for i in range(500)),
        tuple(label for label in range(8) for _ in range(500)),
    )  # fmt: skip
    first, second = (authors_split.fold(images, number) for number in (1, 2))
    assert Counter(zip(first, second, strict=True)) == {("train", "val"): 2000, ("val", "train"): 2000}
    assert all(Counter(first[start : start + 500]) == {"train": 250, "val": 250} for start in range(0, 4000, 500))
    listed = {name: [str(path) for path in images.paths if path.parent.name == name] for name in classes}
    expected = transcribed(listed, 0.5, 0.0)
    assert dict(zip(map(str, images.paths), first, strict=True)) == expected


def test_another_seed_is_another_split():
    images = LabelledImages(Path(), ("a",), tuple(Path(f"{i}.png") for i in range(20)), (0,) * 20)
    shares = Shares.parse("0.6/0.1/0.3")
    assert authors_split.authors(images, shares) == authors_split.authors(images, shares, seed=123)
    assert authors_split.authors(images, shares) != authors_split.authors(images, shares, seed=124)
