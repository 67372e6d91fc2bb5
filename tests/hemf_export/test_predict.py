"""`predict`: every kind of file gives the same classes and probabilities, and a bad image is named before any."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.engines.machine import Machine
from hemf_export.files import artifacts
from hemf_export.files.errors import CheckFailedError, UsageError
from hemf_export.images.images import Preprocess
from hemf_export.models import onnx_model, predictor, runners
from hemf_export.models.description import Description, InputType
from hemf_export.models.model_file import ModelFile
from tests.conftest import CLASSES, TINY, tiny_checkpoint, write_images
from tests.engines.test_preflight import RTX, engine

PREPROCESS = Preprocess.for_size(64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for kind in CLASSES:
        write_images(folder, 2, kind)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(images: list[Path]) -> np.ndarray:
    """Probabilities in float64, with nothing but torch and the description of the preprocessing."""
    saved = tiny_checkpoint()
    pixels = np.stack([saved.preprocess.load(path) for path in images])
    with torch.inference_mode():
        logits = saved.model()(torch.from_numpy(saved.preprocess.normalize(pixels)))
    return torch.softmax(logits.double(), 1).numpy()


def fixed_file(path: Path, input_type: InputType) -> Path:
    """An ONNX file for four images at a time, whose logits are the means of the channels, for raw pixels times 1/16."""
    shape, axes = ([4, 64, 64, 3], [1, 2]) if input_type == "uint8" else ([4, 3, 64, 64], [2, 3])
    kind = onnx.TensorProto.UINT8 if input_type == "uint8" else onnx.TensorProto.FLOAT
    scale = 1 / 16 if input_type == "uint8" else 1.0
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["wide", "axes"], ["means"], keepdims=0),
        onnx.helper.make_node("Mul", ["means", "scale"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "means",
        [onnx.helper.make_tensor_value_info("images", kind, shape)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [4, 3])],
        [
            onnx.numpy_helper.from_array(np.array(axes, np.int64), "axes"),
            onnx.numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        ],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    model = ir.serde.deserialize_model(proto)
    description = Description("means", CLASSES, PREPROCESS, "fp32", input_type, 4, "0" * 64, {})
    onnx_model.describe(model, description)
    ir.save(model, path)
    return path


def probabilities(found: list[predictor.Prediction]) -> np.ndarray:
    return np.array([prediction.probabilities for prediction in found])


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A checkpoint whose weights are finite and whose logits are not."""
    saved = tiny_checkpoint()
    weight = torch.full_like(saved.state["head.weight"], 3e38)
    path = tmp_path / "overflowing.pt"
    checkpoint.save(dataclasses.replace(saved, state={**saved.state, "head.weight": weight}), path)
    return path


@pytest.mark.parametrize(
    ("kind", "precision", "tolerance"), [("checkpoint", "fp32", 1e-6), ("onnx", "fp32", 1e-5), ("half", "fp16", 1e-2)]
)
def test_every_file_gives_the_probabilities_of_the_network(made, images, expected, kind, precision, tolerance):
    model = ModelFile.open(getattr(made, kind)).predictor()
    assert (model.description.classes, model.description.precision) == (CLASSES, precision)
    assert getattr(made, kind).name in model.name
    for batch in (1, 4, 8):
        found = model.predict(images, batch)
        assert [prediction.path for prediction in found] == images
        np.testing.assert_allclose(probabilities(found), expected, atol=tolerance)
    for prediction, row in zip(found, expected, strict=True):
        assert prediction.label == CLASSES[row.argmax()]
        assert prediction.probability == max(prediction.probabilities)
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
def test_a_fixed_batch_is_filled_up(images, tmp_path, monkeypatch, input_type):
    model = ModelFile.open(fixed_file(tmp_path / "fixed.onnx", input_type)).predictor()
    seen: list[np.ndarray] = []
    infer = model.runner.infer
    monkeypatch.setattr(model.runner, "infer", lambda batch: seen.append(batch) or infer(batch))
    pixels = np.stack([PREPROCESS.load(path) for path in images]).astype(np.float64)
    means = pixels.mean((1, 2)) / 16 if input_type == "uint8" else ((pixels / 255 - 0.5) / 0.5).mean((1, 2))
    powers = np.exp(means)
    for count in (1, 4, 6):
        found = model.predict(images[:count], batch=2)
        assert [prediction.path for prediction in found] == images[:count], "none of the surplus"
        np.testing.assert_allclose(probabilities(found), (powers / powers.sum(1, keepdims=True))[:count], atol=1e-5)
    assert [len(batch) for batch in seen] == [4, 4, 4, 4]
    assert all((image == seen[0][0]).all() for image in seen[0]), "its last image is repeated"
    assert seen[0].dtype == input_type


def test_another_batch_than_the_fixed_one_is_refused(images, tmp_path, run_cli):
    path = fixed_file(tmp_path / "fixed.onnx", "uint8")
    code, _, err = run_cli("predict", path, images[0], "--batch", "2")
    assert code == 2
    assert "fixed batch 4" in err
    assert run_cli("predict", path, images[0], "--batch", "4")[0] == 0


