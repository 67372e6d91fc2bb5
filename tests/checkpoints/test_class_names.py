"""Class names out of files of other programs: which side of a mapping is the label is told by its types, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hemf_export.checkpoints import checkpoint, class_names
from hemf_export.files.errors import BadInputError
from hemf_export.images.folders import class_folders
from tests.conftest import TINY, tiny_checkpoint, write_images

FOLDERS = [str(number) for number in range(11)]


def image_folder_indices(names: list[str]) -> dict[str, int]:
    """What torchvision's ImageFolder numbers class folders by: their names, sorted as text."""
    return {name: label for label, name in enumerate(sorted(names))}


def test_class_folders_named_by_numbers_keep_torchvisions_order(tmp_path: Path):
    for name in FOLDERS:
        write_images(tmp_path / name, 1, "dark")
    indices = image_folder_indices(FOLDERS)
    names = class_names.parse(indices, "it")
    assert names == ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9")
    assert class_folders(tmp_path).classes == names
    assert class_folders(tmp_path, FOLDERS).classes == tuple(FOLDERS), "a network's own order wins, matched by name"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"benign": 0, "malignant": 1}, ("benign", "malignant")),
        ({"10": 1, "2": 0}, ("2", "10")),
        ({"1": "b", "0": "a", "2": "c"}, ("a", "b", "c")),
        ({"a": "1", "b": "0"}, ("b", "a")),
        ({1: "b", 0: "a"}, ("a", "b")),
        ({str(label): f"n{label}" for label in range(12)}, tuple(f"n{label}" for label in range(12))),
        (["x", "y"], ("x", "y")),
        ("x, y,z", ("x", "y", "z")),
        ('["x, y", "z"]', ("x, y", "z")),
        ('{"x": 1, "y": 0}', ("y", "x")),
    ],
)
def test_names_in_the_order_of_their_labels(value, names):
    assert class_names.parse(value, "it") == names


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"0": "1", "1": "2", "2": "0"}, "numbers as text on both sides"),
        ({"0": "0", "1": "1"}, "numbers as text on both sides"),
        ({"a": 0.0, "b": 1.0}, "it has float, str"),
        ({"a": False, "b": True}, "it has bool, str"),
        ({"a": 0, "b": "1"}, "it has int, str"),
        ({"a": None, "b": None}, "it has NoneType, str"),
        ({"a": 0, "b": 2}, "without a gap"),
        ({"a": 0, "b": 0}, "without a gap"),
        ({"²": "a", "³": "b"}, "doesn't map labels"),
        ([1, 2], "no names of classes"),
        (3.5, "no names of classes"),
    ],
)
def test_what_could_be_read_either_way_is_refused_with_the_way_to_say_it(value, told):
    with pytest.raises(BadInputError, match=told) as caught:
        class_names.parse(value, "it")
    assert "`classes=(a, b, c)`" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "{", '{"a": 0, "a": 1}', "[" * 100_000, "3"])
def test_a_file_that_names_no_classes_is_refused_by_its_name(tmp_path: Path, text):
    path = tmp_path / "class_indices.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"class_indices\.json"):
        class_names.read(path)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A state dict of three outputs that names no classes."""
    torch.save(tiny_checkpoint(config=TINY).state, tmp_path / "best_model.pth")
    return tmp_path / "best_model.pth"


def test_a_class_to_idx_beside_a_checkpoint_names_its_outputs(bare: Path):
    (bare.parent / "class_indices.json").write_text(json.dumps(image_folder_indices(["2", "10", "1"])))
    assert checkpoint.load(bare).classes == ("1", "10", "2")


def test_an_unclear_file_beside_a_checkpoint_is_refused_until_names_are_given(bare: Path):
    (bare.parent / "class_indices.json").write_text(json.dumps({"0": "2", "1": "0", "2": "1"}))
    with pytest.raises(BadInputError, match="both sides"):
        checkpoint.load(bare)
    assert checkpoint.load(bare, classes=("x", "y", "z")).classes == ("x", "y", "z")


def test_names_given_against_a_file_beside_the_checkpoint_are_taken_and_told(bare: Path):
    (bare.parent / "class_indices.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2}))
    loaded = checkpoint.load(bare, classes=("c", "b", "a"))
    assert loaded.classes == ("c", "b", "a")
    assert any("class_indices.json" in note and "a, b, c" in note for note in loaded.notes)
