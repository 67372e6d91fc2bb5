"""ONNX files that others made: the proof is against the file as it came, and whatever a hint names helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from hemf_export.calibration import graphs
from hemf_export.export import graph_writing
from hemf_export.files.errors import CheckFailedError
from hemf_export.images import folders
from hemf_export.images.images import Preprocess
from hemf_export.models.model_file import OnnxFile
from tests.calibration import classifiers
from tests.calibration.test_opsets import CASES, classifier, node
from tests.conftest import once

CONVERT = ("--precision", "fp16", "--no-cache", "--held-out-count", "8", "--count", "8")


@pytest.fixture(scope="session")
def shared_files(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`theirs.onnx`, its weights in theirs.onnx.data as torch writes them, and ours of it, theirs.fp16.onnx."""

    def make(folder: Path) -> None:
        onnx.save(
            classifiers.normalized_cnn(pictures), folder / "theirs.onnx", save_as_external_data=True,
            location="theirs.onnx.data", size_threshold=0,
        )  # fmt: skip
        words = ["calibrate", folder / "theirs.onnx", "--images", pictures, "--precision", "fp16", "--no-cache"]
        done = subprocess.run([sys.executable, "-m", "hemf_export", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "files_of_others", make)


@pytest.fixture
def theirs(shared_files: Path, tmp_path: Path) -> Path:
    """The float32 file, in a folder of the test's own."""
    for path in shared_files.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / "theirs.onnx"


def logits(path: Path, images: Path, side: int) -> np.ndarray:
    """ONNX Runtime's, of a file as it lies there."""
    files = folders.any_images(images, None)
    pixels = np.stack([Preprocess.for_size(side).load(file) for file in files.paths])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: Preprocess.for_size(side).normalize(pixels)})[0]


def test_the_manifest_tells_of_the_emulation_and_of_the_file_itself(theirs, pictures):
    manifest = json.loads((theirs.parent / "theirs.fp16.onnx.json").read_text())
    assert manifest["proof"]["float16_emulated"] is True
    plain = manifest["proof"]["file_as_written"]
    compared = plain["against_proven"]
    assert (compared["images"], compared["finite"], compared["agreement"]) == (16, True, 1.0)
    assert 0 <= compared["logit_difference"]["max"] < 0.05
    assert manifest["parent_sha256"] == manifest["checkpoint_sha256"] == OnnxFile.open(theirs).content_sha256