THREE_LINES = """
from hemf_export.models.model_file import ModelFile
model = ModelFile.open("run/best.onnx").predictor()
print(model.predict(["a.png"]))
"""


def test_three_lines_of_python_do_the_same(made, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    shutil.copy(made.onnx, "run/best.onnx")
    shutil.copy(images[0], "a.png")
    exec(THREE_LINES, {})
    assert "[Prediction(path=PosixPath('a.png'), label='" in capsys.readouterr().out
    model = ModelFile.open("run/best.onnx").predictor()
    assert model.predict("a.png") == model.predict([Path("a.png")]), "a single path is not a list of letters"
    assert model.predict([]) == []
    with pytest.raises(UsageError, match="at least 1"):
        model.predict(["a.png"], batch=0)


def test_a_folder_among_the_images_and_the_share_that_is_right(made, images, image_data, run_cli):
    folder = image_data / "test"
    code, out, err = run_cli("predict", made.checkpoint, images[0], folder, "--json")
    assert code == 0, err
    report = json.loads(out)
    files = sorted(folder.rglob("*.png"))
    assert report["file"] == str(made.checkpoint)
    assert report["classes"] == list(CLASSES)
    assert [found["image"] for found in report["predictions"]] == [str(path) for path in (images[0], *files)]
    for found in report["predictions"]:
        assert list(found["probabilities"]) == list(CLASSES)
        assert found["class"] == max(found["probabilities"], key=found["probabilities"].get)
        assert found["probability"] == found["probabilities"][found["class"]]
    right = sum(found["class"] == Path(found["image"]).parent.name for found in report["predictions"][1:])
    assert report["class_folders"] == [{"folder": str(folder), "images": 12, "right": right}]
    code, out, _ = run_cli("predict", made.checkpoint, folder)
    assert code == 0
    assert f"{right} of 12, {right / 12:.0%}" in out.splitlines()[-1]
    assert out.count("✗") == 12 - right + 1, "and once where it is explained"
    assert "\nbright/bright0.png" in out, "names below the folder"


def test_what_is_shown_of_an_image(made, images, expected, run_cli, monkeypatch):
    monkeypatch.chdir(made.folder)
    code, out, _ = run_cli("predict", made.onnx.name, *images[:2], "--top", "9")
    assert code == 0
    title, head, first, _ = out.splitlines()
    assert title == "model.onnx (fp32): 2 images"
    assert [word.strip() for word in head.split("  ") if word.strip()] == [
        "image",
        "class",
        "probability",
        "next likely",
    ]
    order = np.argsort(-expected[0])
    assert [word for word in first.split() if word in CLASSES] == [CLASSES[index] for index in order]
    assert f"{expected[0].max():.1%}" in first
    code, out, _ = run_cli("predict", made.onnx.name, images[0], "--top", "1")
    assert code == 0
    assert "next likely" not in out
    assert [word for word in out.splitlines()[-1].split() if word in CLASSES] == [CLASSES[order[0]]]


def test_names_that_no_terminal_can_show(made, images, tmp_path, run_cli):
    folder = tmp_path / "names"
    folder.mkdir()
    for name in (b"[red].png", b"bad\xff.png", b"two\nlines.png"):
        shutil.copy(images[0], os.fsencode(folder) + b"/" + name)
    code, out, err = run_cli("predict", made.checkpoint, folder)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["[red].png", "bad\\udcff.png", "two\\nlines.png"]
    assert len(json.loads(run_cli("predict", made.checkpoint, folder, "--json")[1])["predictions"]) == 3


def test_a_table_of_contents_is_passed_over_and_told(made, images, tmp_path, run_cli):
    shutil.copy(images[0], tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("")
    code, out, err = run_cli("predict", made.checkpoint, tmp_path)
    assert code == 0
    assert "a.png" in out
    assert "labels.csv" in err


def test_every_bad_image_is_named_before_any_is_classified(made, images, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(runners.TorchRunner, "infer", lambda *_: pytest.fail("something was classified"))
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:-200])
    (tmp_path / "text.jpg").write_text("not an image")
    code, out, err = run_cli("predict", made.checkpoint, images[0], tmp_path, "--json")
    assert code == 1
    assert "2 of 3 images" in err
    assert "cut.png" in err
    assert "text.jpg" in err
    assert json.loads(out)["exit_code"] == 1


def test_logits_that_are_not_finite_are_no_prediction(overflowing, images, run_cli):
    with pytest.raises(CheckFailedError, match=f"{images[0].name}.* not finite"):
        ModelFile.open(overflowing).predictor().predict(images)
    code, out, err = run_cli("predict", overflowing, images[1], "--json")
    assert code == 3
    assert images[1].name in err
    assert json.loads(out)["exit_code"] == 3


def test_weights_that_are_not_finite_are_named(images, tmp_path, run_cli):
    saved = tiny_checkpoint()
    weight = torch.full_like(saved.state["head.weight"], float("nan"))
    checkpoint.save(dataclasses.replace(saved, state={**saved.state, "head.weight": weight}), tmp_path / "nan.pt")
    code, _, err = run_cli("predict", tmp_path / "nan.pt", images[0])
    assert code == 1
    assert "head.weight" in err


def test_large_logits_do_not_overflow_the_softmax():
    found = predictor.softmax(np.array([[1e4, 1e4, -1e4], [3e38, -3e38, 0]], np.float32))
    np.testing.assert_array_equal(found, [[0.5, 0.5, 0], [1, 0, 0]])


def test_a_file_without_class_names_takes_them_from_the_command(images, tmp_path, run_cli):
    torch.save(tiny_checkpoint(config=TINY).state, tmp_path / "best_model.pth")
    code, out, err = run_cli("predict", tmp_path / "best_model.pth", images[0], "--json")
    assert code == 0
    assert "--classes a,b,c" in err
    assert json.loads(out)["classes"] == ["class_0", "class_1", "class_2"]
    number = int(json.loads(out)["predictions"][0]["class"].removeprefix("class_"))
    code, out, _ = run_cli("predict", tmp_path / "best_model.pth", images[0], "--classes", "a, b,c", "--json")
    assert code == 0
    assert json.loads(out)["predictions"][0]["class"] == "abc"[number]


def test_a_checkpoint_in_the_authors_layout(authors, images, tmp_path, run_cli):
    state = {key: torch.from_numpy(np.array(value)) for key, value in authors.state_dict(3, 0).items()}
    torch.save(state, tmp_path / "ckpt.pth")
    code, out, err = run_cli("predict", tmp_path / "ckpt.pth", images[0], "--json")
    assert code == 0, err
    assert len(json.loads(out)["predictions"]) == 1
    assert "Authors' layout" in err


@pytest.mark.parametrize("kind", ["onnx", "checkpoint"])
def test_other_class_names_than_the_files_own_are_refused(made, images, run_cli, kind):
    code, _, err = run_cli("predict", getattr(made, kind), images[0], "--classes", "a,b,c")
    assert code == 1
    assert "has the classes bright, dark, striped" in err
    assert run_cli("predict", getattr(made, kind), images[0], "--classes", ",".join(CLASSES))[0] == 0


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("model.t4.engine", 1, "has no manifest: nothing tells its classes and preprocessing"),
        ("model.plan", 1, "has no manifest: nothing tells its classes and preprocessing"),
        ("model.txt", 1, "not a checkpoint, an ONNX file or an engine"),
        ("model.png", 1, "file comes first, then the images"),
        ("model.onnx", 1, "not a whole ONNX file"),
        ("model.pt", 1, "model.pt"),
    ],
)
def test_files_that_cannot_be_taken(images, tmp_path, run_cli, name, code, message):
    assert run_cli("predict", tmp_path / name, images[0])[0] == 1, "not there"
    (tmp_path / name).write_bytes(b"x" * 64)
    found, out, err = run_cli("predict", tmp_path / name, images[0], "--json")
    assert found == code
    assert message in err
    assert json.loads(out)["exit_code"] == code


