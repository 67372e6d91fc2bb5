"""Data folders whose splits and classes don't fit: refused with everything that is wrong, before the first epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import write_class_folders, write_images
from tests.hostile.conftest import cut, train


def test_class_folders_that_are_not_divided_are_recognized(tmp_path: Path, refused):
    write_class_folders(tmp_path / "scans", 3)
    (tmp_path / "run").mkdir()
    message = refused(*train(tmp_path / "scans", tmp_path / "run"), names="has no train/ and val/")
    assert "divide them with hemf-export data" in " ".join(message.split())


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_class_is_named(tmp_path: Path, image_data: Path, refused, split):
    folder = image_data / split / "dark"
    for path in folder.iterdir():
        path.unlink()
    (folder / ".DS_Store").touch()
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=folder)
    assert "has no images" in message


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_differ_between_splits_are_told(tmp_path: Path, image_data: Path, refused, split):
    (image_data / split / "dark").rename(image_data / split / "Dark")
    write_images(image_data / split / "grey", 1, "dark")
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=image_data / split)
    assert "missing dark; unexpected Dark, grey" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named(tmp_path: Path, image_data: Path, refused, split):
    (image_data / split).rename(image_data / "elsewhere")
    (tmp_path / "run").mkdir()
    refused(*train(image_data, tmp_path / "run"), names=f"{image_data / split} is not a folder")


@pytest.mark.parametrize("kind", ["image", "broken link"])
def test_what_lies_beside_the_class_folders_is_not_passed_over(tmp_path: Path, image_data: Path, refused, kind):
    if kind == "image":
        write_images(image_data / "train", 1, "dark")
        stray = "dark0.png"
    else:
        (image_data / "train" / "striped2").symlink_to(tmp_path / "not there")
        stray = "striped2"
    (image_data / "train" / "labels.csv").write_text("a list is fine")
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=image_data / "train" / stray)
    assert "1 entries of" in message
    assert "labels.csv" not in message


def test_all_that_is_wrong_with_the_classes_is_told_at_once(tmp_path: Path, image_data: Path, refused):
    for split, name in (("train", "dark"), ("train", "striped"), ("test", "bright")):
        for path in (image_data / split / name).iterdir():
            path.unlink()
    (image_data / "val" / "dark").rename(image_data / "val" / "grey")
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=f"3 splits below {image_data} can't be used")
    assert (
        f"2 class folders have no images: {image_data / 'train' / 'dark'}; {image_data / 'train' / 'striped'}"
        in message
    )
    assert (
        f"The classes of {image_data / 'val'} differ from the expected ones: missing dark; unexpected grey" in message
    )
    assert f"The class folder {image_data / 'test' / 'bright'} has no images" in message


def test_unreadable_images_of_all_splits_are_named_at_once(tmp_path: Path, image_data: Path, refused):
    broken = [cut(path) for split in ("train", "val", "test") for path in sorted((image_data / split).glob("*/*"))]
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=f"24 of 24 images below {image_data / 'train'}")
    assert all(str(path) in message for path in broken)


def test_the_same_image_in_two_splits_is_warned_of_and_counted(tmp_path: Path, image_data: Path, run_cli, trained_on):
    first = sorted((image_data / "train" / "dark").iterdir())
    for index in range(7):
        (image_data / "val" / "dark" / f"copy{index}.png").write_bytes(first[index].read_bytes())
    Image.open(first[0]).save(image_data / "test" / "dark" / "re-encoded.bmp")
    code, _, stderr = run_cli(*train(image_data, tmp_path / "run", "--json"))
    assert code == 0
    assert "7 images of val are also in train, pixel for pixel" in stderr
    assert f"{image_data / 'val' / 'dark' / 'copy0.png'} = {first[0]}" in stderr
    assert "and 2 more" in stderr
    assert "1 images of test are also in train" in stderr
    assert "1 images of test are also in val" in stderr
    assert "two classes" not in stderr
    assert len(trained_on[0].trainer.job.validation) == 19, "nothing is left out"


def test_the_same_image_in_two_classes_is_warned_of(tmp_path: Path, image_data: Path, run_cli, trained_on):
    twin = image_data / "train" / "bright" / "z.png"
    twin.write_bytes((image_data / "train" / "dark" / "dark0.png").read_bytes())
    code, _, stderr = run_cli(*train(image_data, tmp_path / "run", "--json"))
    assert code == 0
    assert "1 images are in two classes, pixel for pixel" in stderr
    assert str(twin) in stderr


def test_splits_without_common_images_are_not_warned_of(tmp_path: Path, image_data: Path, run_cli, trained_on):
    code, _, stderr = run_cli(*train(image_data, tmp_path / "run", "--json"))
    assert code == 0
    assert "warning" not in stderr


def test_one_class_is_no_classification(tmp_path: Path, refused):
    for split in ("train", "val"):
        write_images(tmp_path / "data" / split / "dark", 3, "dark")
    (tmp_path / "run").mkdir()
    refused(*train(tmp_path / "data", tmp_path / "run"), names="has one class, dark")