def test_the_float32_file_is_the_reference_of_verify_named_or_beside_it(theirs, pictures, run_cli, tmp_path):
    made = theirs.parent / "theirs.fp16.onnx"
    for named in ((), ("--reference", theirs)):
        code, out, err = run_cli("verify", made, "--data", pictures, *named, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["reference"]["file"] == "theirs.onnx"
        (candidate,) = found["candidates"]
        assert candidate["file_as_written"]["against_proven"]["agreement"] == 1
        assert candidate["stored"]["weights"]["compared"] > 4, "its weights are compared with the float32 file's"


def test_another_file_is_no_reference(theirs, pictures, run_cli, tmp_path):
    other = tmp_path / "other.onnx"
    onnx.save(classifiers.normalized_cnn(pictures, opset=15), other)
    code, _, err = run_cli("verify", theirs.parent / "theirs.fp16.onnx", "--reference", other, "--data", pictures)
    assert (code, "none of the files" in err) == (1, True)


def test_weights_that_changed_make_it_another_file(theirs, pictures, run_cli):
    data = theirs.with_name("theirs.onnx.data")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    code, _, err = run_cli("verify", theirs.with_name("theirs.fp16.onnx"), "--data", pictures)
    assert (code, "--reference" in err) == (1, True)


def test_a_file_that_cannot_be_loaded_does_not_pass_for_its_emulation(theirs, pictures, run_cli):
    """A node's type is spoilt so that ONNX Runtime refuses the file; emulated, the graph still computes the same."""
    made = theirs.with_name("theirs.fp16.onnx")
    file = onnx.load(made)
    relu = next(each for each in file.graph.node if each.op_type == "Relu")
    relu.op_type, relu.domain = "Relu", "nobody.knows"
    file.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    onnx.save(file, made)
    made.with_name(f"{made.name}.json").unlink()
    code, _, err = run_cli("verify", made, "--reference", theirs, "--data", pictures)
    assert (code, "nobody.knows" in err) == (1, True), err


@pytest.mark.parametrize("case", ["Upsample 7, linear", "Upsample 9, linear", "Resize 10, nearest", "Hardmax 11"])
def test_what_is_written_is_the_users_file(case, pictures, run_cli, tmp_path):
    opset, nodes, constants = CASES[case]
    onnx.save(classifier(opset, nodes, constants), tmp_path / "old.onnx")
    code, out, err = run_cli("calibrate", tmp_path / "old.onnx", *CONVERT, "--images", pictures, "--json")
    assert code == 0, err
    figures = json.loads(out)["proof"]["figures"]
    exact, half = (logits(tmp_path / name, pictures, 32) for name in ("old.onnx", "old.fp16.onnx"))
    assert np.abs(exact - half).max() <= max(0.01, 5 * figures["logit_difference"]["max"])


def test_a_lift_to_another_meaning_is_told_before_any_calibration(pictures, run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_keep_resizes", lambda lifted: None)
    opset, nodes, constants = CASES["Resize 10, linear"]
    onnx.save(classifier(opset, nodes, constants), tmp_path / "old.onnx")
    code, _, err = run_cli("calibrate", tmp_path / "old.onnx", *CONVERT, "--images", pictures)
    assert (code, "is another model" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]


def test_a_file_that_knows_one_batch_only_in_truth_is_told(pictures, run_cli, tmp_path):
    """It says any batch, and takes the mean over it: an image's logits depend on its neighbours."""
    nodes = [node("ReduceMean", "c", "mean", axes=[0]), node("Sub", "c mean", "m")]
    onnx.save(classifier(13, nodes, {}), tmp_path / "baked.onnx")
    code, _, err = run_cli("calibrate", tmp_path / "baked.onnx", *CONVERT, "--images", pictures)
    assert (code, "other logits for an image alone" in err) == (0, True)


def test_a_file_optimized_for_one_runtime_loads_after_conversion(pictures, run_cli, tmp_path):
    onnx.save(classifier(17, [node("Relu", "c", "m")], {}), tmp_path / "plain.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(tmp_path / "plain.onnx"), options, providers=["CPUExecutionProvider"])
    assert "FusedConv" in {each.op_type for each in onnx.load(tmp_path / "fused.onnx").graph.node}
    code, _, err = run_cli("calibrate", tmp_path / "fused.onnx", *CONVERT, "--images", pictures)
    assert (code, "com.microsoft:FusedConv" in err) == (0, True), err
    assert logits(tmp_path / "fused.fp16.onnx", pictures, 32).shape[1] == 4
    code, _, err = run_cli(
        "calibrate", tmp_path / "fused.onnx", "--precision", "int8", "--no-cache", "--images", pictures
    )
    assert (code, "no product that INT8" in err, "FusedConv" in err) == (1, True, True)


def test_a_dynamically_quantized_file_is_refused(pictures, run_cli, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(classifier(17, [node("Relu", "c", "m")], {}), tmp_path / "plain.onnx")
    quantize_dynamic(str(tmp_path / "plain.onnx"), str(tmp_path / "dynamic.onnx"))
    for precision in ("fp16", "int8"):
        code, _, err = run_cli("calibrate", tmp_path / "dynamic.onnx", "--precision", precision, "--images", pictures)
        assert (code, "is quantized already" in err) == (1, True)
    assert not list(tmp_path.glob("*.json"))


def test_a_written_file_with_other_logits_is_not_kept(theirs):
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    exact = onnxruntime.InferenceSession(str(theirs)).run(None, {"x": images})[0]
    plain = graph_writing.check_written(theirs, "made.onnx", [images], exact, exact)["against_proven"]
    assert plain["logit_difference"]["max"] < 1e-5
    with pytest.raises(CheckFailedError, match=r"made\.onnx as written, in ONNX Runtime: its logits differ by"):
        graph_writing.check_written(theirs, "made.onnx", [images], exact + 1, exact + 1)
    (theirs.parent / "cut.onnx").write_bytes(theirs.read_bytes()[:-50])
    with pytest.raises(CheckFailedError, match=r"made\.onnx as written"):
        graph_writing.check_written(theirs.parent / "cut.onnx", "made.onnx", [images], exact, exact)


def test_means_of_pixels_up_to_255_are_refused_with_the_numbers_that_work(theirs, pictures, run_cli, tmp_path):
    words = ("calibrate", theirs, *CONVERT, "--images", pictures, "-o", tmp_path / "made.onnx")
    code, _, err = run_cli(*words, "--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375")
    assert code == 2
    assert "mean 0.485,0.456,0.406 instead of" in err
    assert "std 0.229,0.224,0.225 instead of" in err
    assert run_cli(*words, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")[0] == 0


def test_the_command_that_inspect_proposes_takes_the_file(theirs, pictures, run_cli):
    code, _, err = run_cli("inspect", theirs)
    proposed = err.strip().splitlines()[-1].removeprefix("next: hemf-export ")
    assert code == 0
    assert run_cli(*proposed.replace("DATA", str(pictures)).split(), "--no-cache")[0] == 0


def hostile(theirs: Path, **entries: str) -> None:
    """Change where the file says its first tensor is."""
    file = onnx.load(theirs, load_external_data=False)
    tensor = file.graph.initializer[0]
    for entry in tensor.external_data:
        entry.value = entries.pop(entry.key, entry.value)
    theirs.write_bytes(file.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "../secret"}, "no path below"),
        ({"location": "a/../../secret"}, "no path below"),
        ({"location": "/etc/passwd"}, "no path below"),
        ({"location": "C:\\secret"}, "no path below"),
        ({"location": "..\\secret"}, "no path below"),
        ({"location": ""}, "no path below"),
        ({"location": "gone.data"}, "isn't there"),
        ({"location": "link.data"}, "through a link"),
        ({"location": "linked/secret"}, "through a link"),
        ({"location": "hard.data"}, "a hard link"),
        ({"location": "."}, "no path below"),
        ({"location": "folder"}, "no ordinary file"),
        ({"location": "pipe"}, "no ordinary file"),
        ({"offset": "1000000"}, "which has"),
        ({"offset": "-1"}, "the offset or length '-1'"),
        ({"offset": "9" * 30}, "the offset or length"),
        ({"length": "1"}, "its entry says 1"),
        ({"length": str(10**15)}, "its entry says 1000000000000000"),
    ],
)
def test_weights_outside_the_folder_are_refused(theirs, pictures, run_cli, entries, said):
    folder, secret = theirs.parent, theirs.parent.parent / f"secret-{theirs.parent.name}"
    secret.write_bytes(bytes(10000))
    (folder / "link.data").symlink_to(secret)
    (folder / "linked").symlink_to(folder.parent)
    os.link(secret, folder / "hard.data")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    hostile(theirs, **entries)
    for command in (
        ("calibrate", theirs, *CONVERT, "--images", pictures),
        ("inspect", theirs),
        ("trt", theirs, "--fp16"),
    ):
        code, _, err = run_cli(*command)
        assert (code, said in err) == (1, True), err


def test_a_tensor_larger_than_memory_is_refused_by_its_shape(theirs, run_cli):
    file = onnx.load(theirs, load_external_data=False)
    file.graph.initializer[0].dims[0] = 10**15
    theirs.write_bytes(file.SerializeToString())
    code, _, err = run_cli("inspect", theirs)
    assert (code, "larger than 2 GB" in err or "its entry says" in err) == (1, True)


def test_engines_say_the_names_of_their_own_tensors(theirs):
    assert OnnxFile.open(theirs).ends == ("x", "logits")


def test_intermediate_files_go_where_the_engine_goes(theirs, run_cli, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    before = sorted(theirs.parent.iterdir())
    (tmp_path / "out").mkdir()
    code, _, err = run_cli("trt", theirs, "--fp16", "--batch", "1:1:1", "-o", tmp_path / "out" / "small.engine")
    assert code == 0, err
    assert sorted(theirs.parent.iterdir()) == sorted([*before, tmp_path / "out"])
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".onnx", ".engine", ".json"}


def test_bench_times_the_float32_file_as_the_reference(theirs, run_cli):
    for named in ([theirs], [theirs, theirs.with_name("theirs.fp16.onnx")], [theirs.with_name("theirs.fp16.onnx")]):
        code, out, err = run_cli("bench", *named, "--batch", "1", "--no-memory", "--seconds", "0.05", "--json")
        assert code == 0, err
        timings = json.loads(out)["timings"]
        assert timings[0]["file"] == "theirs.onnx", "the first is what the others are compared with"
        assert len(timings) == max(len(named), 1 + ("fp16" in named[-1].name))


def test_a_lift_to_another_meaning_is_told_however_small_the_logits_are(pictures, run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_keep_resizes", lambda lifted: None)
    opset, nodes, constants = CASES["Resize 10, linear"]
    file = classifier(opset, nodes, constants)
    for tensor in file.graph.initializer:
        if tensor.name in ("head", "bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-4), tensor.name))
    onnx.save(file, tmp_path / "small.onnx")
    code, _, err = run_cli("calibrate", tmp_path / "small.onnx", *CONVERT, "--images", pictures)
    assert (code, "is another model" in err) == (1, True)


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([node("RandomNormalLike", "c", "r"), node("Add", "c r", "m")], {}, "in each run"),
        (
            [node("BatchNormalization", "c s b mean var", "m mean2 var2", training_mode=1)],
            {name: np.ones(8, np.float32) for name in ("s", "b", "mean", "var")}, "in training mode",
        ),
    ],
    ids=["random", "training"],
)  # fmt: skip
def test_a_file_that_is_not_for_inference_is_refused(nodes, constants, said, pictures, run_cli, tmp_path):
    onnx.save(classifier(15, nodes, constants), tmp_path / "m.onnx")
    code, _, err = run_cli("calibrate", tmp_path / "m.onnx", *CONVERT, "--images", pictures)
    assert (code, said in err, "model.eval()" in err) == (1, True, True), err


def test_a_batch_of_minus_one_is_any_batch(pictures, run_cli, tmp_path):
    file = classifier(15, [node("Relu", "c", "m")], {})
    for value in (file.graph.input[0], file.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(file, tmp_path / "m.onnx")
    words = ("--precision", "int8", "--method", "max", *CONVERT[2:])
    code, out, err = run_cli("calibrate", tmp_path / "m.onnx", *words, "--images", pictures, "--json")
    assert code == 0, err
    assert json.loads(out)["int8"]["share_of_multiply_adds"] == 0.999
    assert "can't be counted" not in err


def test_numbers_that_may_be_either_are_asked_for(pictures, run_cli, tmp_path):
    """The probability of one of two classes, added up: no operator says that it is one."""
    file = classifier(15, [node("Relu", "c", "m")], {"pick": np.array([[1], [1], [0], [0]], np.float32)})
    file.graph.node.extend([node("Softmax", "y", "p"), node("MatMul", "p pick", "q")])
    file.graph.output[0].name = "q"
    file.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(file, tmp_path / "m.onnx")
    line = ("calibrate", tmp_path / "m.onnx", *CONVERT, "--images", pictures / "val" / "dark")
    code, _, err = run_cli(*line)
    assert (code, "--gives probabilities" in err) == (1, True), err
    code, out, err = run_cli(*line, "--gives", "probabilities", "--json")
    assert (code, json.loads(out)["output_type"]) == (0, "probability"), err


def test_what_cannot_be_converted_is_not_proposed(pictures, run_cli, tmp_path):
    file = classifier(15, [node("Relu", "c", "m")], {})
    file.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save(file, tmp_path / "m.onnx")
    code, _, err = run_cli("inspect", tmp_path / "m.onnx")
    assert (code, "can't be converted" in err, "next:" in err) == (0, True, False)


def test_a_path_that_is_no_text_is_a_path(theirs, pictures, run_cli, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    folder.mkdir()
    onnx.save(onnx.load(theirs), os.fsencode(folder / "m.onnx").decode("utf-8", "surrogateescape"))
    code, _, err = run_cli("calibrate", folder / "m.onnx", *CONVERT, "--images", pictures)
    assert code == 0, err
