"""`hemf-export data`: from a download or a folder of scans to something that `train` takes."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hemf_export.train.datasets import checks, split_file
from tests.conftest import CLASSES, write_class_folders
from tests.train.datasets import downloads


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "scans", 20)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "split.json"
    }


def splits_of(folder: Path) -> dict[str, str]:
    """class/name → split."""
    return {name.partition("/")[2]: name.partition("/")[0] for name in files(folder)}


def test_class_folders_become_what_train_takes(scans, tmp_path, run_cli):
    code, out, err = run_cli("data", "class-folders", scans, "-o", tmp_path / "made", "--split", "0.7/0.1/0.2")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["class", "train", "val", "test", "all"],
        *([name, "14", "2", "4", "20"] for name in CLASSES),
        ["all", "42", "6", "12", "60"],
    ]
    assert f"next: hemf-export train {tmp_path / 'made'} -o runs/made" in err
    splits = checks.load_splits(tmp_path / "made")
    assert [len(images) for images in splits.values()] == [42, 6, 12]
    made = files(tmp_path / "made")
    assert Counter(made.values()) == Counter(files(scans).values()), "each image once, as it was"
    assert all(made[name] == (scans / name.partition("/")[2]).read_bytes() for name in made)


@pytest.mark.extended
def test_the_next_command_trains(scans, tmp_path, run_cli):
    assert run_cli("data", "class-folders", scans, "-o", tmp_path / "made")[0] == 0
    fast = ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "32", "--json"]
    code, out, _ = run_cli("train", tmp_path / "made", "-o", tmp_path / "run", "--device", "cpu", *fast)
    assert code == 0
    assert json.loads(out)["splits"]["test"]["images"] == 12


def test_no_patient_is_on_two_sides(scans, tmp_path, run_cli):
    lines = [f"{name}{index}.png,P{index // 3}" for name in CLASSES for index in range(20)]
    (tmp_path / "patients.csv").write_text("\n".join(["image,patient", *lines, "other.png,P9"]))
    groups = ("--groups", tmp_path / "patients.csv", "--group-column", "patient")
    code, out, err = run_cli("data", "class-folders", scans, "-o", tmp_path / "made", "--split", "0.6/0.2/0.2", *groups)
    assert code == 0
    assert "0.6/0.2/0.2 by patient, none divided, seed 0" in out
    assert "1 rows of" in err
    sides: dict[str, set[str]] = {}
    for place, split in splits_of(tmp_path / "made").items():
        sides.setdefault(dict(line.split(",") for line in lines)[Path(place).name], set()).add(split)
    assert len(sides) == 7
    assert all(len(each) == 1 for each in sides.values())
    record = split_file.read(tmp_path / "made")
    assert record["groups"]["column"] == "patient"
    assert {entry.group for entry in record["images"]} == set(sides)


def test_the_same_seed_gives_the_same_split_elsewhere(scans, tmp_path, run_cli, monkeypatch):
    other = tmp_path / "on another machine"
    for path in sorted(scans.rglob("*.png"), reverse=True):  # made in another order
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, other / path.parent.name / path.name)
    found = []
    for source, name, seed in ((scans, "a", 3), (other, "b", 3), (scans, "c", 4)):
        code, out, _ = run_cli("data", "class-folders", source, "-o", tmp_path / name, "--seed", seed, "--json")
        assert code == 0
        found.append(json.loads(out)["digest"])
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")
    assert found[0] == found[1] != found[2]


def test_images_are_linked_or_copied_as_is_said(scans, tmp_path, run_cli, monkeypatch):
    one = scans / "dark" / "dark0.png"
    assert "60 hard links" in run_cli("data", "class-folders", scans, "-o", tmp_path / "linked")[2]
    assert one.stat().st_nlink == 2
    assert "60 copies" in run_cli("data", "class-folders", scans, "-o", tmp_path / "copied", "--copy")[2]
    assert one.stat().st_nlink == 2

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert "60 copies" in run_cli("data", "class-folders", scans, "-o", tmp_path / "elsewhere")[2]
    assert files(tmp_path / "linked") == files(tmp_path / "copied") == files(tmp_path / "elsewhere")


def test_a_symbolic_link_becomes_its_image(scans, tmp_path, run_cli):
    real = tmp_path / "archive" / "scan.png"
    real.parent.mkdir()
    (scans / "dark" / "dark0.png").rename(real)
    (scans / "dark" / "dark0.png").symlink_to(real)
    assert run_cli("data", "class-folders", scans, "-o", tmp_path / "made")[0] == 0
    (made,) = (tmp_path / "made").glob("*/dark/dark0.png")
    assert not made.is_symlink()
    assert made.read_bytes() == real.read_bytes()


def test_leaving_out_unreadable_images_moves_no_other(scans, tmp_path, run_cli):
    run_cli("data", "class-folders", scans, "-o", tmp_path / "whole", "--copy")
    (scans / "dark" / "dark3.png").write_bytes(b"no image")
    code, _, err = run_cli("data", "class-folders", scans, "-o", tmp_path / "made", "--skip-unreadable")
    assert code == 0
    assert "1 unreadable images left out below" in err
    whole, made = splits_of(tmp_path / "whole"), splits_of(tmp_path / "made")
    assert whole.pop("dark/dark3.png")
    assert made == whole
    assert list(split_file.read(tmp_path / "made")["left_out"]) == ["dark/dark3.png"]


def test_images_that_are_there_twice_are_warned_of(scans, tmp_path, run_cli):
    for index in range(20):  # the same pixels in other files
        Image.open(scans / "dark" / f"dark{index}.png").save(scans / "dark" / f"again{index}.bmp")
    code, _, err = run_cli("data", "class-folders", scans, "-o", tmp_path / "made", "--split", "0.5/0.5")
    assert code == 0
    splits = splits_of(tmp_path / "made")
    divided = sum(splits[f"dark/dark{i}.png"] != splits[f"dark/again{i}.bmp"] for i in range(20))
    assert divided > 2
    assert f"{divided} images of val are also in train, pixel for pixel" in err


def test_an_empty_output_folder_is_taken(scans, tmp_path, run_cli):
    (tmp_path / "made").mkdir()
    assert run_cli("data", "class-folders", scans, "-o", tmp_path / "made")[0] == 0
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


# The three sets of the paper


def test_isic2018_from_folders_and_from_archives(tmp_path, run_cli):
    source = downloads.isic2018(tmp_path / "download")
    code, out, err = run_cli("data", "isic2018", source, "-o", tmp_path / "made")
    assert code == 0
    assert "0.6/0.1/0.3 by the authors' algorithm, seed 123" in out
    assert ["MEL", "6", "1", "3", "10"] in [line.split() for line in out.splitlines()]
    assert "not the images that the paper counts: MEL 10 (paper: 1113)" in err
    for name in (downloads.ISIC_INPUT, downloads.ISIC_TRUTH):
        downloads.pack(source / name)
    code, _, err = run_cli("data", "isic2018", source, "-o", tmp_path / "unpacked")
    assert code == 0
    assert "70 copies" in err
    assert files(tmp_path / "made") == files(tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").glob(".*"))
    records = [split_file.read(tmp_path / name) for name in ("made", "unpacked")]
    assert records[0] == records[1]
    assert records[0]["images"][0].source.startswith(f"{downloads.ISIC_INPUT}/ISIC_00")


def test_isic2018_by_lesion(tmp_path, run_cli):
    source = downloads.isic2018(tmp_path / "download")
    lines = [f"ISIC_{24306 + i:07d},HAM_{i // 14},histopathology" for i in range(70)]
    (source / "lesions.csv").write_text("\n".join(["image,lesion_id,diagnosis_confirm_type", *lines]))
    groups = ("--groups", source / "lesions.csv", "--group-column", "lesion_id")
    code, out, _ = run_cli("data", "isic2018", source, "-o", tmp_path / "made", *groups)
    assert code == 0
    assert "0.6/0.1/0.3 by lesion_id, none divided" in out


def test_the_folds_of_kvasir(tmp_path, run_cli):
    source = downloads.kvasir(tmp_path / "download")
    made = []
    for number in ("1", "2"):
        code, out, err = run_cli("data", "kvasir", source, "-o", tmp_path / number, "--fold", number)
        assert code == 0
        assert f"fold {number} of 2, seed 123" in out
        assert "not known" in err
        assert f"Train on --fold {3 - int(number)} as well" in err
        made.append(splits_of(tmp_path / number))
    swapped = {"train": "val", "val": "train"}
    assert made[1] == {place: swapped[split] for place, split in made[0].items()}
    downloads.pack(source / "kvasir-dataset")
    assert run_cli("data", "kvasir", source, "-o", tmp_path / "unpacked")[0] == 0
    assert splits_of(tmp_path / "unpacked") == made[0]


def test_covid_ct_by_the_papers_shares_and_by_its_own_lists(tmp_path, run_cli):
    source = downloads.covid_ct(tmp_path / "download")
    code, out, err = run_cli("data", "covid-ct", source, "-o", tmp_path / "paper")
    assert code == 0
    assert "0.6/0.15/0.25 by the authors' algorithm" in out
    assert "not exactly theirs" in err
    assert Counter(splits_of(tmp_path / "paper").values()) == {"train": 12, "val": 4, "test": 4}
    for name in ("CT_COVID", "CT_NonCOVID"):
        downloads.pack(source / "Images-processed" / name)
    code, out, _ = run_cli("data", "covid-ct", source, "-o", tmp_path / "lists", "--published-split")
    assert code == 0
    assert "the split published with it" in out
    expected = {f"{name}/2020.{i}%1.png": "train" if i < 6 else "val" if i < 7 else "test"
                for name in ("CT_COVID", "CT_NonCOVID") for i in range(10)}  # fmt: skip
    assert splits_of(tmp_path / "lists") == expected
