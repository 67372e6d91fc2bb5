"""Export: the file computes what PyTorch computes, is what it says, and is not kept where it is not proven."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.export import graph_cleanup, onnx_export, simplify
from hemf_export.files import artifacts
from hemf_export.models.model_file import OnnxFile
from hemf_export.models.runners import OnnxRunner, TorchRunner
from hemf_export.networks.hemf.folding import fold
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request
from tests.conftest import TINY, tiny_checkpoint


def logits_of(path: Path, batch: np.ndarray) -> np.ndarray:
    return OnnxRunner(path).infer(batch)


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_the_file_computes_pytorchs_logits_at_any_batch(made, batch):
    images = np.random.default_rng(batch).standard_normal((batch, 3, 64, 64), dtype=np.float32)
    expected = TorchRunner(tiny_checkpoint().model()).infer(images)
    found = logits_of(made.onnx, images)
    assert np.abs(expected).max() > 0.5, "logits that say something"
    assert np.abs(found - expected).max() < 1e-4


def test_the_graph_is_self_contained_folded_and_has_nothing_left_over(made):
    model = onnx.load(made.onnx)
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert "Identity" not in operators
    assert "LayerNormalization" in operators
    assert not operators & {"Pow", "Sqrt", "Shape", "Sin", "Cos", "Expand"}, (
        "norms are one operation, tables are constants"
    )
    assert [path.name for path in made.folder.iterdir() if path.suffix == ".data"] == []
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    used = {name for node in model.graph.node for name in node.input}
    assert all(initializer.name in used for initializer in model.graph.initializer)


def test_transposes_that_cancel_are_gone(made):
    model = onnx.load(made.onnx)
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("Transpose", "Reshape"):
            source = producers.get(node.input[0])
            assert source is None or source.op_type != node.op_type, node.name


def test_the_metadata_and_the_manifest_tell_the_same(made):
    _, description = OnnxFile.open(made.onnx).read_ours()
    manifest = artifacts.read_manifest(made.onnx)
    assert description.classes == ("bright", "dark", "striped")
    assert description.checkpoint_sha256 == artifacts.sha256(made.checkpoint)
    assert manifest is not None
    assert {key: manifest[key] for key in ("classes", "preprocess", "precision", "checkpoint_sha256", "versions")} == {
        key: description.to_dict()[key]
        for key in ("classes", "preprocess", "precision", "checkpoint_sha256", "versions")
    }
    assert manifest["proof"]["images"]["images"] == 11
    assert manifest["proof"]["figures"]["logit_difference"]["max"] < 1e-4


@pytest.mark.extended
@pytest.mark.parametrize("opset", [17, pytest.param(23, marks=pytest.mark.extended)])
def test_other_opsets(tmp_path, checkpoint_file, opset):
    done = onnx_export.export(checkpoint_file, tmp_path / "m.onnx", onnx_export.Options(opset=opset))
    model = onnx.load(done.path)
    assert next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) == opset


def test_splits_and_pads_are_the_same_in_opset_17():
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[2, 6] x) => (float[2, 3] a, float[2, 5] d)
        <int64[2] sizes = {1, 5}, int64[1] one = {1}, int64[4] pads = {0, 0, 0, 1}> {
        b, c = Split<axis = 1, num_outputs = 2>(x)
        a = Sub(c, b)
        e, f = Split<axis = 1>(x, sizes)
        g = Pad(e, pads)
        h = ReduceMax(g, one)
        d = Add(f, h)
    }"""
    proto = onnx.parser.parse_model(text)
    images = np.arange(12, dtype=np.float32).reshape(2, 6)
    before = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": images})
    model = ir.from_proto(proto)
    graph_cleanup.lower_to_opset_17(model)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert lowered.opset_import[0].version == 17
    after = onnxruntime.InferenceSession(lowered.SerializeToString()).run(None, {"x": images})
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.extended
def test_raw_pixels_as_input_are_normalized_inside(tmp_path, made):
    done = onnx_export.export(made.checkpoint, tmp_path / "raw.onnx", onnx_export.Options(input_type="uint8"))
    saved = checkpoint.load(made.checkpoint)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    expected = TorchRunner(saved.model()).infer(saved.preprocess.normalize(pixels))
    assert np.abs(logits_of(done.path, pixels) - expected).max() < 1e-4
    first = onnx.load(done.path).graph.node[0]
    assert first.op_type == "Cast", "TensorRT refuses a transpose of uint8"


