"""Which products are worth INT8: by the engines that the real builder compiles for this and that target."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import image_shapes, parse, prepare
from hemf_export.calibration.products import find_products
from hemf_export.calibration.qdq import quantize
from hemf_export.engines import build, build_process, targets
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, MissingCapabilityError
from hemf_export.precision import int8_choice, trial_engine
from hemf_export.precision.trial_engine import Compiler
from tests.calibration import classifiers

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

T4 = Compiler(target=targets.find("t4"), batch=2)


def network(*, width: int, convolutions: int = 0) -> onnx.ModelProto:
    """(N, 3, 16, 16) → convolutions → patches → three layers of `width` → two logits."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    weights, nodes, value, channels = {}, [], "images", 3
    for index in range(convolutions):
        weights |= {f"c{index}": weight(64, channels, 3, 3), f"d{index}": weight(64)}
        nodes += [
            helper.make_node("Conv", [value, f"c{index}", f"d{index}"], [f"m{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node("Relu", [f"m{index}"], [f"r{index}"], f"relu{index}"),
        ]
        value, channels = f"r{index}", 64
    nodes.append(helper.make_node("Flatten", [value], ["rows"], "rows"))
    value, inner = "rows", channels * 256
    for index in range(3):
        weights |= {f"w{index}": weight(inner, width), f"b{index}": weight(width)}
        nodes += [
            helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [f"g{index}"], f"gemm{index}"),
            helper.make_node("Relu", [f"g{index}"], [f"h{index}"], f"act{index}"),
        ]
        value, inner = f"h{index}", width
    weights |= {"head": weight(width, 2), "bias": weight(2)}
    nodes.append(helper.make_node("Gemm", [value, "head", "bias"], ["logits"], "head"))
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["N", 3, 16, 16]), ("logits", ["N", 2]))
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def trials(proto: onnx.ModelProto, compiler: Compiler = T4) -> int8_choice.EngineTrials:
    model = prepare(proto)
    return int8_choice.EngineTrials(model, find_products(model.graph, image_shapes(model)), {}, compiler)


def test_a_network_whose_weights_are_most_of_what_it_moves_is_faster_in_int8():
    found = int8_choice.choose(trials(network(width=1024)))
    assert found.worthwhile
    assert found.chosen is found.best
    assert len(found.best.kept) == len(found.best.nodes) >= 2, "the engine computes all of them in INT8"
    assert found.best.census.plan_bytes < 0.7 * found.fp16.census.plan_bytes
    assert found.best.census.moved_bytes < 0.7 * found.fp16.census.moved_bytes
    saved = 1 - found.best.model_ms / found.fp16.model_ms
    assert sum(found.worth.by_block.values()) == pytest.approx(saved)
    assert all(value > 0 for value in found.worth.by_block.values())
    assert found.worth.nodes == found.best.nodes
    assert 0 < found.worth.least < int8_choice.LEAST_GAIN, "what was compiled decides, not an estimate"
    assert "the INT8 engine that tensorrt-rtx" in found.summary


@pytest.mark.extended
def test_convolutions_that_sm_75_has_no_int8_kernel_for_stay_out_of_it():
    """TensorRT-RTX dequantizes their weights and convolves in half: a promise that costs time and gives nothing."""
    known = trials(network(width=512, convolutions=3))
    found = int8_choice.choose(known)
    convolutions = {f"conv{index}" for index in range(3)}
    inside = {product.node for product in known.products if product.refusal is None}
    assert convolutions - {"conv0"} <= inside, "the file could have them in INT8"
    assert found.everything.nodes == inside
    assert not convolutions & found.everything.kept
    assert not convolutions & found.best.nodes
    assert found.best.model_ms < found.everything.model_ms
    assert known.tried[2].name == "matrix products"
    assert not any("convolutions" in trial.name for trial in known.tried), "none is kept"


def test_another_target_has_those_kernels():
    known = trials(network(width=64, convolutions=3), Compiler(target=targets.find("sm_86"), batch=2))
    everything = known.run("everything", [product for product in known.products if product.refusal is None])
    assert {"conv1", "conv2"} <= everything.kept


def test_where_int8_gives_too_little_the_answer_is_fp16():
    found = int8_choice.choose(trials(network(width=32, convolutions=2)))
    assert not found.worthwhile
    assert found.chosen is found.fp16
    assert "the fastest INT8 engine" in found.summary
    told = found.to_dict()
    assert told["chosen"] == told["fp16"]
    assert told["least_gain"] == int8_choice.LEAST_GAIN
    assert told["all_int8"]["model_ms"] > (1 - int8_choice.LEAST_GAIN) * told["fp16"]["model_ms"]


