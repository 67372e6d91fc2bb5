"""Splits: each image once, classes in their shares, no group on two sides, no dependence on order or machine; the
authors' split against a second transcription of their algorithm.
"""

from __future__ import annotations

import csv
import hashlib
import math
import random
import subprocess
import sys
import zlib
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.folders import LabelledImages
from hemf_export.train.datasets import published_sets, splits
from hemf_export.train.datasets.published_sets import SETS
from hemf_export.train.datasets.splits import SPLITS, Shares

QUICK = settings(max_examples=60, deadline=None, database=None)
SHARES = st.sampled_from(["0.7/0.1/0.2", "0.6/0.15/0.25", "0.5/0.5", "0.34/0.33/0.33"])
SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=5)


def images_of(sizes: list[int]) -> LabelledImages:
    """Images that are nowhere, some of them of the same name in several classes."""
    classes = tuple(f"class {label}" for label in range(len(sizes)))
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    paths = [Path(classes[label], f"{index}.png") for label, size in enumerate(sizes) for index in range(size)]
    return LabelledImages(Path("nowhere"), classes, tuple(paths), tuple(labels))


def by_name(images: LabelledImages, assigned: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(map(str, images.paths), assigned, strict=True))


@given(sizes=SIZES, text=SHARES, seed=st.integers(0, 2**40))
@QUICK
def test_each_class_has_its_shares_to_within_one_image(sizes, text, seed):
    images, shares = images_of(sizes), Shares.parse(text)
    assigned = splits.stratified(images, shares, seed)
    assert len(assigned) == len(images)
    for label, size in enumerate(sizes):
        found = Counter(split for split, own in zip(assigned, images.labels, strict=True) if own == label)
        assert sum(found.values()) == size
        for split in SPLITS:
            assert abs(found[split] - size * shares.of(split)) < 1


@given(sizes=SIZES, text=SHARES, seed=st.integers(0, 2**40), shuffling=st.integers())
@QUICK
def test_neither_the_order_of_the_files_nor_of_the_groups_matters(sizes, text, seed, shuffling):
    images, shares = images_of(sizes), Shares.parse(text)
    order = list(range(len(images)))
    random.Random(shuffling).shuffle(order)
    other = images.select(order)
    assert by_name(images, splits.stratified(images, shares, seed)) == by_name(
        other, splits.stratified(other, shares, seed)
    )
    group_of = {path: f"patient {zlib.crc32(str(path).encode()) % 7}" for path in images.paths}
    first, second = (
        by_name(each, splits.grouped(each, [group_of[path] for path in each.paths], shares, seed))
        for each in (images, other)
    )
    assert first == second


@given(sizes=SIZES, text=SHARES, seed=st.integers(0, 2**40), groups=st.integers(1, 40), drawn=st.randoms())
@QUICK
def test_no_group_is_on_two_sides(sizes, text, seed, groups, drawn):
    images = images_of(sizes)
    group_of = [f"patient {drawn.randrange(groups)}" for _ in range(len(images))]
    assigned = splits.grouped(images, group_of, Shares.parse(text), seed)
    assert len(assigned) == len(images)
    sides: dict[str, set[str]] = {}
    for group, split in zip(group_of, assigned, strict=True):
        sides.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    assert set(assigned) <= set(Shares.parse(text).used)


def patients(count: int, seed: int) -> tuple[LabelledImages, list[str]]:
    """Images of patients of very different numbers, most of a patient's images of one class; classes 10 : 3 : 1."""
    drawn = np.random.default_rng(seed)
    found: list[list[str]] = [[], [], []]
    for patient in range(count):
        usual = drawn.choice(3, p=[10 / 14, 3 / 14, 1 / 14])
        for _ in range(min(60, 1 + int(drawn.pareto(1.2)))):
            found[usual if drawn.random() < 0.9 else drawn.integers(3)].append(f"p{patient}")
    return images_of([len(each) for each in found]), [group for each in found for group in each]


def furthest(images: LabelledImages, test: np.ndarray) -> float:
    """How far the share of any class in the test images is from a fifth."""
    labels = np.asarray(images.labels)
    return max(abs(float(np.mean(test[labels == label])) - 0.2) for label in range(3))


@pytest.mark.parametrize("seed", range(4))
def test_grouped_shares_are_as_close_as_those_of_scikit_learn(seed):
    images, group_of = patients(300, seed)
    ours = np.array(splits.grouped(images, group_of, Shares.parse("0.6/0.2/0.2"), seed)) == "test"
    theirs = np.zeros(len(images), bool)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    theirs[next(iter(folds.split(group_of, images.labels, group_of)))[1]] = True
    assert furthest(images, ours) < max(0.02, furthest(images, theirs))


