"""A file that lies where a graph or an engine would be written: built from, replaced by its like, or left alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from hemf_export.checkpoints import checkpoint
from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.models.model_file import OnnxFile
from hemf_export.networks.hemf.variants import vary
from hemf_export.precision import earlier_file, quantize
from hemf_export.precision.earlier_file import Recipe, WouldReplaceError
from hemf_export.precision.quantization_request import Request
from tests.calibration import classifiers
from tests.conftest import TINY, once, tiny_checkpoint
from tests.hemf_export.test_proof import earlier

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

LOOSE = ("--max-logit-diff", "100", "--min-agreement", "0")  # an untrained network
FEW = ("--count", "6", "--held-out-count", "6")


@pytest.fixture(scope="session")
def measured(one_branch: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 file with the FP16 one beside it that `calibrate` makes."""

    def make(folder: Path) -> None:
        copy(one_branch.parent, folder)
        quantize.make(Request(folder / "model.onnx", images=pictures, count=6, held_out_count=6))

    return once(tmp_path_factory, "measured", make) / "model.fp16.onnx"


@pytest.fixture(scope="session")
def structural(one_branch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 file with the FP16 one beside it that is made without images."""

    def make(folder: Path) -> None:
        copy(one_branch.parent, folder)
        quantize.make(Request(folder / "model.onnx"))

    return once(tmp_path_factory, "structural", make) / "model.fp16.onnx"


def copy(source: Path, folder: Path) -> Path:
    """All files of a folder; the float32 file among them."""
    for path in source.iterdir():
        shutil.copy(path, folder)
    return folder / "model.onnx"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def refused(run_cli) -> Callable[..., str]:
    """Run a command that may touch nothing: its message."""

    def call(folder: Path, *words: object) -> str:
        before = contents(folder)
        code, _, err = run_cli(*words)
        assert code == 1, err
        assert contents(folder) == before
        assert "is there already" in err
        assert "--force" in err
        return " ".join(err.split())

    return call


def test_an_engine_is_built_from_the_graph_that_images_proved(measured, tmp_path, run_cli):
    """Before, it replaced that graph by one made by structure, proven on noise."""
    model = copy(measured.parent, tmp_path)
    before = contents(tmp_path)
    code, out, err = run_cli("trt", model, "--fp16", "--json")
    assert code == 0, err
    assert "model.fp16.onnx exists already, made from this model.onnx" in " ".join(err.split())
    assert "ranges of 6 images of train, proven on 6 images of val" in " ".join(err.split())
    assert {name: data for name, data in contents(tmp_path).items() if name in before} == before
    engine = json.loads(out)
    assert engine["parent_sha256"] == artifacts.sha256(tmp_path / "model.fp16.onnx")
    assert engine["proof"] == artifacts.read_manifest(tmp_path / "model.fp16.onnx")["proof"]
    assert engine["proof"]["calibration_images"]["folder"] == "train"
    code, out, err = run_cli("inspect", engine["file"])
    assert code == 0, err
    assert "6 images of train" in out
    assert "6 images of val, float16 emulated" in out


def test_named_images_have_to_be_those_that_it_was_made_with(measured, pictures, tmp_path, refused, run_cli):
    model = copy(measured.parent, tmp_path)
    said = refused(tmp_path, "trt", model, "--fp16", "--images", pictures)
    assert "ranges of 6 images of train, now of 48 images of train" in said
    assert "name it instead of the model" in said
    assert run_cli("trt", tmp_path / "model.fp16.onnx", "--images", pictures)[0] == 0, "as the hint says"


@pytest.mark.extended
def test_the_same_images_build_from_it(one_branch, pictures, tmp_path, run_cli):
    model = copy(one_branch.parent, tmp_path)
    words = ("trt", model, "--fp16", "--images", pictures, *LOOSE)
    assert run_cli(*words)[0] == 0
    graph = (tmp_path / "model.fp16.onnx").read_bytes()
    code, out, err = run_cli(*words, "--json")
    assert code == 0, err
    assert "it is used" in " ".join(err.split())
    assert (tmp_path / "model.fp16.onnx").read_bytes() == graph
    assert json.loads(out)["proof"]["calibration_images"]["images"] == 48, "with images, by measured ranges"


def test_calibrate_does_not_replace_a_graph_by_structure(structural, pictures, tmp_path, refused, run_cli):
    """Both commands wrote the same file, silently over each other."""
    model = copy(structural.parent, tmp_path)
    words = ("calibrate", model, "--precision", "fp16", "--images", pictures, *FEW)
    said = refused(tmp_path, *words)
    assert "ranges not measured, float32 by structure, now of 6 images of train" in said
    assert "proven on 8 images of seeded noise (20250), now 6 images of val" in said
    assert run_cli(*words, "-o", tmp_path / "measured.onnx")[0] == 0
    code, out, err = run_cli(*words, "--force", "--json")
    assert code == 0, err
    assert json.loads(out)["proof"]["calibration_images"]["images"] == 6


@pytest.mark.extended
def test_a_graph_by_structure_is_built_again_and_replaced_only_where_that_is_said(measured, tmp_path, run_cli):
    model = copy(measured.parent, tmp_path)
    code, out, err = run_cli("trt", model, "--fp16", "--force", "--json")
    assert code == 0, err
    assert json.loads(out)["proof"]["images"]["noise"] is True


def test_the_same_options_replace_it_as_ever(measured, pictures, tmp_path, refused, run_cli):
    model = copy(measured.parent, tmp_path)
    words = ("calibrate", model, "--precision", "fp16", "--images", pictures)
    code, _, err = run_cli(*words, *FEW)
    assert code == 0, err
    for option, told in ((("--held-out-count", "5"), "proven on 6 images of val, now 5 images of val"),
                         (("--seed", "1"), "ranges of 6 images of train, now other of 6 images of train"),
                         (("--max-logit-diff", "3"), "max logit difference none, now 3"),
                         (("--max-drop", "50"), "budget none, now max drop 50, metric accuracy"),
                         (("--for", "tensorrt"), "backend tensorrt-rtx, now tensorrt")):  # fmt: skip
        assert told in refused(tmp_path, *words, *FEW, *option)


@pytest.mark.extended
def test_one_of_another_float32_file_is_left_alone(measured, pictures, tmp_path, refused):
    model = copy(measured.parent, tmp_path)
    checkpoint.save(tiny_checkpoint(1, config=vary(TINY, "local-only")), tmp_path / "model.pt")
    onnx_export.export(tmp_path / "model.pt", model, onnx_export.Options())
    for words in (("trt", model, "--fp16"), ("calibrate", model, "--precision", "fp16", "--images", pictures, *FEW)):
        said = refused(tmp_path, *words)
        assert "was made otherwise: from model.onnx of SHA-256" in said
        assert f"now from model.onnx of {artifacts.sha256(model)[:12]}" in said


@pytest.mark.parametrize("state", ["no manifest", "another manifest", "not ours"])
def test_one_of_unknown_making_is_left_alone(structural, tmp_path, refused, state):
    model = copy(structural.parent, tmp_path)
    half = tmp_path / "model.fp16.onnx"
    if state == "another manifest":
        half.write_bytes(half.read_bytes() + b"\0")
    else:
        artifacts.manifest_path(half).unlink()
    if state == "not ours":
        half.write_bytes(b"anything")
    said = refused(tmp_path, "trt", model, "--fp16")
    assert ("is not the file that" if state == "another manifest" else "no manifest tells how it was made") in said


@pytest.mark.extended
@pytest.mark.parametrize("name", ["structural.fp16.onnx", "best.fp16.onnx", "shipped.fp16.onnx"])
def test_one_of_an_earlier_version_is_known_by_what_it_tells(name, measured, pictures, tmp_path, refused, run_cli):
    """Its manifest has no options, but tells images, backend and budget."""
    model = copy(measured.parent, tmp_path)
    half, manifest = tmp_path / "model.fp16.onnx", earlier(name)
    manifest |= {"sha256": artifacts.sha256(half), "parent": model.name, "parent_sha256": artifacts.sha256(model),
                 "classes": list(OnnxFile.open(model).read_ours()[1].classes), "preprocess": OnnxFile.open(model).read_ours()[1].preprocess.to_dict()}  # fmt: skip  # noqa: E501
    artifacts.write_json(artifacts.manifest_path(half), manifest)
    said = refused(tmp_path, "calibrate", model, "--precision", "fp16", "--images", pictures, *FEW)
    there = {"structural.fp16.onnx": "ranges not measured", "best.fp16.onnx": "ranges of 24 images of train"}
    assert there.get(name, "precision int8, now fp16") in said
    code, out, err = run_cli("trt", model, "--fp16", "--json")
    assert code == 0, err
    calibrated = json.loads(out)["proof"]["calibration_images"]
    assert (calibrated is None) == (name == "structural.fp16.onnx"), "the engine has its proof in the schema of today"


def test_int8_that_may_end_as_fp16_asks_before_it_works(pictures, tmp_path, refused, run_cli):
    model = tmp_path / "classifier.onnx"
    onnx.save(classifiers.depthwise_only(pictures), model)
    search = ("calibrate", model, "--precision", "int8", "--images", pictures, "--max-drop", "5", "--count", "12")
    assert run_cli("trt", model, "--fp16")[0] == 0
    assert "ranges not measured" in refused(tmp_path, *search)
    code, _, err = run_cli(*search, "--force")
    assert code == 0, err
    # An FP16 file of the same images is what the search would end with: it gets the account of INT8 as well.
    words = ("calibrate", model, "--precision", "fp16", "--images", pictures, "--count", "12")
    assert "precision int8, now fp16" in refused(tmp_path, *words)
    assert run_cli(*words, "--force")[0] == 0
    code, out, err = run_cli(*search, "--json")
    assert code == 0, err
    assert json.loads(out)["file"] == str(tmp_path / "classifier.fp16.onnx")


@pytest.mark.extended
def test_an_engine_of_other_options_or_another_graph_is_left_alone(structural, measured, tmp_path, refused, run_cli):
    copy(structural.parent, tmp_path)
    half = tmp_path / "model.fp16.onnx"
    assert run_cli("trt", half, "--batch", "1:2:4", "--golden", "0")[0] == 0
    assert run_cli("trt", half, "--batch", "1:2:4", "--golden", "0")[0] == 0, "its like is replaced"
    said = refused(tmp_path, "trt", half, "--batch", "1:1:1", "--golden", "0")
    assert "model.fp16.t4.engine is there already, and was made otherwise: profiles 1:2:4, now 1:1:1" in said
    assert run_cli("trt", half, "--batch", "1:1:1", "--golden", "0", "--force")[0] == 0
    for path in (measured, artifacts.manifest_path(measured)):
        shutil.copy(path, tmp_path)
    said = refused(tmp_path, "trt", half, "--batch", "1:1:1", "--golden", "0")
    assert "was made otherwise: from model.fp16.onnx of SHA-256" in said


def test_the_engine_of_a_graph_that_is_replaced_is_replaced_with_it(pictures, tmp_path, run_cli):
    model = tmp_path / "classifier.onnx"
    onnx.save(classifiers.depthwise_only(pictures), model)
    first = ("trt", model, "--fp16", "--images", pictures, "--golden", "0")
    assert run_cli(*first)[0] == 0
    engine = tmp_path / "classifier.fp16.t4.engine"
    code, _, err = run_cli("trt", model, "--int8", "--images", pictures, "--max-drop", "50", "--golden", "0")
    assert code == 0, err
    assert "The result is FP16" in err
    graph = tmp_path / "classifier.fp16.onnx"
    assert artifacts.read_manifest(engine)["parent_sha256"] == artifacts.sha256(graph)


@pytest.mark.extended
def test_a_float32_file_of_the_checkpoint_is_taken_and_another_left_alone(one_branch, tmp_path, refused, run_cli):
    copy(one_branch.parent, tmp_path)
    saved, exported = tmp_path / "model.pt", tmp_path / "model.onnx"
    words = ("trt", saved, "--fp16", "--golden", "0")
    before = exported.read_bytes()
    code, _, err = run_cli(*words)
    assert code == 0, err
    assert "exported from this model.pt" in " ".join(err.split())
    assert exported.read_bytes() == before
    onnx_export.export(saved, exported, onnx_export.Options(batch=2))
    assert "it takes batches of 2 alone. An export of model.pt would replace it" in refused(tmp_path, *words)
    onnx_export.export(saved, exported, onnx_export.Options())
    checkpoint.save(tiny_checkpoint(1, config=vary(TINY, "local-only")), saved)
    assert "made from another checkpoint" in refused(tmp_path, *words)
    code, _, err = run_cli(*words, "--force")
    assert code == 0, err
    assert OnnxFile.open(exported).read_ours()[1].checkpoint_sha256 == artifacts.sha256(saved)


def test_finetune_leaves_a_file_of_another_making_alone(int8, pictures, tmp_path, refused):
    for path in int8.parent.iterdir():
        shutil.copy(path, tmp_path)
    for suffix in ("", ".json"):
        shutil.copy(f"{int8}{suffix}", tmp_path / f"best.qat.int8.onnx{suffix}")
    said = refused(tmp_path, "finetune", tmp_path / "best.int8.onnx", "--data", pictures, "--epochs", "1")
    assert "was made otherwise: from best.onnx of SHA-256" in said


def test_of_a_fine_tuned_file_recipe_and_images_count(tmp_path: Path):
    path = tmp_path / "m.qat.int8.onnx"
    path.write_bytes(b"graph")
    images = {"folder": "train", "images": 3, "classes": {}, "names_sha256": "0"}
    options: dict[str, Any] = {"epochs": 3, "budget": None, "training_images": images}
    recipe = Recipe("m.int8.onnx", "ab" * 32, options)
    told = {"kind": "onnx", "parent": recipe.parent, "parent_sha256": recipe.parent_sha256}
    before = {**told, "fine_tuning": {"recipe": {"epochs": 3}, "training_images": images}, "budget": None}
    for manifest in (before, {**told, "options": options}):
        artifacts.write_manifest(path, manifest)
        assert earlier_file.is_made_by(path, recipe)
        other = Recipe(recipe.parent, recipe.parent_sha256, {**options, "epochs": 5, "budget": {"max_drop": 1.0}})
        assert not earlier_file.is_made_by(path, other)
        with pytest.raises(WouldReplaceError, match="epochs 3, now 5; budget none, now max drop 1"):
            earlier_file.require_replaceable(path, other)
    earlier_file.require_replaceable(tmp_path / "none.onnx", recipe)


@pytest.mark.parametrize("damage", [{"proof": 3}, {"fine_tuning": {}}, {"form": {"for": 3}, "classes": 3}])
def test_a_damaged_manifest_tells_nothing(tmp_path: Path, damage):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"graph")
    recipe = Recipe("p.onnx", "ab" * 32, {"for": "cpu", "classes": ["a"]})
    artifacts.write_manifest(path, {"parent": "p.onnx", "parent_sha256": recipe.parent_sha256, **damage})
    assert not earlier_file.is_made_by(path, recipe)
    with pytest.raises(WouldReplaceError, match="is there already"):
        earlier_file.require_replaceable(path, recipe)
