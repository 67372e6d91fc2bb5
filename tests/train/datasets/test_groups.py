"""Lists of patients as hospitals have them: from Excel, with names with and without an ending, with holes."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from hemf_export.files.errors import BadInputError
from hemf_export.images.folders import LabelledImages
from hemf_export.train.datasets import groups
from hemf_export.train.datasets.groups import GroupColumn

IMAGES = LabelledImages(
    Path("scans"), ("a", "b"), tuple(Path("scans", name) for name in ("a/1.png", "a/2.png", "b/3.png")), (0, 0, 1)
)


def read(folder: Path, text: str | bytes, column: str = "patient", images: LabelledImages = IMAGES):
    path = folder / "patients.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return groups.read(GroupColumn(path, column), images)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("image,patient\n1.png,P1\n2.png,P1\n3.png,P2\n", id="names"),
        pytest.param("patient,age,image\nP1,70,1\nP1,70,2\nP2,60,3\n", id="stems"),
        pytest.param("image,patient\na/1.png,P1\na/2.png,P1\nb/3.png,P2\n", id="places"),
        pytest.param("\ufeffimage;patient\r\n1.png;P1\r\n2.png;P1\r\n3.png;P2\r\n", id="excel"),
        pytest.param("image\tpatient\n1.png\tP1\n2.png\tP1\n\n3.png\tP2\n\n", id="tabs"),
        pytest.param('image,patient\n"1.png","P1"\n 2.png , P1\n3.png,P2\n1.png,P1\n', id="quotes-and-spaces"),
    ],
)
def test_lists_as_programs_write_them(tmp_path: Path, text):
    assert read(tmp_path, text) == (("P1", "P1", "P2"), [])


def test_rows_of_other_images_are_counted(tmp_path: Path):
    found, notes = read(tmp_path, "image,patient\n1,P1\n2,P1\n3,P2\n4,P2\n5,P3\n")
    assert found == ("P1", "P1", "P2")
    assert notes[0].startswith("2 rows of ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column 'image'"),
        ("image,patents\n1,P1\n", r"has no column 'patient'.*Did you mean 'patents'"),
        ("image,patient\n1,P1\n2\n", r"line 3: 1 cells; the header has 2"),
        ("image,patient\n1,P1\n2,\n", r"line 3: 2 has no patient"),
        ("image,patient\n1,P1\n2,P1\n1,P2\n", r"line 4: 1 is in 'P1' and in 'P2'"),
        ("image,patient\n1,P1\n", r"2 of 3 images are not in .*a/2\.png; b/3\.png"),
        ('image,patient\n"1,P1\n', r"not a CSV file in UTF-8"),
        (b"image,patient\nM\xfcller,P1\n", r"not a CSV file in UTF-8"),
        (b"\x00\x00\x00", r"patients\.csv"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(tmp_path: Path, text, told):
    with pytest.raises(BadInputError, match=r"(?s)" + told):
        read(tmp_path, text)


def test_a_name_that_two_images_have_must_say_which(tmp_path: Path):
    images = LabelledImages(Path("s"), ("a", "b"), (Path("s/a/1.png"), Path("s/b/1.png")), (0, 1))
    with pytest.raises(BadInputError, match=r"'1\.png' may be s/a/1\.png or s/b/1\.png.*b/1\.png in the column image"):
        read(tmp_path, "image,patient\n1.png,P1\n", images=images)
    found, _ = read(tmp_path, "image,patient\na/1.png,P1\nb/1.png,P2\n", images=images)
    assert found == ("P1", "P2")


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_list_that_is_not_there(tmp_path: Path, name):
    with pytest.raises(BadInputError, match="is not a file"):
        groups.read(GroupColumn(tmp_path / name, "patient"), IMAGES)


def set_of(*names: str) -> LabelledImages:
    return LabelledImages(Path("s"), ("Nävus",), tuple(Path("s", "x", name) for name in names), (0,) * len(names))


@pytest.mark.parametrize(
    ("disk", "written"),
    [
        ("o\u0308l.png", "öl.png"),
        ("öl.png", "o\u0308l.png"),
        ("o\u0308l.png", "öl"),
        ("scan.TIFF", "scan.tiff"),
        ("scan.jpeg", "scan.JPEG"),
        ("scan.png", "Nävus\\scan.png"),
        ("scan.PNG", "Na\u0308vus\\scan.png"),
        ("o\u0308l.JPG", ".\\Nävus\\öl.jpg"),
        ("scan.PNG", "Nävus/scan.Png"),
    ],
)
def test_names_meet_however_they_are_written(tmp_path: Path, disk, written):
    text = f"\ufeffimage;patient\r\n{written};Müller\r\nother.png;P2\r\n"
    found, notes = read(tmp_path, text, images=set_of(disk))
    assert found == ("Müller",)
    assert notes[0].startswith("1 rows of ")


def test_one_patient_typed_on_two_systems_is_one_group(tmp_path: Path):
    windows, mac = (unicodedata.normalize(form, "Jürgen") for form in ("NFC", "NFD"))
    text = f"image,patient\n1.png,{windows}\n2.png,{mac}\n"
    found, _ = read(tmp_path, text, images=set_of("1.png", "2.png"))
    assert len(set(found)) == 1


def test_a_column_that_was_typed_on_another_system_is_found(tmp_path: Path):
    found, _ = read(tmp_path, "image,Prüfling\n1.png,P1\n", column="Pru\u0308fling", images=set_of("1.png"))
    assert found == ("P1",)


def test_what_is_written_as_on_disk_comes_first(tmp_path: Path):
    text = "image,patient\nscan.png,P1\nscan.PNG,P2\n"
    assert read(tmp_path, text, images=set_of("scan.PNG", "scan.png"))[0] == ("P2", "P1")


@pytest.mark.parametrize("twin", ["scan.PNG", "scan.png"])
@pytest.mark.parametrize("disk", [("scan.png", "scan.PNG"), ("öl.png", "o\u0308l.png")], ids=["endings", "letters"])
def test_two_images_that_a_row_may_mean_are_refused_and_both_named(tmp_path: Path, disk, twin):
    name = twin if disk[0].startswith("scan") else disk[twin == "scan.PNG"]
    with pytest.raises(BadInputError) as told:
        read(tmp_path, f"image,patient\n{name},P1\n", images=set_of(*disk))
    assert all(f"s/x/{one}" in told.value.message for one in disk)


def test_two_rows_that_an_image_may_have_are_refused_and_both_named(tmp_path: Path):
    with pytest.raises(BadInputError, match=r"'a\.JPG', 'a\.jpg', of several groups"):
        read(tmp_path, "image,patient\na.JPG,P1\na.jpg,P2\n", images=set_of("a.Jpg"))
    assert read(tmp_path, "image,patient\na.JPG,P1\na.jpg,P1\n", images=set_of("a.Jpg")) == (("P1",), [])
