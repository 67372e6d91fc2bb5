"""`finetune` from the command line: an INT8 file that lost its accuracy, and what can't be fine-tuned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from hemf_export.calibration.emulation import of_file
from hemf_export.calibration.session import Session
from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts
from hemf_export.finetuning.network import GraphNetwork, trained_initializers
from hemf_export.models.model_file import OnnxFile
from tests.conftest import CLASSES, tiny_checkpoint
from tests.hemf_export.verification import faults

QUICK = ["--epochs", "2", "--batch-size", "8", "--learning-rate", "1e-3"]


@pytest.fixture
def quantized(int8: Path, tmp_path: Path) -> Path:
    """A copy of the INT8 file, beside its checkpoint alone."""
    for path in (int8, artifacts.manifest_path(int8), int8.parent / "best.pt"):
        shutil.copy(path, tmp_path)
    return tmp_path / int8.name


def shuffled(model: onnx.ModelProto) -> None:
    """The int8 weights of one product of the last block in another order: what it knew is lost, and nothing else."""
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("local_steps.3.patches.projection") and tensor.name.endswith("_int8"):
            array = generator.permuted(onnx.numpy_helper.to_array(tensor).ravel()).reshape(tensor.dims)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def test_the_network_in_torch_computes_the_int8_file_and_not_the_float_one(quantized, int8, pictures):
    """A sound file is as near to the float one as float16 is to itself; one that lost a block's weights is not."""
    described = OnnxFile.open(int8).read_ours()[1]
    images = [described.preprocess.load(path) for path in sorted((pictures / "val").rglob("*.png"))[::4]]
    batch = described.preprocess.normalize(np.stack(images))
    faults.plant(quantized, quantized, shuffled)
    model = ir.load(quantized)
    common.ShapeInferencePass()(model)
    with torch.no_grad():
        found = GraphNetwork(model, trained_initializers(model.graph))(torch.from_numpy(batch)).numpy()
    expected = Session(of_file(onnx.load(quantized))).logits(batch)
    exact = Session(int8.with_name("best.onnx")).logits(batch)
    # Sums in another order flip a step of INT8 now and then, and so a few logits by as much as INT8 does to each.
    assert np.median(np.abs(found - expected)) < 0.02 * np.median(np.abs(expected - exact))


@pytest.mark.extended
def test_what_is_trained_is_weights_and_no_table(whole_int8):
    model = ir.load(whole_int8)
    names = set(trained_initializers(model.graph))
    assert not [name for name in names if "tables" in name or name.endswith(("_scale", "_zero", "_scale_fp16"))]
    quantized = {name for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.INT8}
    twice = {name for name in quantized if "/sums/" in name and name.endswith("_int8")}  # keys, in float16 as well
    assert len(twice) == 4
    assert {name for name in quantized if name.endswith("_int8")} - twice <= names
    assert not [name for name in names if "/sums/" in name]
    assert any("norm.weight" in name for name in names)
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    taps = {name for name, array in arrays.items() if "/shifts/mul" in name and array.size > 1}
    assert len(taps) > 100, "the others, of one number, are averages"
    assert taps <= names


@pytest.mark.extended
def test_an_int8_file_that_lost_its_accuracy_gets_it_back(quantized, pictures, run_cli):
    faults.plant(quantized, quantized, shuffled)
    before = quantized.read_bytes()
    code, out, err = run_cli("finetune", quantized, "--data", pictures, *QUICK, "--json")
    assert code == 0, err
    made = json.loads(out)
    path = quantized.with_name("best.qat.int8.onnx")
    assert made["file"] == str(path)
    tuned, figures = made["fine_tuning"], made["proof"]["figures"]
    assert tuned["before"]["accuracy"] < 0.7
    assert figures["accuracy"] > tuned["before"]["accuracy"] + 0.1
    assert (made["parent"], made["parent_sha256"]) == (quantized.name, artifacts.sha256(quantized))
    assert made["checkpoint_sha256"] == artifacts.sha256(quantized.with_name("best.pt"))
    assert (made["precision"], made["proof"]["images"]["images"]) == ("int8", 48)
    assert tuned["training_images"]["classes"] == dict.fromkeys(CLASSES, 16)
    assert [line["epoch"] for line in tuned["epochs"]] == [0, 1, 2]
    assert tuned["recipe"]["learning_rate"] == 1e-3
    assert artifacts.read_manifest(path)["sha256"] == artifacts.sha256(path)
    assert quantized.read_bytes() == before
    same_graph(quantized, path)
    assert "as calibrated" in err
    # The other commands take it.
    code, out, err = run_cli("verify", path, "--data", pictures, "--max-logit-diff", "50", "--max-drop", "40", "--json")
    assert "What best.qat.int8.onnx stores is not compared: it was fine-tuned" in err
    found = json.loads(out)["candidates"][0]
    assert {missed["bound"] for missed in found["missed"]} <= {"min_agreement", "max_recall_drop"}
    assert found["metrics"]["accuracy"] > 0.6
    assert run_cli("verify", path, "--data", pictures, "--locate")[0] == 1
    assert run_cli("inspect", path)[0] == 0
    assert run_cli("predict", path, pictures / "test")[0] == 0


