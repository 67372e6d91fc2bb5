"""`calibrate` and `trt --int8` from the command line: a trained HEMF, a graph that isn't ours, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.models.model_file import OnnxFile
from tests import kills
from tests.calibration import classifiers
from tests.conftest import CLASSES, once, write_images

# An engine that no machine of these tests can build: INT8 goes by the work, as for any other machine's.
BY_WORK = ("--for", "tensorrt", "--target", "h100")
HALF, SINGLE, INT8 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained file, in a folder of its own."""
    for path in (trained, artifacts.manifest_path(trained)):
        shutil.copy(path, tmp_path)
    return tmp_path / trained.name


@pytest.fixture(scope="session")
def calibrated(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """INT8 within a budget of the trained file, made once, and what the command said of it."""
    return within_budget(tmp_path_factory, "calibrated", trained, pictures)


@pytest.fixture(scope="session")
def whole_calibrated(whole_trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return within_budget(tmp_path_factory, "whole_calibrated", whole_trained, pictures)


def within_budget(factory: pytest.TempPathFactory, folder_name: str, trained: Path, pictures: Path) -> tuple[Path, str]:
    def make(folder: Path) -> None:
        for path in (trained, artifacts.manifest_path(trained)):
            shutil.copy(path, folder)
        command = ["calibrate", folder / trained.name, "--precision", "int8", "--images", pictures, "--max-drop", "0.5"]
        done = subprocess.run(
            [sys.executable, "-m", "hemf_export", *command, "--method", "mse", *BY_WORK],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (folder / "said").write_text(done.stderr + done.stdout)

    folder = once(factory, folder_name, make)
    return folder / "best.int8.onnx", (folder / "said").read_text()


@pytest.fixture
def other(pictures: Path, tmp_path: Path) -> Path:
    """A classifier that isn't ours: small, so that what holds for any graph is quickly seen."""
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.normalized_cnn(pictures), path)
    return path


def product_types(path: Path) -> dict[str, set[str]]:
    """By operator, what its factors come from: read from the file with onnx alone."""
    found = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*found.graph.value_info, *found.graph.input)}
    types |= {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    producers = {output: node.op_type for node in found.graph.node for output in node.output}
    names = {HALF: "float16", SINGLE: "float32"}
    kinds: dict[str, set[str]] = {}
    for node in found.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            sources = [producers.get(name) == "DequantizeLinear" for name in node.input[:2]]
            kind = f"int8 in {names[types[node.input[0]]]}" if all(sources) else names[types[node.input[0]]]
            kinds.setdefault(node.op_type, set()).add(kind)
    return kinds


def test_fp16_of_a_trained_network_keeps_every_class(model, pictures, run_cli):
    keeps_every_class(model, pictures, run_cli)


@pytest.mark.extended
def test_fp16_of_a_whole_network_keeps_every_class(whole_trained, pictures, tmp_path, run_cli):
    for path in (whole_trained, artifacts.manifest_path(whole_trained)):
        shutil.copy(path, tmp_path)
    made = keeps_every_class(tmp_path / whole_trained.name, pictures, run_cli)
    islands, inside = (made["conversion"][name] for name in ("float32_nodes", "float32_inside_kernels"))
    assert made["types"]["nodes"]["float32"] == islands + inside
    assert islands < 21, "fewer than there are layer norms"


def keeps_every_class(model: Path, pictures: Path, run_cli) -> dict[str, Any]:
    code, out, err = run_cli("calibrate", model, "--precision", "fp16", "--images", pictures, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["precision"] == "fp16"
    assert made["proof"]["figures"]["agreement"] == 1.0
    assert made["proof"]["figures"]["accuracy_drop_points"] == 0.0
    assert made["proof"]["images"] == {**made["proof"]["images"], "folder": "val", "images": 48}
    assert made["proof"]["calibration_images"]["classes"] == dict.fromkeys(CLASSES, 16)
    assert artifacts.read_manifest(Path(made["file"]))["parent_sha256"] == artifacts.sha256(model)
    there = {node.name for node in onnx.load(made["file"]).graph.node}
    for island in made["conversion"]["float32_nodes_by_name"]:
        assert island["node"] in there, "a layer norm that was split into steps is none of the file's nodes"
        assert island["reason"]
        assert island["block"]
    assert len(made["conversion"]["float32_nodes_by_name"]) == made["conversion"]["float32_nodes"]
    assert all("int8" not in kind for kinds in product_types(Path(made["file"])).values() for kind in kinds)
    return made


def test_int8_within_a_budget_is_what_the_graph_says(calibrated):
    blocks = is_what_the_graph_says(*calibrated)
    assert {"ELF 1", "ELF 4", "local step 1"} <= {block["block"] for block in blocks}


@pytest.mark.extended
def test_int8_of_a_whole_network_is_what_the_graph_says(whole_calibrated):
    blocks = is_what_the_graph_says(*whole_calibrated)
    assert "float16" in product_types(whole_calibrated[0])["MatMul"], "those of attentions"
    assert {"ELF 1", "EGF 4", "HEF 2 SIRMLP", "local step 1"} <= {block["block"] for block in blocks}
    assert 0.8 < sum(block["share_of_multiply_adds"] for block in blocks) < 1, "all but attentions and the head"


def is_what_the_graph_says(path: Path, said: str) -> list[dict[str, Any]]:
    """The blocks of the report."""
    made = artifacts.read_manifest(path)
    assert made["proof"]["figures"]["accuracy_drop_points"] <= 0.5
    assert made["precision"] == "int8"
    assert made["int8"]["share_of_multiply_adds"] > 0.5
    found = onnx.load(path)
    counted = sum(
        1
        for node in found.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and sum("dequantize" in name for name in node.input[:2]) == 2
    )
    assert counted == made["int8"]["int8_products"] == made["types"]["products"]["int8"]
    stored = [tensor for tensor in found.graph.initializer if tensor.data_type == INT8 and len(tensor.dims) > 1]
    assert len(stored) > 10, "weights are stored in int8"
    assert "int8 in float16" in product_types(path)["Conv"]
    assert "INT8 goes by its share of the work" in said
    assert "step 1:" in said
    assert "What INT8 costs, block by block" in said
    assert {file.name for file in path.parent.glob("*.sensitivity.*")} == {
        "best.int8.sensitivity.json",
        "best.int8.sensitivity.png",
    }
    return json.loads((path.parent / "best.int8.sensitivity.json").read_text())["blocks"]


def test_a_proven_int8_file_becomes_an_engine_for_a_t4(calibrated, run_cli, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    path, _ = calibrated
    code, out, err = run_cli("trt", path, "-o", tmp_path / "best.engine", "--json")
    assert code == 0, err
    built = json.loads(out)
    assert (built["precision"], built["compute_capability"]) == ("int8", "sm_75")
    assert built["parent_sha256"] == artifacts.sha256(path)
    assert built["proof"]["figures"]["accuracy_drop_points"] <= 0.5


@pytest.mark.extended
@pytest.mark.parametrize(("target", "precision"), [("t4", "fp16"), ("sm_86", "int8")])
def test_int8_engine_in_one_step(target, precision, pictures, tmp_path, run_cli):
    """Its convolutions gain on sm_86; for sm_75 TensorRT-RTX has none in INT8, and the engine is FP16."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.convolutional(pictures), path)
    said = ("--int8", "--images", pictures, "--max-drop", "5", "--target", target)
    code, out, err = run_cli("trt", path, *said, "--json")
    assert code == 0, err
    built = json.loads(out)
    assert built["file"].endswith(f"classifier.{precision}.{target}.engine")
    gain = built["int8_gain"]
    assert gain["budget"]["max_drop"] == 5
    assert (built["proof"]["budget"] is None) == (precision == "fp16")
    assert (gain["sm"], gain["chosen"]["int8_products"] > 0) == (built["compute_capability"], precision == "int8")
    assert ("The result is FP16" in err) == (precision == "fp16")


def test_every_method_quantizes_everything_where_no_budget_is_given(other, pictures, run_cli):
    shares = set()
    files = [other.parent / f"{method}.onnx" for method in ("max", "entropy", "percentile", "mse")]
    for path in files:
        said = ["--precision", "int8", "--method", path.stem, "--images", pictures, "-o", path, "--json"]
        code, out, err = run_cli("calibrate", other, *said)
        assert code == 0, err
        made = json.loads(out)
        shares.add(made["int8"]["share_of_multiply_adds"])
        assert made["int8"]["blocks_left_out"] == []
        assert made["int8"]["method"] == path.stem
    assert len(shares) == 1
    assert len({path.read_bytes() for path in files}) > 2, "methods give ranges of their own"


def test_auto_keeps_the_method_that_changes_least(other, pictures, run_cli):
    code, out, err = run_cli("calibrate", other, "--precision", "int8", "--images", pictures, "--json")
    assert code == 0, err
    tried = json.loads(out)["int8"]["methods_tried"]
    assert set(tried) == {"max", "entropy", "percentile", "mse"}
    assert tried[json.loads(out)["int8"]["method"]] == min(tried.values())


def test_the_cpu_graph_is_integer_in_float32_and_bench_takes_it(other, pictures, run_cli):
    said = ["--precision", "int8", "--for", "cpu", "--images", pictures, "--max-drop", "1", "--json"]
    code, out, err = run_cli("calibrate", other, *said)
    assert code == 0, err
    path = Path(json.loads(out)["file"])
    assert path.name == "classifier.int8-cpu.onnx"
    assert "int8 in float32" in product_types(path)["Conv"]
    code, out, err = run_cli("bench", path, "--batch", "1", "--no-memory", "--seconds", "0.2", "--json")
    assert code == 0, err
    assert [timing["file"] for timing in json.loads(out)["timings"]] == ["classifier.onnx", path.name]
    code, _, err = run_cli("trt", path)
    assert code == 1
    assert "for a CPU" in err


def test_a_graph_that_is_not_ours(other, pictures, tmp_path, run_cli):
    path = other
    for precision, budget in (("fp16", []), ("int8", ["--max-drop", "1", *BY_WORK])):
        line = ("calibrate", path, "--precision", precision, "--images", pictures, "--force", *budget, "--json")
        code, out, err = run_cli(*line)
        assert code == 0, err
        assert "not a file of hemf-export" in err
        made = json.loads(out)
        assert made["precision"] == precision
        assert made["proof"]["figures"]["accuracy"] > 0.9
        assert made["proof"]["figures"]["accuracy_drop_points"] <= 1
        if precision == "int8":
            kept = max(step["share"] for step in made["search"] if step["kept"])
            assert made["int8"]["share_of_multiply_adds"] == pytest.approx(kept, abs=1e-3), "the largest that was kept"
        found = onnx.load(made["file"])
        assert not [node for node in found.graph.node if node.op_type == "BatchNormalization"], "folded"
    blocks = json.loads((tmp_path / "classifier.int8.sensitivity.json").read_text())["blocks"]
    assert all(block["block"].startswith("nodes ") for block in blocks)
    assert len(blocks) == 3, "two of the five products are depthwise or the classifier"
    assert OnnxFile.open(tmp_path / "classifier.int8.onnx").read_ours()[1].preprocess.size == 32


def test_preprocessing_of_a_graph_that_is_not_ours_can_be_said_and_of_ours_not(other, pictures, model, run_cli):
    path = other
    said = ["--precision", "fp16", "--images", pictures, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.25"]
    code, out, err = run_cli("calibrate", path, *said, "--classes", ",".join(CLASSES), "--json")
    assert code == 0, err
    assert json.loads(out)["preprocess"]["std"] == [0.5, 0.5, 0.25]
    assert json.loads(out)["classes"] == list(CLASSES)
    code, _, err = run_cli("calibrate", model, *said)
    assert code == 1
    assert "records its own preprocessing and classes" in err


def test_a_budget_that_nothing_keeps_is_exit_3_and_leaves_nothing(other, pictures, run_cli):
    before = sorted(path.name for path in other.parent.iterdir())
    code, _, err = run_cli("calibrate", other, "--precision", "fp16", "--images", pictures, "--max-logit-diff", "1e-9")
    assert code == 3
    assert "--max-logit-diff" in err
    assert sorted(path.name for path in other.parent.iterdir()) == before


def test_where_int8_is_not_worth_it_the_answer_is_fp16(pictures, tmp_path, run_cli):
    """All the work is in the product that an outlier channel ruins."""
    path = tmp_path / "classifier.onnx"
    onnx.save(classifiers.outlier_channel(pictures, only=True), path)
    code, out, err = run_cli(
        "calibrate", path, "--precision", "int8", "--images", pictures, "--max-drop", "0.5", "--json", *BY_WORK
    )
    assert code == 0, err
    assert "The result is FP16" in err
    made = json.loads(out)
    assert made["precision"] == "fp16"
    assert made["file"].endswith("classifier.fp16.onnx")
    assert made["proof"]["figures"]["accuracy_drop_points"] <= 0.5
    assert not [step for step in made["search"] if step["kept"] and step["share"] > 0.1]


def test_an_fp16_file_keeps_to_a_drop_that_is_asked_for_or_is_not_written(pictures, other, run_cli):
    said = ["calibrate", other, "--precision", "fp16", "--images", pictures, "--json"]
    code, out, err = run_cli(*said, "--max-drop", "5")
    assert code == 0, err
    assert json.loads(out)["proof"]["budget"]["max_drop"] == 5
    made = onnx.load(other.with_name("classifier.fp16.onnx"))
    assert HALF in {tensor.data_type for tensor in made.graph.initializer}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--precision", "fp16", "--images", "DATA", "--method", "mse"], 2, "--method needs --precision int8"),
        (["--precision", "fp16", "--images", "DATA", "--for", "cpu"], 2, "--for cpu"),
        (["--precision", "int8", "--images", "BLACK"], 1, "are black"),
        (["--precision", "int8", "--images", "ONE"], 1, "one class only"),
    ],
)
def test_what_is_refused(model, pictures, tmp_path, run_cli, arguments, code, message):
    folders = {name: tmp_path / name.lower() for name in ("BLACK", "ONE")}
    for kind in CLASSES:
        (folders["BLACK"] / kind).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (40, 40)).save(folders["BLACK"] / kind / f"{index}.png")
    write_images(folders["ONE"] / "dark", 6, "dark")
    places = {**{name: str(path) for name, path in folders.items()}, "DATA": str(pictures)}
    before = {path: path.read_bytes() for path in model.parent.glob("best*")}
    found, _, err = run_cli("calibrate", model, *(places.get(argument, argument) for argument in arguments))
    assert found == code, err
    assert message in err
    assert {path: path.read_bytes() for path in model.parent.glob("best*")} == before


@pytest.mark.parametrize("option", ["--held-out-count", "--judges"])
def test_the_earlier_name_of_held_out_count_is_accepted(option, model, pictures, run_cli, monkeypatch):
    calls: list[dict[str, Any]] = []

    def quantize(*_: Any, **options: Any) -> None:
        calls.append(options)
        raise BadInputError("enough")

    monkeypatch.setattr("hemf_export.quantize", quantize)
    code, _, err = run_cli("calibrate", model, "--precision", "fp16", "--images", pictures, option, "6")
    assert code == 1, err
    assert [call["held_out_count"] for call in calls] == [6]
    _, text, _ = run_cli("calibrate", "--help")
    assert "--held-out-count" in text
    assert "--judges" not in text


def test_one_class_is_taken_where_it_is_said(model, tmp_path, run_cli):
    write_images(tmp_path / "one" / "dark", 8, "dark")
    said = ["--precision", "fp16", "--images", tmp_path / "one", "--allow-single-class", "--json"]
    code, out, err = run_cli("calibrate", model, *said)
    assert code == 0, err
    assert json.loads(out)["proof"]["calibration_images"]["classes"]["dark"] > 0


def test_the_same_image_in_both_splits_is_counted_and_left_out(other, pictures, tmp_path, run_cli):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    for index in range(3):
        shutil.copy(data / "train" / "dark" / f"dark{index}.png", data / "val" / "dark" / f"copy{index}.png")
    code, out, err = run_cli("calibrate", other, "--precision", "fp16", "--images", data, "--json")
    assert code == 0, err
    assert "3 held-out images are also in the calibration set" in err
    assert json.loads(out)["proof"]["images"]["images"] == 48


def test_a_damaged_cache_is_told_and_made_again(other, pictures, tmp_path, run_cli, monkeypatch):
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    said = ["--precision", "fp16", "--images", pictures, "--json"]
    code, out, err = run_cli("calibrate", other, *said)
    assert code == 0, err
    files = list((tmp_path / "cache").glob("*.npz"))
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, again, err = run_cli("calibrate", other, *said)
    assert code == 0
    assert "damaged" in err
    assert json.loads(again)["sha256"] == json.loads(out)["sha256"]


@pytest.mark.extended
@kills.posix
def test_killed_and_run_again_it_goes_on_from_the_cache(other, pictures, tmp_path):
    """`kill -9` in the middle of the measurements: the next run takes what there is, and ends with the same bytes."""
    line = ["calibrate", other, "--precision", "int8", "--images", pictures, "--max-drop", "0.5", "--method", "mse"]
    made = other.parent / "classifier.int8.onnx"

    def program(folder: str, kill_at: int = 0) -> list[str]:
        return kills.program([*line, *BY_WORK], tmp_path / folder, kill_at=kill_at, once="*.npz")

    def entries() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (tmp_path / "cut").glob("*.npz")}

    kills.killed(program("cut", kill_at=12), HEMF_EXPORT_CACHE=str(tmp_path / "cut"))
    assert not made.exists()
    kept = entries()
    assert kept
    environment = {name: {**os.environ, "HEMF_EXPORT_CACHE": str(tmp_path / name)} for name in ("cut", "whole")}
    done = subprocess.run(program("cut"), env=environment["cut"], capture_output=True, check=True)
    assert b"damaged" not in done.stderr
    assert len(entries()) > len(kept)
    assert {name: entries()[name] for name in kept} == kept, "what there was has not been made again"
    cut = made.read_bytes()
    subprocess.run(program("whole"), env=environment["whole"], capture_output=True, check=True)
    assert made.read_bytes() == cut
