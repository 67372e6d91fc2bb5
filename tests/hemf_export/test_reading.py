"""`--weights` and `--image-size`: given once, at the export; the ONNX file says how its checkpoint was read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.bench import lineup
from hemf_export.bundles import model_card
from hemf_export.checkpoints.reading import Reading
from hemf_export.cli.commands import ship as ship_command
from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.models import predictor
from hemf_export.models.model_file import OnnxFile
from hemf_export.shipping.options import Options
from hemf_export.triton import servable
from hemf_export.verification import verification
from tests.conftest import CLASSES, TINY, tiny_checkpoint, write_class_folders

SIZE = 64
OWN, MEAN = tiny_checkpoint(config=TINY), tiny_checkpoint(seed=1, config=TINY)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the averaged weights of a checkpoint that has others too, and doesn't say its size."""
    folder = tmp_path_factory.mktemp("exported")
    torch.save({"model": OWN.state, "ema": MEAN.state, "classes": list(CLASSES)}, folder / "best.ckpt")
    reading = Reading(weights="ema", image_size=SIZE)
    onnx_export.export(folder / "best.ckpt", folder / "best.onnx", onnx_export.Options(), reading=reading)
    return folder / "best.onnx"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("images"), 2)


def test_the_onnx_file_and_its_manifest_say_how_the_checkpoint_was_read(exported: Path):
    described = OnnxFile.open(exported).stored_description
    assert described is not None
    assert described.reading == Reading("ema", SIZE)
    manifest = artifacts.read_manifest(exported)
    assert manifest is not None
    assert manifest["reading"] == {"weights": "ema", "image_size": SIZE}
    assert manifest["provenance"] == {"layout": "state dict", "weights": "ema"}


def test_verify_compares_with_the_weights_that_were_exported(exported: Path, images: Path):
    found = verification.verify(verification.Request((exported,), images))
    assert found.passed
    other = verification.verify(verification.Request((exported,), images, reading=Reading("model", SIZE)))
    assert not other.passed


def test_bench_and_bundle_read_it_likewise(exported: Path):
    found = lineup.gather([exported], Path(), kinds=("eager",), transfers="in", gpu=False)
    assert [entry.description.reading for entry in found.entries] == [Reading("ema", SIZE)]
    assert any("taken from 'ema'" in note for note in found.notes)
    told = model_card.read_training(exported.parent / "best.ckpt", [servable.read(exported)])
    assert told is not None
    assert told["weights"] == "ema"


def test_predict_takes_the_weights_that_are_named(exported: Path, images: Path, run_cli):
    path = exported.parent / "best.ckpt"
    picture = next(images.rglob("*.png"))
    taken = {}
    for key, saved in (("model", OWN), ("ema", MEAN)):
        code, out, err = run_cli("predict", path, picture, "--weights", key, "--image-size", SIZE, "--json")
        assert code == 0, err
        with torch.no_grad():
            logits = saved.model()(torch.from_numpy(saved.preprocess.normalize(saved.preprocess.load(picture)[None])))
        taken[key] = list(json.loads(out)["predictions"][0]["probabilities"].values())
        np.testing.assert_allclose(taken[key], predictor.softmax(logits.numpy())[0], atol=1e-6)
    assert taken["model"] != taken["ema"]


def test_what_is_assumed_is_told_by_every_command_that_tells_notes(
    exported: Path, images: Path, tmp_path: Path, run_cli
):
    path = tmp_path / "best.pth"
    torch.save(OWN.state, path)
    for words in (["inspect", path], ["inspect", path, "--json"], ["info", path, "--json"]):
        code, _, err = run_cli(*words)
        assert code == 0, err
        assert "224 pixels are assumed (--image-size N says another)" in err
    code, out, err = run_cli("inspect", path, "--image-size", SIZE, "--json")
    assert code == 0
    assert "assumed (--image" not in err
    assert json.loads(out)["config"]["image_size"] == SIZE


def test_options_for_a_checkpoint_are_refused_for_other_files(exported: Path, images: Path, tmp_path: Path, run_cli):
    picture = next(images.rglob("*.png"))
    for words, code in (
        (["predict", exported, picture, "--weights", "ema"], 1),
        (["predict", exported, picture, "--image-size", "96"], 1),
        (["inspect", exported, "--weights", "ema"], 1),
        (["evaluate", exported, "--data", images, "-o", tmp_path / "out", "--weights", "ema"], 2),
        (["trt", exported, "--fp16", "--image-size", "96"], 2),
        (["inspect", exported.parent / "best.ckpt", "--image-size", "0"], 2),
    ):
        found, _, err = run_cli(*words)
        assert found in (code, 4), err
        assert found == 4 or "--weights" in err or "--image-size" in err
    assert run_cli("predict", exported, picture, "--image-size", SIZE)[0] == 0, "its own size"


def test_ship_passes_them_on():
    assert Options(weights="ema", image_size=96).reading == Reading("ema", 96)
    assert Options().reading == Reading()
    names = {parameter.name for parameter in ship_command.command.params}
    assert {"weights", "image_size"} <= names