def same_graph(first: Path, second: Path) -> None:
    """The same nodes, scales and zero points; weights of the same types and shapes."""
    graphs = [onnx.load(path).graph for path in (first, second)]
    assert [node.SerializeToString() for node in graphs[0].node] == [
        node.SerializeToString() for node in graphs[1].node
    ]
    tensors = [{tensor.name: tensor for tensor in graph.initializer} for graph in graphs]
    assert tensors[0].keys() == tensors[1].keys()
    changed = 0
    for name, tensor in tensors[0].items():
        other = tensors[1][name]
        assert (tensor.data_type, tensor.dims) == (other.data_type, other.dims)
        same = np.array_equal(onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(other))
        assert same or not name.endswith(("_scale_fp16", "_scale", "_zero")), name
        changed += not same
    assert changed > 50


def test_a_file_for_a_cpu_keeps_its_kind(trained, pictures, tmp_path, run_cli):
    for path in (trained, artifacts.manifest_path(trained), trained.with_name("best.pt")):
        shutil.copy(path, tmp_path)
    source = tmp_path / trained.name
    said = ["--precision", "int8", "--for", "cpu", "--images", pictures, "--method", "max", "--count", "12"]
    assert run_cli("calibrate", source, *said, "--held-out-count", "12")[0] == 0
    made = tmp_path / "best.int8-cpu.onnx"
    faults.plant(made, made, shuffled)
    code, out, err = run_cli("finetune", made, "--data", pictures, *QUICK)
    assert code == 0, err
    path = tmp_path / "best.qat.int8-cpu.onnx"
    assert OnnxFile.open(path).read_ours()[1].precision == "int8-cpu"
    assert "best.qat.int8-cpu.onnx" in out
    assert "next: hemf-export verify" in err
    types = [{tensor.name: tensor.data_type for tensor in onnx.load(each).graph.initializer} for each in (made, path)]
    assert types[0] == types[1]


@pytest.mark.extended
def test_what_is_not_better_or_misses_the_budget_is_not_written(quantized, pictures, run_cli):
    files = sorted(path.name for path in quantized.parent.iterdir())
    code, out, err = run_cli(
        "finetune", quantized, "--data", pictures, "--epochs", "1", "--learning-rate", "1e-30", "--json"
    )
    assert code == 3, err
    assert "No epoch was better" in json.loads(out)["error"]
    assert len(json.loads(out)["epochs"]) == 2
    faults.plant(quantized, quantized, shuffled)
    code, _, err = run_cli("finetune", quantized, "--data", pictures, *QUICK, "--min-agreement", "1")
    assert (code, "keep their class, at least 100" in err or "may keep their class" in err) == (3, True), err
    assert sorted(path.name for path in quantized.parent.iterdir()) == files


def test_what_cannot_be_fine_tuned(quantized, trained, pictures, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(
        "hemf_export.finetuning.training.finetune", lambda *_, **__: pytest.fail("refused before any work")
    )

    def refused(*arguments: object, code: int = 1) -> str:
        found, _, err = run_cli("finetune", *arguments)
        assert found == code, err
        return err

    data = ["--data", pictures]
    assert "only INT8 files can be fine-tuned" in refused(trained, *data)
    assert "--metric needs --max-drop" in refused(quantized, *data, "--metric", "balanced-accuracy", code=2)
    checkpoint.save(tiny_checkpoint(5), tmp_path / "other.pt")
    assert "is not the checkpoint that the file was made from" in refused(
        quantized, *data, "--reference", tmp_path / "other.pt"
    )
    (tmp_path / "best.pt").unlink()
    assert "--reference FILE" in refused(quantized, *data)
    artifacts.manifest_path(quantized).unlink()
    assert "has no manifest" in refused(quantized, *data)


def test_a_file_of_raw_pixels_is_refused(quantized, pictures, run_cli):
    def raw(model: onnx.ModelProto) -> None:
        prop = next(found for found in model.metadata_props if found.key == "hemf")
        prop.value = json.dumps({**json.loads(prop.value), "input_type": "uint8"})
        value = model.graph.input[0].type.tensor_type
        value.elem_type = onnx.TensorProto.UINT8
        for dim, size in zip(value.shape.dim[1:], (64, 64, 3), strict=True):
            dim.dim_value = size

    faults.plant(quantized, quantized, raw)
    code, _, err = run_cli("finetune", quantized, "--data", pictures)
    assert (code, "takes raw pixels" in err) == (1, True)
