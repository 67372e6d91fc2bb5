"""Files of a single output, of probabilities and with axes of size 1, from calibration to what serves them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score

from hemf_export.bench import contenders, lineup
from hemf_export.files import artifacts
from hemf_export.files.model_output import ModelOutput
from hemf_export.images.images import Preprocess
from hemf_export.models.model_file import ModelFile, OnnxFile
from hemf_export.precision import golden_images, quantize
from hemf_export.precision.bounds import Bounds
from hemf_export.precision.quantization_request import Request
from tests.conftest import CLASSES
from tests.hemf_export import heads
from tests.hemf_export.heads import Head

TWO = CLASSES[:2]
HEADS: dict[str, Head] = {
    "logits (N, K, 1, 1)": heads.LOGITS["as a convolution gives them"],
    "logit": heads.LOGIT["a single output"],
    "logit, a vector": heads.LOGIT["a vector"],
    "softmax": heads.PROBABILITIES["softmax and what Keras puts behind it"],
    "softmax (N, K, 1, 1) of opset 11": heads.PROBABILITIES["softmax of opset 11, over all axes from 1"],
    "sigmoid": heads.PROBABILITY["sigmoid of a convolution"],
    "sigmoids": heads.PROBABILITIES["a sigmoid for each class"],
    "float16 at the end": heads.PROBABILITIES["softmax in float16 at the end"],
}


@pytest.fixture(scope="session")
def pair(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of two classes alone."""
    root = tmp_path_factory.mktemp("pair")
    for split in ("train", "val"):
        for name in TWO:
            shutil.copytree(pictures / split / name, root / split / name)
    return root


def truth(path: Path, head: Head, folder: Path) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    """Probabilities by the user's own file, run as it is, and the images' true classes."""
    images, labels, files = heads.loaded(folder)
    raw = heads.run(path, images).astype(np.float64)
    if head.width == 1:
        second = raw if raw.min() >= 0 and raw.max() <= 1 else expit(raw)
        return np.concatenate([1 - second, second], 1), labels, files
    return (raw if head in heads.PROBABILITIES.values() else softmax(raw, axis=1)), labels, files


@pytest.mark.parametrize("name", HEADS)
def test_fp16_predicts_and_evaluates_what_the_users_file_says(name: str, pictures, pair, tmp_path, run_cli):
    head = HEADS[name]
    data = pair if head.width == 1 else pictures
    source = heads.write(tmp_path / "m.onnx", head, data=data)
    names = TWO if head.width == 1 else CLASSES
    code, out, err = run_cli(
        "calibrate", source, "--precision", "fp16", "--images", data, "--classes", ",".join(sorted(names)), "--json"
    )
    assert code == 0, err
    manifest = json.loads(out)
    half = tmp_path / "m.fp16.onnx"
    assert manifest["output_type"] == OnnxFile.open(half).read_ours()[1].output_type
    probabilities, labels, files = truth(source, head, data / "val")
    assert manifest["proof"]["figures"]["reference_accuracy"] == accuracy_score(labels, probabilities.argmax(1)) > 0.9
    assert "guessing" not in err
    code, out, err = run_cli("predict", half, *files, "--json")
    assert code == 0, err
    found = json.loads(out)["predictions"]
    ours = np.array([[one["probabilities"][name] for name in sorted(names)] for one in found])
    np.testing.assert_allclose(ours, probabilities, atol=5e-3)
    assert [one["class"] for one in found] == [sorted(names)[index] for index in probabilities.argmax(1)]
    code, out, err = run_cli("evaluate", half, "--data", data / "val", "-o", tmp_path / "e", "--json")
    assert code == 0, err
    (model,) = json.loads(out)["models"]
    assert model["output_type"] == manifest["output_type"]
    assert model["metrics"]["accuracy"] == accuracy_score(labels, probabilities.argmax(1))
    if head.width == 1:
        assert model["metrics"]["brier"] == pytest.approx(2 * brier_score_loss(labels, probabilities[:, 1]), abs=5e-3)
        recall = recall_score(labels, probabilities.argmax(1), average=None)
        assert [model["by_class"][name]["recall"] for name in sorted(names)] == pytest.approx(recall)
        assert [model["by_class"][name]["specificity"] for name in sorted(names)] == pytest.approx(recall[::-1])
    if name != "sigmoids":
        shares = probabilities / probabilities.sum(1, keepdims=True)
        assert model["metrics"]["loss"] == pytest.approx(log_loss(labels, shares), abs=5e-3)
    with (tmp_path / "e" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(rows[0][f"p({name})"]) for name in sorted(names)] == pytest.approx(ours[0], abs=1e-3)


