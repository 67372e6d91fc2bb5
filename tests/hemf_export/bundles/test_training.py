"""What a bundle's model card tells of the training: the checkpoint's own words, where it is at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hemf_export.bundles import making
from hemf_export.files import artifacts
from tests.hemf_export.bundles import packing


def card(files: Path, output: Path, checkpoint: Path | None = None) -> str:
    request = making.Request((files,), output, golden=0, checkpoint=checkpoint, triton=False, cpp=False)
    return packing.entries(making.make(request).path)["MODEL_CARD.md"].decode()


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> Path:
    """The trained file without its checkpoint."""
    for path in (trained, artifacts.manifest_path(trained)):
        shutil.copy(path, tmp_path)
    return tmp_path / trained.name


def test_images_and_recipe_are_those_of_the_checkpoint(trained, tmp_path):
    found = card(trained, tmp_path / "m.tar.zst")
    assert "- Training: 48 images of `train` (bright 16, dark 16, striped 16), names' SHA-256 " in found
    assert "- Choice of the epoch: 48 images of `val` (bright 16, dark 16, striped 16)" in found
    assert "- Recipe: the paper's (Table 5), but epochs 8, batch_size 8, learning_rate 0.001\n" in found


def test_without_the_checkpoint_nothing_is_made_up(trained, alone, tmp_path):
    found = card(alone, tmp_path / "m.tar.zst")
    assert "- Training: not stated, the checkpoint was neither beside the files nor named." in found
    assert "Recipe" not in found
    beside, named = tmp_path / "beside", tmp_path / "named"
    beside.mkdir()
    named.mkdir()
    told = card(alone, named / "m.tar.zst", trained.parent / "best.pt")
    assert told == card(trained, beside / "m.tar.zst")


def test_a_checkpoint_that_says_nothing(proven, tmp_path):
    assert "- Training: not stated in the checkpoint." in card(proven.onnx, tmp_path / "m.tar.zst")


def test_another_checkpoint_is_refused(alone, proven, tmp_path, refused):
    arguments = [alone, "--checkpoint", proven.folder / "model.pt", "-o", tmp_path / "m.tar.zst"]
    assert "is not the checkpoint that best.onnx was made from" in refused("bundle", *arguments)
