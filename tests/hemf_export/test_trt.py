"""`trt`: a float16 graph that is proven, and a real engine for a T4, built without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from hemf_export.files import artifacts
from hemf_export.models.model_file import OnnxFile
from hemf_export.models.runners import OnnxRunner
from hemf_export.precision import quantize
from hemf_export.precision.bounds import Bounds
from hemf_export.precision.quantization_request import Request
from hemf_export.precision.trial_engine import Compiler

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")


@pytest.fixture
def folder(made, tmp_path: Path) -> Path:
    for path in (made.onnx, artifacts.manifest_path(made.onnx)):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_without_a_file_the_one_onnx_file_of_the_folder_is_taken(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], [])),
        "other.onnx",
    )
    code, out, err = run_cli("trt", "--fp16", "--json")
    assert code == 0, err
    assert "Taking model.onnx" in err
    manifest = json.loads(out)
    engine = folder / "model.fp16.t4.engine"
    assert artifacts.read_manifest(engine)["sha256"] == artifacts.sha256(engine) == manifest["sha256"]
    assert manifest["compute_capability"] == "sm_75"
    assert manifest["backend"] == "tensorrt-rtx"
    assert manifest["build"]["profiles"] == ["1:8:32"]
    assert manifest["precision"] == "fp16"
    assert manifest["parent_sha256"] == artifacts.sha256(folder / "model.fp16.onnx")
    assert manifest["checkpoint_sha256"] == OnnxFile.open(folder / "model.onnx").read_ours()[1].checkpoint_sha256
    # A second call finds the float16 file beside the float32 one, and is not confused by it.
    assert run_cli("trt", "--fp16")[0] == 0


def test_no_file_or_several_are_listed(folder, run_cli, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    code, _, err = run_cli("trt", "--fp16")
    assert code == 1
    assert "No ONNX file" in err
    monkeypatch.chdir(folder)
    shutil.copy("model.onnx", "second.onnx")
    code, _, err = run_cli("trt", "--fp16")
    assert code == 1
    assert "model.onnx, second.onnx" in err


@pytest.mark.extended
def test_from_a_checkpoint_in_one_step(made, run_cli, tmp_path):
    shutil.copy(made.checkpoint, tmp_path / "best.pt")
    code, _, err = run_cli("trt", tmp_path / "best.pt", "--fp16", "--batch", "1:2:4")
    assert code == 0, err
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"best.onnx", "best.fp16.onnx", "best.fp16.t4.engine", "best.fp16.t4.engine.json"}


@pytest.mark.extended
def test_raw_pixels_build_too(made, run_cli, tmp_path):
    path = tmp_path / "raw.onnx"
    assert run_cli("onnx", made.checkpoint, "-o", path, "--input", "uint8", "--batch", "2")[0] == 0
    code, out, err = run_cli("trt", path, "--fp16", "--json")
    assert code == 0, err
    assert json.loads(out)["build"]["profiles"] == ["2:2:2"]
    code, _, err = run_cli("trt", path, "--fp16", "--batch", "1:2:4")
    assert code == 1
    assert "fixed batch 2" in err


def test_a_missed_bound_builds_nothing_and_exits_with_3(folder, run_cli):
    before = sorted(path.name for path in folder.iterdir())
    code, _, err = run_cli("trt", folder / "model.onnx", "--fp16", "--max-logit-diff", "1e-9")
    assert code == 3
    assert "bound 1e-09" in err
    assert "--max-logit-diff" in err
    assert sorted(path.name for path in folder.iterdir()) == before


HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def plain_half(whole_network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float16 file of the graph as it was exported, in no backend's form."""
    output = tmp_path_factory.mktemp("plain") / "model.fp16.onnx"
    return quantize.make(Request(whole_network.onnx, output=output, compiler=Compiler("cpu"))).path