def test_a_sound_engine_on_a_machine_without_a_gpu_is_exit_4_with_the_way_out(images, tmp_path, run_cli, monkeypatch):
    path = engine(tmp_path)
    monkeypatch.setattr("hemf_export.engines.machine.here", lambda *_: Machine(None, {"tensorrt-rtx": RTX}))
    code, out, err = run_cli("predict", path, images[0], "--json")
    assert code == 4
    assert f"{path} needs a GPU of sm_75; none is seen here." in json.loads(out)["error"]
    assert "The ONNX file that it was built from runs on a CPU." in err
    monkeypatch.setattr("hemf_export.engines.machine.here", lambda *_: Machine((7, 5), {}))
    code, out, err = run_cli("predict", path, images[0], "--json")
    assert code == 4
    assert f"{path} needs tensorrt-rtx {RTX}, which is not installed here." in json.loads(out)["error"]
    assert "The ONNX file that it was built from runs on a CPU." in err


def test_garbage_with_the_manifest_of_an_engine_is_no_plan(images, tmp_path, run_cli):
    path = tmp_path / "model.engine"
    path.write_bytes(b"x" * 64)
    artifacts.write_manifest(path, {"kind": "engine"})
    code, _, err = run_cli("predict", path, images[0])
    assert code == 1
    assert "is not a TensorRT plan" in err


def test_a_manifest_that_disagrees_refuses_the_file(made, images, tmp_path, run_cli):
    for path in (made.onnx, artifacts.manifest_path(made.onnx)):
        shutil.copy(path, tmp_path)
    path = tmp_path / made.onnx.name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, _, err = run_cli("predict", path, images[0])
    assert code == 1
    assert "is not the file that" in err