@pytest.mark.parametrize("int8", [False, True])
def test_kernels_depend_on_no_weight_and_no_range(int8, monkeypatch):
    """The lists of a graph with its own weights and of one with made-up ones, compiled without a cache."""
    monkeypatch.setattr(build, "_census_path", lambda *_: None)
    model = parse(network(width=256, convolutions=1))
    prepared = prepare(ir.to_proto(model))
    if int8:
        products = [each for each in find_products(prepared.graph, image_shapes(prepared)) if each.refusal is None]
        quantize(prepared, products, trial_engine.synthetic_statistics(), "max")
    to_float16(prepared)
    made_up = trial_engine.count(prepared, T4)
    monkeypatch.setattr(trial_engine, "_with_synthetic_weights", lambda model: model)
    own = trial_engine.count(prepared, T4)
    assert made_up.kernels == own.kernels
    assert made_up.launches > 3


@pytest.mark.extended
def test_what_was_compiled_for_one_checkpoint_is_known_for_the_next(monkeypatch):
    first = network(width=96, convolutions=1)
    int8_choice.choose(trials(first))
    other = network(width=96, convolutions=1)
    for tensor in other.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(-2 * numpy_helper.to_array(tensor), tensor.name))
    monkeypatch.setattr(build_process, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert int8_choice.choose(trials(other)).to_dict() == int8_choice.choose(trials(first)).to_dict()


@pytest.fixture
def convolutional(pictures: Path, tmp_path: Path) -> Path:
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.normalized_cnn(pictures), path)
    return path