def test_a_fixed_batch_is_kept_and_proven_on_images_where_they_are_given(made, image_data, run_cli, tmp_path):
    path = tmp_path / "m.onnx"
    code, out, err = run_cli("onnx", made.checkpoint, "-o", path, "--batch", "3", "--images", image_data, "--json")
    assert code == 0, err
    proof = json.loads(out)["proof"]
    assert proof["images"]["folder"] == "test"
    assert {"accuracy", "reference_accuracy"} <= set(proof["figures"])
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert logits_of(path, np.zeros((3, 3, 64, 64), np.float32)).shape == (3, 3)


@pytest.mark.extended
def test_the_smallest_input_goes_all_the_way(tmp_path):
    """At 32 pixels stage 4 is one pixel, and onnxsim makes constants of its softmaxes."""
    small = dataclasses.replace(TINY, image_size=32)
    checkpoint.save(tiny_checkpoint(config=small), tmp_path / "m.pt")
    onnx_export.export(tmp_path / "m.pt", tmp_path / "m.onnx", onnx_export.Options())
    half = quantize.make(Request(tmp_path / "m.onnx"))
    assert half.proof.figures.agreement == 1.0


def test_folding_changes_no_function():
    saved = tiny_checkpoint(config=TINY)
    plain, folded = saved.model(), saved.model()
    fold(folded)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), plain(images), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in folded.modules())


def test_a_graph_that_is_wrong_is_not_kept_and_exits_with_3(tmp_path, exported_before, run_cli, monkeypatch):
    def damaged(_, graph):
        weight = next(value for name, value in graph.graph.initializers.items() if name.endswith("head.weight"))
        weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
        return graph

    monkeypatch.setattr(simplify.Simplifier, "simplify", damaged)
    output = tmp_path / "out" / "m.onnx"
    code, out, err = run_cli("onnx", exported_before, "-o", output, "--json")
    assert code == 3
    assert "a logit differs by" in err
    assert json.loads(out)["exit_code"] == 3
    assert list(output.parent.iterdir()) == []


FAILURES = {
    "signal 11": f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})",
    "exit 1: bad graph": "raise SystemExit('bad graph')",
    "exit 0": "",
    "exit 1: it says much": "import sys; print('x' * 10**6); sys.stdin.read(); sys.exit('it says much')",
    "more than 1 s": "import time; time.sleep(60)",
}


def replace_onnxsim(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(simplify.child, "command", lambda module: [sys.executable, "-c", code])


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failure_of_onnxsim_is_told_and_leaves_the_graph(made, monkeypatch, reason):
    replace_onnxsim(monkeypatch, FAILURES[reason])
    monkeypatch.setattr(simplify, "TIMEOUT_S", 1 if "more than" in reason else 60)
    graph = ir.load(made.onnx)
    before = ir.to_proto(graph).SerializeToString()
    with (
        simplify.Simplifier() as simplifier,
        pytest.raises(simplify.SimplificationError, match=reason),
    ):
        simplifier.simplify(graph)
    assert {value.name for value in graph.graph.inputs} == {"images"}
    assert len(ir.to_proto(graph).SerializeToString()) == len(before)


def test_a_crash_of_onnxsim_costs_only_the_simplification(tmp_path, exported_before, monkeypatch):
    replace_onnxsim(monkeypatch, FAILURES["signal 11"])
    done = onnx_export.export(exported_before, tmp_path / "m.onnx", onnx_export.Options())
    assert any("onnxsim failed (signal 11)" in note for note in done.notes)
    assert done.parity.comparison.logit_difference.max < 1e-4


@pytest.mark.extended
def test_an_interrupted_export_leaves_the_old_file(tmp_path, exported_before, monkeypatch):
    output = tmp_path / "out" / "m.onnx"
    output.parent.mkdir()
    output.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "_prove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx_export.export(exported_before, output, onnx_export.Options())
    assert output.read_bytes() == b"old"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.full_size
def test_the_authors_file_goes_through_onnx_and_trt_with_no_other_step(tmp_path, authors, run_cli):
    """Their layout under `net`, with no class names anywhere."""
    state = {key: torch.from_numpy(np.array(value)) for key, value in authors.state_dict(2, 1).items()}
    path = tmp_path / "ckpt.pth"
    torch.save({"net": state, "epoch": 1}, path)
    code, _, err = run_cli("onnx", path)
    assert code == 0, err
    assert "class_0" in err
    code, _, err = run_cli("trt", tmp_path / "ckpt.onnx", "--fp16")
    assert code == 0, err
    proof = artifacts.read_manifest(tmp_path / "ckpt.fp16.onnx")["proof"]
    assert proof["figures"]["logit_difference"]["max"] < 0.02
    assert (tmp_path / "ckpt.fp16.t4.engine").stat().st_size > 50e6
    shutil.rmtree(tmp_path)
