"""Checkpoints: what is written comes back, the same content gives the same bytes, the authors' files are taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import BadInputError
from tests.conftest import tiny_checkpoint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_saved_comes_back(tmp_path: Path, suffix):
    saved = tiny_checkpoint()
    path = tmp_path / f"model{suffix}"
    checkpoint.save(saved, path)
    loaded = checkpoint.load(path)
    assert (loaded.config, loaded.classes, loaded.preprocess) == (saved.config, saved.classes, saved.preprocess)
    assert all(torch.equal(value, loaded.state[name]) for name, value in saved.state.items())
    assert len(loaded.sha256) == 64
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(saved.model()(images), loaded.model()(images))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    for name in ("a.pt", "b.pt"):
        checkpoint.save(tiny_checkpoint(), tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_the_model_does_not_share_memory_with_the_checkpoint():
    saved = tiny_checkpoint()
    model = saved.model()
    with torch.no_grad():
        model.head.weight.zero_()
    assert saved.state["head.weight"].any()


@pytest.mark.parametrize("layout", ["bare", "in a training state, of a compiled and distributed network"])
def test_the_authors_files_are_taken_directly(tmp_path: Path, authors, layout):
    state = {key: torch.from_numpy(np.array(value)) for key, value in authors.state_dict(3, 0).items()}
    if layout != "bare":
        state = {"net": {f"_orig_mod.module.{key}": value for key, value in state.items()}, "epoch": 7}
    path = tmp_path / "best_model.pth"
    torch.save(state, path)
    (tmp_path / "class_indices.json").write_text(json.dumps({"0": "Platelets", "1": "RBC", "2": "WBC"}))
    loaded = checkpoint.load(path)
    assert loaded.classes == ("Platelets", "RBC", "WBC")
    assert loaded.config.name == "hemf-base"
    assert len(loaded.dropped) == 43
    assert {name.split(".")[1] for name in loaded.dropped if name.startswith("fu1")} == {"Updim", "norm1", "W3"}
    assert {name.split(".")[1] for name in loaded.dropped if not name.startswith("fu1")} == {"norm2", "W"}


def test_a_real_trained_file_gives_its_published_logits(shared):
    from hemf_export.images.folders import class_folders

    published = np.load(shared / "authors-model" / "trained_blood_cells_test.npz")
    loaded = checkpoint.load(shared / "authors-model" / "trained_blood_cells.fp16.safetensors")
    assert loaded.classes == tuple(published["classes"])
    images = class_folders(shared / "data" / "blood_cells" / "test", loaded.classes).spread(6)
    index = {name: row for row, name in enumerate(published["names"])}
    pixels = np.stack([loaded.preprocess.load(path) for path in images.paths])
    with torch.no_grad():
        logits = loaded.model()(torch.from_numpy(loaded.preprocess.normalize(pixels))).numpy()
    expected = np.stack([published["logits"][index[f"{path.parent.name}/{path.name}"]] for path in images.paths])
    assert np.abs(logits - expected).max() < 1e-4


def test_other_position_tables_than_the_networks_are_refused(tmp_path: Path, authors):
    state = {key: torch.from_numpy(np.array(value)) for key, value in authors.state_dict(2, 0).items()}
    state["stages2.1.RetNetRelPos2d.decay"] *= 1.1
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(BadInputError, match=r"stages2\.1\.RetNetRelPos2d\.decay"):
        checkpoint.load(tmp_path / "m.pth")


def test_class_names_that_disagree_with_the_file_are_refused(checkpoint_file: Path):
    with pytest.raises(BadInputError, match="has the classes bright, dark, striped"):
        checkpoint.load(checkpoint_file, classes=("x", "y", "z"))
