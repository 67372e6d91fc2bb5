"""A set whose images use little of their range is told of, wherever a set is first read through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemf_export.calibration.image_set import select
from hemf_export.checkpoints import checkpoint
from hemf_export.evaluation import evaluation
from hemf_export.images.grey_levels import GreyLevels
from hemf_export.images.images import Preprocess, decode
from hemf_export.images.model_input import ModelInput
from hemf_export.models.model_file import ModelFile
from hemf_export.train.datasets import checks
from hemf_export.train.datasets.preparation import Request, prepare
from tests.conftest import CLASSES, Recorder, tiny_checkpoint
from tests.images.tiff_files import Page, tiff


def write(folder: Path, bits: int, *, count: int = 6, offset: int = 0, stored: int = 16, seed: int = 0) -> Path:
    """Grey images of so many bits in files of more, from `offset` on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        values = np.random.default_rng([bits, index, seed]).integers(0, 1 << bits, (40, 40)) + offset
        values[0, :2] = offset, offset + (1 << bits) - 1
        Image.fromarray(values.astype(np.uint16 if stored == 16 else np.uint8)).save(folder / f"{bits}-{index}.png")
    return folder


def noted(folder: Path) -> list[str]:
    levels = GreyLevels()
    for path in sorted(folder.iterdir()):
        levels.look(decode(path))
    return levels.notes("the set")


@pytest.mark.parametrize(("bits", "highest"), [(10, 4), (12, 16), (13, 32), (14, 64)])
def test_few_bits_in_many_are_told_with_the_highest_level(tmp_path: Path, bits, highest):
    (note,) = noted(write(tmp_path, bits))
    assert f"The 6 images of 16 bits a sample in the set have no higher grey level than {highest}, of" in note
    assert f"Probably {bits} bits or so were stored in 16" in note


@pytest.mark.parametrize(("bits", "stored"), [(16, 16), (15, 16), (8, 8), (7, 8), (6, 8)])
def test_sets_that_use_their_range_are_not_told_of(tmp_path: Path, bits, stored):
    assert not noted(write(tmp_path, bits, stored=stored))


def test_8_bits_that_are_almost_black_are_told_of(tmp_path: Path):
    (note,) = noted(write(tmp_path, 4, stored=8))
    assert "of 8 bits a sample" in note
    assert "no higher grey level than 15" in note


def test_numbers_around_the_middle_are_told_of(tmp_path: Path):
    """Of a CT, signed, with 32,768 added."""
    (note,) = noted(write(tmp_path, 12, offset=32768 - 1024))
    assert "grey levels of 124 to 139 alone" in note


def test_white_as_zero_is_told_of(tmp_path: Path):
    for index in range(3):
        values = np.random.default_rng(index).integers(0, 4096, (20, 20))
        (tmp_path / f"{index}.tif").write_bytes(tiff(Page(values, 16, 0)))
    (note,) = noted(tmp_path)
    assert "grey levels of 239 to 255 alone" in note


def test_the_scans_among_photographs_are_told_of(tmp_path: Path):
    write(tmp_path, 12)
    write(tmp_path, 8, stored=8)
    (note,) = noted(tmp_path)
    assert "The 6 images of 16 bits" in note


def test_one_bright_image_is_enough(tmp_path: Path):
    write(tmp_path, 12)
    write(tmp_path, 16, count=1)
    assert not noted(tmp_path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for split, count in (("train", 8), ("val", 2)):
        for seed, name in enumerate(CLASSES):
            write(tmp_path / "scans" / split / name, 12, count=count, seed=10 * count + seed)
    return tmp_path / "scans"


TOLD = "no higher grey level than 16"


def test_training_tells(scans: Path):
    checked = checks.check(checks.load_splits(scans), skip=False)
    assert sum(TOLD in note for note in checked.notes) == 1
    assert any(f"The 30 images of 16 bits a sample in {scans} " in note for note in checked.notes)


def test_preparing_a_data_set_tells(scans: Path, tmp_path: Path):
    made = prepare(Request("class-folders", scans / "train", tmp_path / "made"))
    assert sum(TOLD in note for note in made.notes) == 1


def test_choosing_calibration_images_tells(scans: Path):
    notes = select(scans, ModelInput(Preprocess.for_size(16)), CLASSES).notes
    assert sum(TOLD in note for note in notes) == 1


def test_predicting_and_evaluating_tell(scans: Path, tmp_path: Path):
    saved = tmp_path / "best.pt"
    checkpoint.save(tiny_checkpoint(), saved)
    found = evaluation.evaluate(evaluation.Request((saved,), (scans,)))
    assert [TOLD in note for note in found.notes] == [True]
    progress = Recorder()
    ModelFile.open(saved).predictor().predict([scans / "val"], progress=progress)
    assert [TOLD in note for note in progress.notes] == [True]
