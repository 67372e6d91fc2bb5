"""Data sets as they come: cut files, lists that don't fit, a full disk, a folder that is in use, a changed split.

Each is refused by name, and leaves what was there and nothing else.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from hemf_export.files import artifact_folder
from hemf_export.files.errors import BadInputError
from hemf_export.train.datasets import published_sets
from tests.conftest import CLASSES, write_class_folders, write_images
from tests.hostile.conftest import contents, one_message
from tests.train.datasets import downloads


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "scans", 20)


# What is wrong with the images


def test_all_unreadable_images_are_named_and_nothing_is_made(scans, tmp_path, refused):
    broken = [scans / name / f"{name}{index}.png" for name in CLASSES for index in range(0, 20, 2)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    message = refused("data", "class-folders", scans, "-o", tmp_path / "made", names=broken[0])
    assert "30 of 60 images" in message
    assert all(str(path) in message for path in broken)
    assert "--skip-unreadable" in message


def test_classes_too_small_to_divide_are_named(scans, tmp_path, refused):
    write_images(scans / "rare", 2, "dark", seed=5)
    message = refused("data", "class-folders", scans, "-o", tmp_path / "made", names="rare: none in")
    assert "2 in all" in message


# Names as other systems write them


def renamed(root: Path, form: str, *, ending: bool = False) -> None:
    """Every name below a folder in another form of Unicode, as an archive from a Mac has it."""
    for path in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        name = unicodedata.normalize(form, path.name)
        if ending and path.is_file():
            name = f"{Path(name).stem}{Path(name).suffix.upper()}"
        path.rename(path.with_name(name))


@pytest.mark.parametrize("ending", [False, True], ids=["letters", "endings"])
def test_a_split_that_went_through_a_mac_is_still_the_split(scans, tmp_path, run_cli, ending):
    made = tmp_path / "made"
    (scans / "dark").rename(scans / "Prüfung")
    for path in (scans / "Prüfung").iterdir():
        path.rename(path.with_name(f"Größe {path.name}"))
    assert run_cli("data", "class-folders", scans, "-o", made, "--copy")[0] == 0
    for split in ("train", "val", "test"):
        renamed(made / split, "NFD", ending=ending)
    assert run_cli("data", "check", made)[0] == 0
    some = next((made / "train").glob("Pr*/*"))
    some.write_bytes(b"other")
    code, _, stderr = run_cli("data", "check", made)
    assert (code, "1 changed: " in stderr) == (3, True)


def test_lists_of_a_published_set_name_images_that_went_through_a_mac(tmp_path):
    root = downloads.covid_ct(tmp_path / "c")
    for text in (root / "Data-split").rglob("*.txt"):
        text.write_text(text.read_text().replace("2020", "März"), encoding="utf-8")
    for path in (root / "Images-processed").rglob("*.png"):
        path.rename(
            path.with_name(unicodedata.normalize("NFD", path.name.replace("2020", "März")).replace("png", "PNG"))
        )
    images = published_sets.find("covid-ct", root, tmp_path / "unpacked")
    assert published_sets.published_split(root, images).count("train") == 12
    twin = images.paths[0]
    (twin.parent / twin.name.replace("PNG", "png")).write_bytes(twin.read_bytes())
    images = published_sets.find("covid-ct", root, tmp_path / "unpacked")
    with pytest.raises(BadInputError, match="can't be told apart"):
        published_sets.published_split(root, images)


def test_two_images_of_one_number_in_isic_are_refused_and_both_named(tmp_path):
    root = downloads.isic2018(tmp_path / "isic")
    first = min((root / downloads.ISIC_INPUT).glob("*.jpg"))
    first.with_suffix(".png").write_bytes(first.read_bytes())
    with pytest.raises(BadInputError, match=rf"{first.stem}\.jpg and .*{first.stem}\.png can't be told apart"):
        published_sets.find("isic2018", root, tmp_path / "unpacked")


# What goes wrong while writing


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [(OSError(28, "No space left on device"), 1, "No space left"), (KeyboardInterrupt(), 130, "Interrupted")],
    ids=["disk full", "Ctrl-C"],
)
@pytest.mark.parametrize("written", [0, 1, 30, 59])
def test_nothing_half_made_is_left(scans, tmp_path, run_cli, monkeypatch, raised, code, told, written):
    real, calls = artifact_folder.link_or_copy, []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) > written:
            raise raised
        return real(*arguments, **options)

    monkeypatch.setattr(artifact_folder, "link_or_copy", fail)
    before = contents(tmp_path)
    found, _, err = run_cli("data", "class-folders", scans, "-o", tmp_path / "made")
    assert found == code
    assert told in one_message(err)
    assert contents(tmp_path) == before


def test_an_output_that_is_in_use_is_refused(scans, tmp_path, refused):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, told in (("full", "is not empty"), ("file", "is a file"), ("file/made", "Can't write")):
        place = tmp_path / name.split("/")[0]
        message = refused("data", "class-folders", scans, "-o", tmp_path / name, names=place)
        assert told in message
    refused("data", "class-folders", scans, "-o", scans / "made", names="lies in the source")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["class-folders", "SOURCE", "-o", "OUT", "--groups", "a.csv"], "go together"),
        (["class-folders", "SOURCE", "-o", "OUT", "--split", "0.9/0.9"], "don't add up to 1"),
        (["kvasir", "SOURCE", "-o", "OUT", "--fold", "2", "--split", "0.7/0.3"], "combined with --split"),
        (
            ["covid-ct", "SOURCE", "-o", "OUT", "--published-split", "--seed", "1"],
            "combined with --split, --groups or --seed",
        ),
        (["class-folder", "SOURCE", "-o", "OUT"], "class-folder"),
    ],
)
def test_wrong_calls_are_exit_2(scans, tmp_path, refused, words, told):
    places = {"SOURCE": scans, "OUT": tmp_path / "made"}
    refused("data", *(places.get(word, word) for word in words), names=told, code=2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[3].__setitem__(slice(1, 3), [1.0, 1.0]), r"line 5: ISIC_0024309 is not of one class"),
        (lambda rows: rows[3].__setitem__(1, "yes"), r"line 5: could not convert"),
        (lambda rows: rows.append(rows[0]), r"line 72: ISIC_0024306 is listed twice"),
        (lambda rows: rows.append(["ISIC_9", 1.0, *[0.0] * 6]), r"1 images of .* are not in .*: ISIC_9"),
        (lambda rows: rows.pop(), r"1 images of .* are not in .*: ISIC_0024375"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused(tmp_path, change, told):
    source = downloads.isic2018(tmp_path / "download")
    rows = [[f"ISIC_{24306 + i:07d}", *(float(k == i % 7) for k in range(7))] for i in range(70)]
    change(rows)
    downloads.write_truth(source, rows)
    with pytest.raises(BadInputError, match=told):
        published_sets.find("isic2018", source, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("text", "told"),
    [("2020.6%1.png\n2020.0%1.png\n", "is in the lists of train and of val"), ("", "1 images are in no list"),
     ("2020.6%1.png\nlost.png\n", "1 names of the lists have no image")],
)  # fmt: skip
def test_lists_that_do_not_fit_the_images_are_refused(tmp_path, refused, text, told):
    source = downloads.covid_ct(tmp_path / "download")
    (source / "Data-split" / "COVID" / "valCT_COVID.txt").write_text(text)
    refused("data", "covid-ct", source, "-o", tmp_path / "made", "--published-split", names=told)


@pytest.mark.parametrize(
    ("name", "told"),
    [("isic2018", "ISIC2018_Task3_Training_Input.zip"), ("kvasir", "kvasir-dataset.zip"), ("covid-ct", "CT_COVID.zip")],
)
def test_a_download_that_is_not_there_is_told_by_name(tmp_path, refused, name, told):
    (tmp_path / "download").mkdir()
    refused("data", name, tmp_path / "download", "-o", tmp_path / "made", names=told)


def test_check_finds_what_was_changed(scans, tmp_path, run_cli):
    made = tmp_path / "made"
    run_cli("data", "class-folders", scans, "-o", made, "--copy")
    code, out, _ = run_cli("data", "check", made)
    assert code == 0
    assert "all 60 images are as split.json lists them" in out
    paths = sorted(made.glob("train/*/*"))
    paths[0].write_bytes(paths[1].read_bytes())
    paths[2].unlink()
    paths[3].rename(made / "val" / "dark" / paths[3].name)
    code, out, err = run_cli("data", "check", made, "--json")
    assert code == 3
    value = json.loads(out)
    assert value["changed"] == [paths[0].relative_to(made).as_posix()]
    assert len(value["missing"]) == 2
    assert value["not listed"] == [f"val/dark/{paths[3].name}"]
    assert "1 changed" in err


def test_a_changed_record_is_refused(scans, tmp_path, run_cli):
    made = tmp_path / "made"
    run_cli("data", "class-folders", scans, "-o", made)
    text = (made / "split.json").read_text()
    for changed, told in (
        (text.replace("train/dark/dark", "val/dark/dark", 1), "was changed"),
        (text[:100], "is not a valid split file"),
        ("[]", "is not a valid split file"),
        (text.replace('"format": 1', '"format": 2'), "of format 2"),
    ):
        (made / "split.json").write_text(changed)
        code, _, err = run_cli("data", "check", made)
        assert code == 1
        assert told in err
    (made / "split.json").unlink()
    assert run_cli("data", "check", made)[0] == 1
