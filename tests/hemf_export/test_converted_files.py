"""Files of Keras's converters and of old TorchScript exporters keep their own input and output in every command.

What each command makes of a file is compared with the file itself, which ONNX Runtime runs as it lies there.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.special import softmax

from hemf_export.models import onnx_model
from hemf_export.models.model_file import ModelFile, OnnxFile
from tests.conftest import CLASSES
from tests.hemf_export import converted
from tests.hemf_export.converted import Converted

NAMES = sorted(CLASSES)
EVERYTHING = Converted(
    channels_last=True, dtype="uint8", names=("image_tensor:0", "detection/probs:0"), end="softmax", batch=1, opset=10,
    listed=True, external=True,
)  # fmt: skip
CASES = {
    "tf2onnx": Converted(
        True, names=("serving_default_input_1:0", "StatefulPartitionedCall:0"), end="softmax", opset=11
    ),
    "keras2onnx, opset 7": Converted(True, names=("input_1", "dense_1"), batch="N", opset=7),
    "TorchScript, opset 8": Converted(names=("input.1", "495"), opset=8, external=True),
    "names with blanks": Converted(names=("my image", "the class/probs"), end="softmax", opset=9, listed=True),
    "pixels, channels first": Converted(dtype="uint8", batch=3, opset=15),
    "everything": EVERYTHING,
}


def scores(case: Converted, path: Path, pixels: np.ndarray) -> np.ndarray:
    """Probabilities by the user's own file."""
    rows = case.run(path, pixels)
    return rows if case.end == "softmax" else softmax(rows, axis=1)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("tf2onnx", "pixels, channels first") else pytest.param(name, marks=pytest.mark.extended)
        for name in CASES
    ],
)
def test_fp16_is_the_users_file_with_its_own_input_and_output(name: str, pictures: Path, tmp_path: Path, run_cli):
    case = CASES[name]
    source = case.write(tmp_path / "m.onnx", pictures)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = ("--images", pictures, "--classes", ",".join(NAMES), "--no-cache", "--held-out-count", 12)
    code, out, err = run_cli("calibrate", source, "--precision", "fp16", *words, "--json")
    assert code == 0, err
    manifest, half = json.loads(out), tmp_path / "m.fp16.onnx"
    assert {path: (tmp_path / path).read_bytes() for path in before} == before, "the user's file stays as it is"
    assert manifest["parent_sha256"] == OnnxFile.open(source).content_sha256
    assert manifest["proof"]["figures"]["reference_accuracy"] > 0.9
    ends = [
        [(one.name, onnx_model.signature(one)) for one in (*onnx_model.inputs(file.graph), *file.graph.output)]
        for file in (onnx.load(source, load_external_data=False), onnx.load(half))
    ]
    assert ends[0] == ends[1], "a client of the user's file can feed this one"
    pixels, _, files = converted.loaded(pictures / "val")
    expected = scores(case, source, pixels)
    code, out, err = run_cli("predict", half, *files, "--json")
    assert code == 0, err
    found = [[one["probabilities"][name] for name in NAMES] for one in json.loads(out)["predictions"]]
    np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.extended
def test_everything_at_once_goes_through_all_commands(pictures: Path, tmp_path: Path, run_cli):
    source = EVERYTHING.write(tmp_path / "m.onnx", pictures)
    words = ("--images", pictures, "--classes", ",".join(NAMES), "--no-cache", "--held-out-count", 12, "--count", 12)
    for made in (("--precision", "fp16"), ("--precision", "int8", "--method", "max")):
        code, _, err = run_cli("calibrate", source, *made, *words)
        assert code == 0, err
    files = tmp_path / "m.fp16.onnx", tmp_path / "m.int8.onnx"
    code, out, err = run_cli("verify", *files, "--reference", source, "--data", pictures / "val", "--json")
    assert code == 0, err
    assert json.loads(out)["reference"]["file"] == "m.onnx"
    code, _, err = run_cli("evaluate", *files, "--data", pictures / "val", "-o", tmp_path / "e")
    assert code == 0, err
    code, _, err = run_cli("bench", source, *files, "--batch", 1, "--no-memory", "--seconds", 0.02)
    assert code == 0, err
    code, _, err = run_cli("triton", files[0], "-o", tmp_path / "models", "--name", "theirs")
    assert code == 0, err
    config = (tmp_path / "models" / "theirs" / "config.pbtxt").read_text()
    assert all(text in config for text in ('name: "image_tensor:0"', 'name: "detection/probs:0"', "TYPE_UINT8"))
    assert run_cli("triton", "--check", tmp_path / "models")[0] == 0
    code, _, err = run_cli("bundle", files[0], "-o", tmp_path / "b.tar.zst", "--no-cpp")
    assert code == 0, err
    code, _, err = run_cli("self-test", tmp_path / "b.tar.zst", "--keep", tmp_path / "kept")
    assert code == 0, err
    card = (tmp_path / "kept" / "MODEL_CARD.md").read_text()
    assert ("HEMF" in card, "Pixels are taken as they are" in card) == (False, True), card
    code, out, _ = run_cli("inspect", source)
    assert code == 0
    text = " ".join(out.split())
    assert "raw pixels" in text
    assert "probabilities, one for each class" in text