@pytest.mark.extended
def test_the_command_gives_fp16_and_says_why(convolutional, pictures, run_cli):
    said = ["calibrate", convolutional, "--precision", "int8", "--images", pictures, "--max-drop", "1"]
    code, out, err = run_cli(*said, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["precision"] == "fp16"
    assert "The result is FP16, and that is what was written: at batch 8 the fastest INT8 engine" in err
    gain = made["int8_gain"]
    assert (gain["backend"], gain["sm"], gain["batch"]) == ("tensorrt-rtx", "sm_75", 8)
    assert gain["chosen"]["model_ms"] == gain["fp16"]["model_ms"]
    assert all(gain[name]["figures"]["images"] for name in ("fp16", "chosen", "best", "all_int8"))
    assert made["search"] == [], "no budget has to be searched"
    assert made["proof"]["budget"] is None, "an FP16 file has FP16's bounds"
    assert gain["budget"]["max_drop"] == 1
    assert made["int8"]["never_quantized"][int8_choice.TOO_LITTLE] == 3
    code, out, err = run_cli(*said, "-o", convolutional.with_name("again.onnx"), "--batch", "2")
    assert code == 0, err
    assert "at batch 2, modelled at the published rates of Tesla T4" in out
    assert "FP16, chosen" in out
    assert "fastest in INT8" in out
    assert "all in INT8" in out


def test_without_a_backend_the_work_decides_and_that_is_said(convolutional, pictures, run_cli):
    said = ["--precision", "int8", "--images", pictures, "--max-drop", "1", "--for", "tensorrt", "--json"]
    code, out, err = run_cli("calibrate", convolutional, *said)
    assert code == 0, err
    made = json.loads(out)
    assert made["precision"] == "int8"
    assert "int8_gain" not in made
    assert "INT8 goes by its share of the work" in err


def failing(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the backend refuse the graphs whose INT8 products have such names."""
    compiled = int8_choice.EngineTrials._compile

    def refuse(self, name, chosen, islands):
        if re.search(names, " ".join(product.node for product in chosen)):
            raise BadInputError("The backend doesn't take it.")
        return compiled(self, name, chosen, islands)

    monkeypatch.setattr(int8_choice.EngineTrials, "_compile", refuse)


def test_a_backend_that_takes_nothing_in_int8_gets_fp16(convolutional, pictures, run_cli, monkeypatch):
    failing(".", monkeypatch)
    said = ["--precision", "int8", "--images", pictures, "--max-drop", "1", "--json"]
    code, out, err = run_cli("calibrate", convolutional, *said)
    assert code == 0, err
    made = json.loads(out)
    assert made["precision"] == "fp16"
    assert made["int8_gain"]["best"] is made["int8_gain"]["all_int8"] is None
    assert "compiles no engine of this graph in INT8 for sm_75" in err


def test_a_part_that_a_backend_does_not_take_is_left_out(monkeypatch):
    known = trials(network(width=1024))
    everything = known.run("everything", [product for product in known.products if product.refusal is None])
    failing("^gemm1$", monkeypatch)
    only = [product for product in known.products if product.node == "gemm1"]
    assert known.attempt("one", only) is None
    assert known.best is everything


def test_a_graph_without_a_product_for_int8_is_fp16_within_a_budget(pictures, tmp_path, run_cli):
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.depthwise_only(pictures), path)
    said = ["calibrate", path, "--precision", "int8", "--images", pictures]
    code, out, err = run_cli(*said, "--max-drop", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["precision"] == "fp16"
    assert "no product that INT8 can be used for" in err
    code, _, err = run_cli(*said)
    assert code == 1, "everything in INT8 is nothing"
    assert "no product that INT8 can be used for" in err


@pytest.mark.extended
def test_a_budget_that_int8_misses_is_told_with_what_it_would_give(pictures, tmp_path, run_cli):
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.convolutional(pictures, outliers=True), path)
    said = ["--precision", "int8", "--images", pictures, "--max-drop", "0.5", "--target", "sm_86", "--json"]
    code, out, err = run_cli("calibrate", path, *said, "--method", "max", "--sensitivity")
    assert code == 0, err
    made = json.loads(out)
    assert made["precision"] == "fp16"
    assert (
        "but no engine that is 5% faster keeps the budget. All that is faster in INT8 together: accuracy drops" in err
    )
    assert made["search"], "it was searched"
    assert made["int8_gain"]["best"]["model_ms"] < 0.95 * made["int8_gain"]["fp16"]["model_ms"]


@pytest.mark.extended
def test_a_budget_that_int8_keeps_gives_the_fastest_engine_and_its_figures(pictures, tmp_path, run_cli):
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.convolutional(pictures), path)
    said = ["calibrate", path, "--precision", "int8", "--images", pictures, "--max-drop", "5", "--target", "sm_86"]
    code, out, err = run_cli(*said, "--method", "max")
    assert code == 0, err
    assert "INT8, chosen" in out
    assert "next: hemf-export trt" in err
    assert "--target sm_86" in err
    made = artifacts.read_manifest(tmp_path / "classifier.int8.onnx")
    gain = made["int8_gain"]
    assert gain["chosen"]["model_ms"] <= 0.95 * gain["fp16"]["model_ms"]
    assert gain["chosen"]["model_ms"] == min(trial["model_ms"] for trial in gain["tried"])
    assert gain["chosen"]["int8_products"] == made["int8"]["int8_products"] == 2, "the dense convolutions"
    assert len({gain[name]["figures"]["images"] for name in ("fp16", "chosen", "best", "all_int8")}) == 1
    assert made["proof"]["budget"]["max_drop"] == 5


def test_an_engine_for_another_target_than_int8_was_chosen_for_is_remarked_on():
    told = {"backend": "tensorrt-rtx", "sm": "sm_86"}
    assert int8_choice.elsewhere(told, "tensorrt-rtx", "sm_86") is None
    assert "not for tensorrt-rtx and sm_75" in str(int8_choice.elsewhere(told, "tensorrt-rtx", "sm_75"))


@pytest.mark.parametrize("told", [[], "INT8", {}, {"backend": "tensorrt-rtx", "sm": "sm_75", "chosen": {}}])
def test_a_damaged_account_of_it_is_a_bad_manifest(told):
    with pytest.raises(BadInputError, match="what INT8 gives can't be read"):
        int8_choice.of_manifest({"int8_gain": told})
    assert int8_choice.of_manifest({}) is None


def test_a_compute_capability_has_the_rates_of_a_gpu_of_its_own():
    found = {name: Compiler(target=targets.find(name)).chip.product for name in ("sm_75", "sm_86", "sm_89", "sm_120")}
    assert found == {"sm_75": "Tesla T4", "sm_86": "NVIDIA A10", "sm_89": "NVIDIA L4", "sm_120": "Tesla T4"}
    assert Compiler(target=targets.find("l40s")).chip.product == "NVIDIA L40S"


def test_a_target_that_the_backend_lacks_is_no_reason_to_fail(convolutional, pictures, run_cli, monkeypatch):
    def missing(*_args, **_options):
        raise MissingCapabilityError("TensorRT-RTX has no such target.")

    monkeypatch.setattr(build, "take_census", missing)
    said = ["--precision", "int8", "--images", pictures, "--max-drop", "1", "--json"]
    code, out, err = run_cli("calibrate", convolutional, *said)
    assert code == 0, err
    assert json.loads(out)["precision"] == "int8"
    assert "TensorRT-RTX has no such target" in err