def test_small_and_large_groups_come_to_every_split():
    images, group_of = patients(300, 0)
    assigned = splits.grouped(images, group_of, Shares.parse("0.6/0.2/0.2"), 0)
    sizes = Counter(group_of)
    sides = dict(zip(group_of, assigned, strict=True))
    for split in SPLITS:
        here = [sizes[group] for group, side in sides.items() if side == split]
        assert min(here) == 1
        assert max(here) >= 15


def test_the_seed_decides():
    images, group_of = patients(100, 0)
    shares = Shares.parse("0.7/0.1/0.2")
    assert splits.stratified(images, shares, 0) == splits.stratified(images, shares, 0)
    assert splits.stratified(images, shares, 0) != splits.stratified(images, shares, 1)
    assert splits.grouped(images, group_of, shares, 0) != splits.grouped(images, group_of, shares, 1)


def text_of_both() -> str:
    images, group_of = patients(50, 0)
    shares = Shares.parse("0.7/0.1/0.2")
    return f"{splits.grouped(images, group_of, shares, 5)}, {splits.stratified(images, shares, 5)}"


def test_a_split_is_the_same_in_a_process_with_other_hashes():
    script = "from tests.train.datasets import test_splits; print(test_splits.text_of_both())"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONHASHSEED": "1", "PYTHONPATH": "."}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == text_of_both()
    assert "test" in done.stdout


def test_worked_by_hand():
    """SHA-256 of "0\\na/0.png" … orders 10 images; the first 7 are for training, the next one for validation."""
    from hashlib import sha256

    images = LabelledImages(Path(), ("a",), tuple(Path("a", f"{i}.png") for i in range(10)), (0,) * 10)
    order = sorted(range(10), key=lambda i: sha256(f"0\na/{i}.png".encode()).hexdigest())
    found = splits.stratified(images, Shares.parse("0.7/0.1/0.2"), 0)
    assert [found[index] for index in order] == ["train"] * 7 + ["val"] + ["test"] * 2


def test_names_composed_and_decomposed_are_one_name():
    """macOS may give Müller with a combining mark."""
    names = [f"Mu\u0308ller {index}.png" for index in range(30)]
    composed = [f"M\u00fcller {index}.png" for index in range(30)]
    found = [
        splits.stratified(
            LabelledImages(Path(), ("a",), tuple(Path("a", name) for name in each), (0,) * 30),
            Shares.parse("0.5/0.5"), 0,
        )
        for each in (names, composed)
    ]  # fmt: skip
    assert found[0] == found[1]


def test_shares_are_exact():
    shares = Shares.parse("0.7 / 0.1/0.2")
    assert (shares.train, shares.val, shares.test) == (Fraction(7, 10), Fraction(1, 10), Fraction(1, 5))
    assert str(shares) == "0.7/0.1/0.2"
    assert Shares.parse("0.8/0.2").used == ("train", "val")


@pytest.mark.parametrize(
    "text", ["", "0.7", "0.7/0.2", "0.7/0.1/0.1/0.1", "0/0.5/0.5", "0.8/0/0.2", "a/b", "1/0", "nan/1"]
)
def test_shares_that_are_none_are_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"0\.7/0\.1/0\.2"):
        Shares.parse(text)


def test_classes_too_small_for_a_split_are_all_named():
    images = images_of([50, 3, 2, 40])
    table = splits.count(images, splits.stratified(images, Shares.parse("0.7/0.1/0.2"), 0))
    with pytest.raises(BadInputError) as caught:
        splits.check_classes(table, SPLITS)
    assert "class 1: none in val, 3 in all" in caught.value.message
    assert "class 2: none in val" in caught.value.message
    assert "class 0" not in caught.value.message


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
    found = splits.authors(images, SETS["isic2018"].shares)
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
    found = splits.authors(images, SETS["covid-ct"].shares)
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
    first, second = (splits.fold(images, number) for number in (1, 2))
    assert Counter(zip(first, second, strict=True)) == {("train", "val"): 2000, ("val", "train"): 2000}
    assert all(Counter(first[start : start + 500]) == {"train": 250, "val": 250} for start in range(0, 4000, 500))
    listed = {name: [str(path) for path in images.paths if path.parent.name == name] for name in classes}
    expected = transcribed(listed, 0.5, 0.0)
    assert dict(zip(map(str, images.paths), first, strict=True)) == expected


def test_another_seed_is_another_split():
    images = LabelledImages(Path(), ("a",), tuple(Path(f"{i}.png") for i in range(20)), (0,) * 20)
    shares = Shares.parse("0.6/0.1/0.3")
    assert splits.authors(images, shares) == splits.authors(images, shares, seed=123)
    assert splits.authors(images, shares) != splits.authors(images, shares, seed=124)