def float_types(path: Path) -> tuple[onnx.GraphProto, dict[str, int]]:
    """A file's graph, and the type of each of its values that has numbers with a point."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    values = (*graph.value_info, *graph.output, *graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {initializer.name: initializer.data_type for initializer in graph.initializer}
    return graph, {name: kind for name, kind in types.items() if kind in (HALF, SINGLE)}


def taken(node: onnx.NodeProto, types: dict[str, int]) -> set[int]:
    """The types of what a node computes with."""
    return {types[name] for name in node.input if name in types}


def test_the_float16_graph_is_strongly_typed_with_the_islands_in_float32(whole_network):
    graph, types = float_types(whole_network.half)
    for node in graph.node:
        if node.op_type in ("Gemm", "MatMul", "Conv"):
            assert taken(node, types) == {HALF}, node.name
        if node.op_type in ("LayerNormalization", "ReduceLogSumExp", "Sqrt", "Reciprocal"):
            assert taken(node, types) == {SINGLE}, node.name
    assert types["images"] == types["logits"] == SINGLE


def test_what_the_softmax_over_tokens_is_divided_by_never_sees_float16(whole_network):
    """MHEA as a softmax over the slots: from the logarithm of the sums to that softmax all is float32."""
    graph, types = float_types(whole_network.half)
    producers = {output: node for node in graph.node for output in node.output}
    masked = [node for node in graph.node if node.op_type == "Softmax" and types[node.input[0]] == SINGLE]
    assert len(masked) == 4, "one for both attentions of a fusion block"
    for softmax in masked:
        chain = [softmax]
        while chain[-1].op_type != "ReduceLogSumExp":
            mask = 1 if chain[-1].op_type in ("Add", "Sub") else 0  # scores + mask, and mask = log T - sums
            chain.append(producers[chain[-1].input[mask]])
            assert taken(chain[-1], types) == {SINGLE}, chain[-1].name
        assert "Sub" in [node.op_type for node in chain]
    assert not [node for node in graph.node if node.op_type == "Div"]


def test_in_the_plain_graph_the_division_of_the_softmax_never_sees_float16(plain_half):
    graph, types = float_types(plain_half)
    producers = {output: node for node in graph.node for output in node.output}
    divisions = [node for node in graph.node if node.op_type == "Div"]
    assert len(divisions) == 8
    for node in divisions:
        assert [producers[name].op_type for name in node.input] == ["Softmax", "ReduceSum"]
    for node in graph.node:
        if node.op_type in ("LayerNormalization", "Div", "ReduceSum"):
            assert taken(node, types) == {SINGLE}, node.name
        if node.op_type in ("Gemm", "MatMul", "Conv"):
            assert taken(node, types) == {HALF}, node.name


def test_accuracy_is_kept_on_images(made, image_data, tmp_path):
    request = Request(made.onnx, images=image_data, output=tmp_path / "half.onnx")
    done = quantize.make(request)
    assert (done.proof.images.folder, done.proof.images.images) == ("val", 12)
    assert done.proof.figures.agreement == 1.0
    assert done.proof.figures.accuracy is not None
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64), dtype=np.float32)
    difference = np.abs(OnnxRunner(done.path).infer(images) - OnnxRunner(made.onnx).infer(images)).max()
    assert 0 < difference < 0.05, "float16 is not float32, and not far from it"


def test_one_image_of_few_may_change_its_class_and_more_may_not():
    assert Bounds().least_agreement(12) == pytest.approx(11 / 12)
    assert Bounds().least_agreement(4) == pytest.approx(3 / 4)
    assert Bounds(min_agreement=1.0).least_agreement(12) == 1.0
    assert Bounds().least_agreement(8, noise=True) == 0.0, "noise has no classes"
    assert Bounds(min_agreement=0.5).least_agreement(8, noise=True) == 0.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--fp16"),
        (["--fp16", "--batch", "8:4:2"], 2, "MIN ≤ OPT ≤ MAX"),
        (["--fp16", "--batch", "x"], 2, "MIN:OPT:MAX"),
        (["--fp16", "--target", "t4x"], 2, "Did you mean 't4'?"),
        (["--fp16", "--backend", "tensorrt"], 4, "tensorrt"),
        (["--fp16", "--target", "sm_61"], 4, "builds for"),
    ],
)
def test_what_is_refused(folder, run_cli, arguments, code, message):
    found, _, err = run_cli("trt", folder / "model.onnx", *arguments)
    assert found == code
    assert message in err
    assert not list(folder.glob("*.engine"))


def test_a_manifest_that_disagrees_refuses_the_parent(folder, run_cli):
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, _, err = run_cli("trt", path, "--fp16")
    assert code == 1
    assert "is not the file that" in err