def test_the_file_itself_is_run_beside_what_was_made_from_it(pictures: Path, tmp_path: Path, run_cli):
    source = EVERYTHING.write(tmp_path / "m.onnx", pictures)
    pixels, labels, files = converted.loaded(pictures / "val")
    code, _, err = run_cli("predict", source, *files)
    assert (code, "has no hemf-export metadata" in err) == (1, True), err
    words = ("calibrate", source, "--precision", "fp16", "--images", pictures, "--no-cache", "--held-out-count", 12)
    words = (*words, "--classes", ",".join(NAMES))
    assert run_cli(*words)[0] == 0
    code, out, err = run_cli("predict", source, *files, "--json")
    assert code == 0, err
    found = [[one["probabilities"][name] for name in NAMES] for one in json.loads(out)["predictions"]]
    expected = EVERYTHING.run(source, pixels)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    out_folder = tmp_path / "e"
    code, out, err = run_cli("evaluate", source, tmp_path / "m.fp16.onnx", "--data", pictures / "val", "-o", out_folder,
                             "--json")  # fmt: skip
    assert code == 0, err
    theirs, ours = json.loads(out)["models"]
    assert theirs["metrics"]["accuracy"] == (expected.argmax(1) == labels).mean()
    assert ours["metrics"]["accuracy"] == theirs["metrics"]["accuracy"]
    code, _, err = run_cli("evaluate", source, "--classes", "a,b,c", "--data", pictures / "val", "-o", tmp_path / "f")
    assert (code, "has the classes" in err) == (1, True), err
    assert run_cli(*words, "--preprocess", "squash", "-o", tmp_path / "other.onnx")[0] == 0
    code, _, err = run_cli("predict", source, *files)
    assert (code, "with other classes or preprocessing" in err) == (1, True), err


@pytest.mark.parametrize("case", [CASES["tf2onnx"], EVERYTHING], ids=["tf2onnx", "everything"])
def test_an_engine_has_the_users_input_and_output(case: Converted, pictures: Path, tmp_path: Path, run_cli):
    pytest.importorskip("tensorrt_rtx")
    source = case.write(tmp_path / "m.onnx", pictures)
    code, _, err = run_cli("trt", source, "--fp16", "--backend", "tensorrt-rtx", "--batch", "1:1:1")
    assert code == 0, err
    (engine,) = tmp_path.glob("*.engine")
    manifest = ModelFile.open(engine).manifest
    assert manifest is not None
    tensors = {one["mode"]: one for one in manifest["tensors"]}
    assert (tensors["input"]["name"], tensors["output"]["name"]) == case.names
    assert tensors["input"]["shape"][1:] == [converted.SIDE, converted.SIDE, 3]
    assert tensors["input"]["type"] == ("UINT8" if case.dtype == "uint8" else "FLOAT")
    golden = ModelFile.open(engine).golden()
    assert golden is not None
    np.testing.assert_allclose(golden.logits, case.run(source, golden.pixels), atol=0.05)
    code, _, err = run_cli("triton", engine, "--backend", "python", "-o", tmp_path / "models")
    assert code == 0, err
    assert f'name: "{case.names[0]}"' in next((tmp_path / "models").glob("*/config.pbtxt")).read_text()


def test_an_int8_file_with_the_channels_last_is_fine_tuned(pictures: Path, tmp_path: Path, run_cli):
    case = Converted(channels_last=True, plain=True)
    source = case.write(tmp_path / "m.onnx", pictures)
    words = ("--images", pictures, "--classes", ",".join(NAMES), "--no-cache", "--count", 12, "--method", "max")
    code, _, err = run_cli("calibrate", source, "--precision", "int8", *words)
    assert code == 0, err
    code, _, err = run_cli(
        "finetune", tmp_path / "m.int8.onnx", "--reference", source, "--data", pictures, "--epochs", 1
    )
    assert (code, "No epoch was better" in err) in ((0, False), (3, True)), err


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (["n", 32, 32, 4], "found the inputs float32 (any, 32, 32, 4)"),
        (["n", 32, 40, 3], "found the inputs float32 (any, 32, 40, 3)"),
        (["n", None, None, 3], "found the inputs float32 (any, any, any, 3)"),
    ],
    ids=str,
)
def test_an_input_that_is_no_square_image_is_refused_with_what_is_taken(
    shape: list[int | str | None], said: str, pictures: Path, tmp_path: Path, run_cli
):
    source = Converted(channels_last=True).write(tmp_path / "m.onnx", pictures)
    model = onnx.load(source)
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape))
    onnx.save(model, source)
    code, _, err = run_cli("calibrate", source, "--precision", "fp16", "--images", pictures)
    text = " ".join(err.split())
    assert (code, said in text, "(N, 3, S, S) or (N, S, S, 3)" in text) == (1, True, True), err


def test_a_mean_of_pixels_that_the_file_takes_as_they_are_is_refused(pictures: Path, tmp_path: Path, run_cli):
    case = dataclasses.replace(CASES["pixels, channels first"], batch="n")
    source = case.write(tmp_path / "m.onnx", pictures)
    words = ("--precision", "fp16", "--images", pictures, "--no-cache")
    code, _, err = run_cli("calibrate", source, *words, "--mean", "0.5,0.5,0.5")
    assert (code, "takes pixels as they are" in err, "--mean" in err) == (1, True, True), err
    code, _, err = run_cli("calibrate", source, *words)
    assert (code, "doesn't state its preprocessing" in err) == (0, False), err
