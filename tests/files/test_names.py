"""Names meet however a system writes them: a Mac's letters in two parts, endings in capitals, Windows' back slashes."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest

from hemf_export.calibration.image_set import select
from hemf_export.files import names
from hemf_export.files.errors import BadInputError
from hemf_export.images.folders import any_images, class_folders
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from hemf_export.train.datasets import checks
from tests.conftest import write_images

NAMES = ("Mélanome", "Nävus", "ガン")
WINDOWS, MAC = (tuple(unicodedata.normalize(form, name) for name in NAMES) for form in ("NFC", "NFD"))
assert WINDOWS != MAC


def write_classes(root: Path, classes: tuple[str, ...], count: int = 4) -> Path:
    for kind, name in zip(("dark", "bright", "striped"), classes, strict=True):
        write_images(root / name, count, kind)
    return root


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.JPG", "a.jpg"),
        ("klass\\Ä.TIFF", "klass/Ä.tiff"),
        ("klass/A\u0308.tiff", "klass/Ä.tiff"),
        (".\\klass\\a.png", "klass/a.png"),
        ("Case.In.Name.PNG", "Case.In.Name.png"),
        ("STEM", "STEM"),
        ("v1.5/STEM", "v1.5/STEM"),
    ],
)
def test_the_form_that_is_compared(name, key):
    assert names.image_key(name) == key


@pytest.mark.parametrize(("disk", "asked"), [(MAC, WINDOWS), (WINDOWS, MAC), (MAC, MAC)])
def test_classes_that_a_checkpoint_names_are_those_of_the_folders(tmp_path: Path, disk, asked):
    root, order = write_classes(tmp_path, disk), (asked[2], asked[0], asked[1])
    for images in (class_folders(root, order), any_images(root, order)):
        assert images.classes == order
        assert [path.parent.name for path in images.paths[::4]] == [disk[2], disk[0], disk[1]]
        assert all(path.is_file() for path in images.paths)


def test_splits_from_two_systems_have_the_same_classes(tmp_path: Path):
    for split, classes in (("train", MAC), ("val", WINDOWS), ("test", MAC)):
        write_classes(tmp_path / split, classes)
    splits = checks.load_splits(tmp_path)
    assert {images.classes for images in splits.values()} == {tuple(sorted(WINDOWS))}
    assert all(path.is_file() for images in splits.values() for path in images.paths)


def test_the_list_and_its_hash_are_the_same_on_every_system(tmp_path: Path):
    lists = []
    for folder, form in (("w", "NFC"), ("m", "NFD")):
        root = write_classes(tmp_path / folder / "set", WINDOWS if form == "NFC" else MAC)
        for name in ("É.png", "Ez.png"):
            some = min(root.iterdir(), key=lambda path: names.composed(path.name))
            shutil.copy(next(some.glob("dark*.png")), some / unicodedata.normalize(form, name))
        lists.append(class_folders(root))
    assert lists[0].to_dict() == lists[1].to_dict()


def test_two_folders_of_one_name_are_refused_and_both_named(tmp_path: Path):
    write_classes(tmp_path, WINDOWS)
    write_images(tmp_path / MAC[1], 1, "dark")
    with pytest.raises(BadInputError, match="can't be told apart: ") as told:
        class_folders(tmp_path)
    assert ascii(WINDOWS[1]) in told.value.message
    assert ascii(MAC[1]) in told.value.message


def test_classes_that_differ_are_still_told(tmp_path: Path):
    write_classes(tmp_path, MAC)
    with pytest.raises(BadInputError, match="missing Naevus; unexpected Nävus"):
        class_folders(tmp_path, (WINDOWS[0], "Naevus", WINDOWS[2]))


def test_calibration_labels_follow_the_classes_of_the_file(tmp_path: Path):
    write_classes(tmp_path, MAC, 10)
    chosen = select(tmp_path, ModelInput(Preprocess.for_size(16)), WINDOWS[::-1])
    images = chosen.calibration.images
    assert images.classes == WINDOWS[::-1]
    assert images.labels is not None
    for path, label in zip(images.paths, images.labels, strict=True):
        assert names.composed(path.parent.name) == images.classes[label]


def test_names_are_looked_up_however_they_are_written():
    assert [names.place_of(name, WINDOWS) for name in (*MAC, "Nevus")] == [0, 1, 2, None]
    assert names.same(MAC, WINDOWS)
    assert not names.same(MAC, WINDOWS[::-1])
