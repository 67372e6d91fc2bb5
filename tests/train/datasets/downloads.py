"""The three published data sets in small, laid out as their publishers pack them."""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hemf_export.train.datasets.published_sets import SETS

ISIC_INPUT, ISIC_TRUTH = "ISIC2018_Task3_Training_Input", "ISIC2018_Task3_Training_GroundTruth"


def write_noise(path: Path, seed: int, kind: str = "JPEG") -> None:
    """A small image that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)


def isic2018(root: Path, per_class: int = 10) -> Path:
    """Images and ground truth, in an order of rows in which classes alternate, with the licence among the images."""
    classes = list(SETS["isic2018"].counts)
    rows = []
    for number in range(per_class * len(classes)):
        name = f"ISIC_{24306 + number:07d}"
        write_noise(root / ISIC_INPUT / f"{name}.jpg", number)
        rows.append([name, *(float(index == number % len(classes)) for index in range(len(classes)))])
    (root / ISIC_INPUT / "LICENSE.txt").write_text("CC BY-NC 4.0")
    write_truth(root, rows)
    return root


def write_truth(root: Path, rows: Sequence[Sequence[object]]) -> Path:
    """The ground-truth CSV."""
    path = root / ISIC_TRUTH / f"{ISIC_TRUTH}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["image", *SETS["isic2018"].counts], *rows])
    return path


def kvasir(root: Path, per_class: int = 4) -> Path:
    """kvasir-dataset/ with a folder a class."""
    for label, name in enumerate(SETS["kvasir"].counts):
        for number in range(per_class):
            write_noise(root / "kvasir-dataset" / name / f"{label}-{number}.jpg", 100 * label + number)
    return root


def covid_ct(root: Path, per_class: int = 10) -> Path:
    """The repository, with images unpacked and the lists of its split: 6, 1 and 3 of ten."""
    for seed, (name, short) in enumerate((("CT_COVID", "COVID"), ("CT_NonCOVID", "NonCOVID"))):
        files = [f"2020.{number}%1.png" for number in range(per_class)]
        for number, file in enumerate(files):
            write_noise(root / "Images-processed" / name / file, 1000 * seed + number, "JPEG")  # as there
        lists = root / "Data-split" / short
        lists.mkdir(parents=True)
        for split, part in (("train", files[:6]), ("val", files[6:7]), ("test", files[7:])):
            (lists / f"{split}{name}.txt").write_text("\n".join(part) + "\n\n")
    return root


def pack(folder: Path) -> Path:
    """A folder as the ZIP file beside it that a Mac would make; the folder goes."""
    path = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
        archive.writestr(f"__MACOSX/{folder.name}/._a.png", b"resource fork")
        archive.writestr(f"{folder.name}/.DS_Store", b"\0")
    shutil.rmtree(folder)
    return path