def loud(path: Path, head: Head, data: Path) -> Path:
    """The classifier with two channels that lead nowhere and take all steps of INT8 from the others."""
    heads.write(path, head, data=data)
    model = onnx.load(path)
    weights = {one.name: one for one in model.graph.initializer}
    wide = onnx.numpy_helper.to_array(weights["v"]).copy()
    wide[:, :2] = 0
    kernel = onnx.numpy_helper.to_array(weights["k"]).copy()
    kernel[:2] = np.abs(kernel[:2]) * 20_000
    for name, value in (("v", wide), ("k", kernel)):
        weights[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    model.graph.node[0].input.append("shift")
    shift = np.zeros(heads.FEATURES, np.float32)
    shift[:2] = 1e6
    model.graph.initializer.append(onnx.numpy_helper.from_array(shift, "shift"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", ["a single output", "sigmoid"])
def test_the_budget_of_int8_is_proven_on_decisions(name: str, pair, tmp_path, run_cli):
    """Where ranges are taken by the largest value, loud channels leave the others no step: that must be seen."""
    head = heads.LOGIT.get(name) or heads.PROBABILITY[name]
    source = loud(tmp_path / "m.onnx", head, pair)
    command = ("calibrate", source, "--precision", "int8", "--method", "max", "--images", pair, "--sensitivity")
    code, out, err = run_cli(*command, "--for", "cpu", "--json")
    assert code == 0, err
    figures = json.loads(out)["proof"]["figures"]
    images, labels, _ = heads.loaded(pair / "val")
    border = ModelOutput("probability" if name == "sigmoid" else "logit").border
    before = heads.run(source, images)[:, 0] > border
    after = heads.run(tmp_path / "m.int8-cpu.onnx", images)[:, 0] > border
    assert (before != after).any(), "planted"
    assert figures["agreement"] == pytest.approx((before == after).mean())
    assert figures["accuracy"] == pytest.approx((after == labels).mean())
    assert figures["kl_divergence"] > 0
    sensitivity = json.loads((tmp_path / "m.int8-cpu.sensitivity.json").read_text())
    assert any(block["alone"]["kl_divergence"] > 1e-4 for block in sensitivity["blocks"])
    code, out, err = run_cli(*command, "--for", "cpu", "--max-drop", "0.5", "-o", tmp_path / "b.onnx", "--json")
    assert code in (0, 3), err
    if code == 0:
        kept = heads.run(tmp_path / "b.onnx", images)[:, 0] > border
        assert (kept == labels).mean() >= (before == labels).mean() - 0.005


def test_bounds_of_a_file_of_probabilities_are_bounds_of_probabilities(pictures, tmp_path, run_cli):
    source = heads.write(tmp_path / "m.onnx", heads.PROBABILITIES["softmax"], data=pictures)
    command = ("calibrate", source, "--precision", "fp16", "--images", pictures)
    code, out, err = run_cli(*command)
    assert code == 0, err
    assert "largest probability difference" in out
    assert "It gives probabilities" in " ".join(err.split())
    code, _, err = run_cli(*command, "--max-logit-diff", "1e-9", "-o", tmp_path / "other.onnx")
    assert code == 3
    assert "a probability differs by" in err
    assert Bounds().score_bound(ModelOutput("probabilities"), 1.0) == 0.025
    assert Bounds().score_bound(ModelOutput("logit"), 40.0) == pytest.approx(0.4)


@pytest.fixture(scope="module")
def halves(pictures: Path, pair: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An FP16 file of each kind."""
    from hemf_export.models.graph_source import Assumptions
    from hemf_export.precision import quantize
    from hemf_export.precision.quantization_request import Request

    made = {}
    for name in ("sigmoid", "logit", "softmax", "logits (N, K, 1, 1)"):
        folder = tmp_path_factory.mktemp("halves")
        data = pair if HEADS[name].width == 1 else pictures
        source = heads.write(folder / "m.onnx", HEADS[name], data=data)
        names = tuple(sorted(TWO if HEADS[name].width == 1 else CLASSES))
        request = Request(source, "fp16", data, held_out_count=8, assumptions=Assumptions(classes=names))
        made[name] = quantize.make(request).path  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("name", ["sigmoid", "logit", "softmax", "logits (N, K, 1, 1)"])
def test_golden_images_and_benchmarks_are_of_scores(name: str, halves):
    path = halves[name]
    described = OnnxFile.open(path).read_ours()[1]
    golden = golden_images.make(path, described, None, 3)
    assert golden.logits.shape == (3, len(described.classes))
    assert golden.max_logit_difference <= (0.1 if described.output.of_probabilities else 1.0)
    field = lineup.gather((path,), path.parent, kinds=("ort-cpu",), transfers="in", gpu=False)
    contender = contenders.open_entry(field.entries[0], threads=1)
    work = contender.prepare(golden.pixels)
    work.run()
    np.testing.assert_allclose(work.logits(), golden.logits, atol=0.05)


def test_triton_serves_a_single_number_without_labels(halves, tmp_path, run_cli):
    for number, name in enumerate(("sigmoid", "logits (N, K, 1, 1)", "logit")):
        code, _, err = run_cli("triton", halves[name], "-o", tmp_path / "models", "--name", f"m{number}")
        assert code == 0, err
        config = (tmp_path / "models" / f"m{number}" / "config.pbtxt").read_text()
        single = "K" not in name
        assert ("labels.txt" in config) == (not single)
        assert (tmp_path / "models" / f"m{number}" / "labels.txt").exists() == (not single)
        assert ("Triton can't name the class" in " ".join(err.split())) == single
    code, _, err = run_cli("triton", "--check", tmp_path / "models")
    assert code == 0, err
    path = tmp_path / "models" / "m0" / "config.pbtxt"
    path.write_text(path.read_text().replace('name: "y"', 'name: "y"\n  label_filename: "labels.txt"'))
    code, _, err = run_cli("triton", "--check", tmp_path / "models")
    assert (code, "names labels" in err) == (3, True), err


class Answers:
    """A server that runs an ONNX file, and answers with its output as it comes."""

    url = "http://here"

    def __init__(self, path: Path) -> None:
        self.path = path

    def infer(self, model: str, version: str, inputs: dict[str, Any], output: str) -> np.ndarray:
        import onnxruntime

        ((batch, _),) = inputs.values()
        session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: batch})[0]


@pytest.mark.parametrize("name", ["sigmoid", "logit", "softmax", "logits (N, K, 1, 1)"])
def test_what_a_server_answers_is_read_as_the_file_is(name: str, halves):
    from hemf_export.triton.client import ServedRunner

    path = halves[name]
    model = ModelFile.open(path).predictor()
    metadata = {"inputs": [{"name": "x", "datatype": "FP32"}], "outputs": [{"name": "y"}]}
    runner = ServedRunner(Answers(path), "m", "1", metadata, 2, model.description.output)  # type: ignore[arg-type]
    inputs = Preprocess.for_size(heads.SIDE).normalize(
        np.random.default_rng(0).integers(0, 256, (5, heads.SIDE, heads.SIDE, 3), dtype=np.uint8)
    )
    np.testing.assert_allclose(runner.infer(inputs), model.runner.infer(inputs), atol=1e-6)


def test_a_file_of_one_class_decides_nothing_and_is_refused(halves, pictures, run_cli, tmp_path):
    """What was calibrated before single outputs were known has one class, and would give it to every image."""
    path = shutil.copy(halves["logit"], tmp_path / "m.onnx")
    model = onnx.load(path)
    for prop in model.metadata_props:
        if prop.key == "hemf":
            told = json.loads(prop.value)
            del told["output_type"]
            prop.value = json.dumps({**told, "classes": ["class_0"]})
    onnx.save(model, path)
    code, _, err = run_cli("predict", path, pictures / "val")
    assert code == 1
    assert "class_0" in err
    assert artifacts.read_manifest(Path(path)) is None


def test_inspect_says_what_a_file_gives(halves, run_cli):
    for name, words in (("sigmoid", "a single probability: up to 0.5"), ("logit", "a single logit: up to 0 "),
                        ("softmax", "probabilities, one for each class")):  # fmt: skip
        code, out, err = run_cli("inspect", halves[name])
        assert code == 0, err
        assert words in " ".join(out.split())


@pytest.mark.parametrize("name", ["sigmoid", "logit, a vector", "softmax (N, K, 1, 1) of opset 11"])
def test_float16_of_another_file_is_proven_on_scores(name: str, pictures, pair, tmp_path):
    """As `trt --fp16 --images` makes it."""
    head = HEADS[name]
    data = pair if head.width == 1 else pictures
    source = heads.write(tmp_path / "m.onnx", head, data=data)
    made = quantize.make(Request(source, images=data, held_out_count=16))
    probabilities, labels, _ = truth(source, head, data / "val")
    assert made.proof.figures.reference_accuracy == pytest.approx((probabilities.argmax(1) == labels).mean(), abs=0.1)
    if made.description.output.of_probabilities:
        assert made.proof.bound == 0.025
    assert not any("guessing" in note for note in made.notes)
    model = ModelFile.open(made.path).predictor()
    images, _, _ = heads.loaded(data / "val")
    found = model.description.output.probabilities(model.infer(images))
    np.testing.assert_allclose(found, probabilities, atol=5e-3)


@pytest.mark.slow
def test_an_int8_file_of_a_single_logit_is_fine_tuned(pair, tmp_path, run_cli):
    source = heads.write(tmp_path / "m.onnx", heads.LOGIT["a single output of a convolution"], data=pair)
    code, _, err = run_cli(
        "calibrate", source, "--precision", "int8", "--images", pair, "--classes", ",".join(sorted(TWO))
    )
    assert code == 0, err
    int8 = tmp_path / "m.int8.onnx"
    code, out, err = run_cli("finetune", int8, "--reference", source, "--data", pair, "--epochs", 2, "--json")
    assert code in (0, 3), err
    if code == 3:
        assert "No epoch was better" in err
        return
    figures = json.loads(out)["proof"]["figures"]
    model = ModelFile.open(tmp_path / "m.qat.int8.onnx").predictor(for_proof=True)
    images, labels, _ = heads.loaded(pair / "val")
    assert figures["accuracy"] == pytest.approx((model.infer(images).argmax(1) == labels).mean())


def test_fine_tuning_of_probabilities_is_refused(pictures, tmp_path, run_cli):
    source = heads.write(tmp_path / "m.onnx", heads.PROBABILITIES["softmax"], data=pictures)
    code, _, err = run_cli("calibrate", source, "--precision", "int8", "--images", pictures)
    assert code == 0, err
    code, _, err = run_cli("finetune", tmp_path / "m.int8.onnx", "--reference", source, "--data", pictures)
    assert code == 1
    assert "trains on logits" in err
