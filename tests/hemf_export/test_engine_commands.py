"""`trt`, `self-test`, `predict` and `inspect` of engines, on a fake TensorRT that computes on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export import cli
from hemf_export.calibration.session import Session
from hemf_export.engines.golden import Golden
from hemf_export.files import artifacts
from hemf_export.images.images import Preprocess
from hemf_export.models import predictor
from hemf_export.models.description import Description
from hemf_export.models.model_file import ModelFile
from tests.conftest import CLASSES, write_images
from tests.engines import fake_tensorrt as fake

PREPROCESS = Preprocess.for_size(8)


@pytest.fixture(autouse=True)
def t4() -> Iterator[pytest.MonkeyPatch]:
    """A machine with a T4 and both flavours of TensorRT."""
    with fake.installed() as patch:
        fake.on_a_gpu(patch)
        yield patch


@pytest.fixture(scope="module")
def built(made, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the tiny network in float16, by the command."""
    folder, packages = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("packages")
    for path in (made.half, artifacts.manifest_path(made.half)):
        shutil.copy(path, folder)
    with fake.installed(packages) as patch:
        fake.on_a_gpu(patch)
        assert cli.run(["trt", str(folder / made.half.name), "--images", str(pictures), "--batch", "1:4:4"]) == 0
    return folder / "model.fp16.t4.engine"


def small(
    folder: Path, *, shown: int = 4, raw: bool = False, batch: int | str = "n", weight: float = 1.0, off: float = 0,
    **options: Any,
) -> Path:  # fmt: skip
    """An engine with `shown` golden images, whose logits are given as larger by `off` than the graph gives them."""
    graph = fake.classifier(folder / "m.onnx", raw=raw, batch=batch, weight=weight)
    description = Description(
        "means", CLASSES, PREPROCESS, "fp32", "uint8" if raw else "float32", None if batch == "n" else int(batch),
        "0" * 64, {},
    )  # fmt: skip
    changes = description.to_dict()
    if shown:
        pixels = np.random.default_rng(0).integers(0, 256, (shown, 8, 8, 3), dtype=np.uint8)
        logits = logits_of(graph, pixels, raw, batch) + np.float32(off)
        changes["golden"] = Golden(pixels, logits, "noise", 0.01).write(graph.with_name("m.t4.engine"))
    return fake.engine(graph, changes=changes, **options)


def logits_of(graph: Path, pixels: np.ndarray, raw: bool = False, batch: int | str = "n") -> np.ndarray:
    """What the graph gives, one image at a time: repeated to its batch where that is fixed."""
    session, inputs = Session(graph), pixels if raw else PREPROCESS.normalize(pixels)
    count = 1 if batch == "n" else int(batch)
    return np.concatenate([session.logits(np.repeat(one[None], count, axis=0))[:1] for one in inputs])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for kind in CLASSES:
        write_images(tmp_path / "images" / kind, 2, kind)
    return tmp_path / "images"


def test_from_the_command_that_builds_to_the_classes_of_images(built, made, pictures, run_cli):
    manifest = artifacts.read_manifest(built)
    assert (manifest["backend"], manifest["built_on"]) == ("tensorrt", fake.GPU), "there is a GPU of the target's kind"
    assert manifest["golden"]["shape"] == [4, 64, 64, 3]
    assert "test" in manifest["golden"]["source"]
    code, out, err = run_cli("self-test", built)
    assert code == 0, err
    assert f"{built} computes what its graph does" in out
    assert f"next: hemf-export predict {built} IMAGE…" in err
    folder = pictures / "test"
    code, out, err = run_cli("predict", built, folder, "--json")
    assert code == 0, err
    report = json.loads(out)
    expected = ModelFile.open(made.half).predictor().predict([folder])
    assert [found["image"] for found in report["predictions"]] == [str(one.path) for one in expected]
    assert [found["class"] for found in report["predictions"]] == [one.label for one in expected]
    for found, one in zip(report["predictions"], expected, strict=True):
        np.testing.assert_allclose(list(found["probabilities"].values()), one.probabilities, atol=1e-5)
    assert report["class_folders"][0]["images"] == 12
    code, out, err = run_cli("predict", built, folder)
    assert out.startswith(f"{built} (fp16): 12 images")
    assert "golden" not in err


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_self_test_passes(tmp_path, run_cli, t4, backend, raw, graphs):
    path, device = small(tmp_path, raw=raw, backend=backend), fake.CpuDevice()
    t4.setattr("hemf_export.engines.device.CudaDevice", lambda: device)
    code, out, err = run_cli("self-test", path, "--cuda-graphs" if graphs else "--no-cuda-graphs", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert 0 <= found["logit_difference"]["max"] < 1e-5
    assert found.items() >= {
        "file": str(path), "images": 4, "bound": 0.01, "agreement": 1.0, "finite": True, "notes": [], "passed": True,
    }.items()  # fmt: skip
    assert device.captured == ([4] if graphs and backend == "tensorrt" else []), "TensorRT-RTX captures by itself"


@pytest.mark.parametrize(("profile", "run"), [("4:4:8", 4), ("2:2:2", 4), ("5:5:5", 5), ("3:3:3", 3)])
def test_golden_images_are_repeated_to_fill_the_engines_batch(tmp_path, run_cli, profile, run):
    code, out, err = run_cli("self-test", small(tmp_path, shown=3, profiles=(profile,)), "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == run


@pytest.mark.parametrize("command", ["self-test", "predict"])
def test_an_engine_that_computes_something_else_is_exit_3(tmp_path, images, run_cli, command):
    path = small(tmp_path, off=0.25)
    arguments = [images] if command == "predict" else []
    code, out, err = run_cli(command, path, *arguments)
    assert (code, out) == (3, "")
    assert f"{path} doesn't compute what its graph does: a logit differs by 0.25, bound 0.01 (4 golden images)" in err
    assert "Build it again here" in err
    code, out, _ = run_cli(command, path, *arguments, "--json")
    assert code == 3
    assert json.loads(out)["exit_code"] == 3
    assert "a logit differs by 0.25" in json.loads(out)["error"]


def test_logits_that_are_not_finite_are_exit_3(tmp_path, run_cli, t4):
    path = small(tmp_path)
    t4.setenv("FAKE_TENSORRT", "nan")
    code, _, err = run_cli("self-test", path)
    assert code == 3
    assert "doesn't compute what its graph does: NaN" in err


def test_without_golden_images_self_test_is_exit_1_and_predict_says_so(tmp_path, images, run_cli):
    path = small(tmp_path, shown=0)
    code, out, err = run_cli("self-test", path, "--json")
    assert code == 1
    assert f"{path} has no golden images" in json.loads(out)["error"]
    code, _, err = run_cli("predict", path, images)
    assert code == 0
    assert "has no golden images: nothing shows that it computes what its graph does" in err


@pytest.mark.parametrize("command", ["self-test", "predict"])
def test_golden_images_that_were_changed_are_exit_1(tmp_path, images, run_cli, command):
    path = small(tmp_path)
    golden = path.with_name("m.t4.engine.golden")
    golden.write_bytes(golden.read_bytes()[::-1])
    code, _, err = run_cli(command, path, *([images] if command == "predict" else []))
    assert code == 1
    assert f"{golden} is not what the manifest of {path.name} describes" in err


@pytest.mark.parametrize("command", ["self-test", "predict"])
def test_another_gpu_is_exit_4(tmp_path, images, run_cli, t4, command):
    path = small(tmp_path)
    fake.on_a_gpu(t4, (8, 9))
    code, out, err = run_cli(command, path, *([images] if command == "predict" else []), "--json")
    assert code == 4
    assert "built for sm_75; this GPU is sm_89" in json.loads(out)["error"]
    assert "hemf-export trt m.onnx --fp32 --target sm_89 --backend tensorrt" in err
    assert ("runs on a CPU" in err) == (command == "predict")


@pytest.mark.parametrize("command", ["self-test", "predict", "inspect"])
def test_a_driver_that_is_too_old_is_exit_4(tmp_path, images, run_cli, t4, command):
    t4.setattr("hemf_export.engines.machine.driver", lambda: (12, 8))
    t4.setattr("hemf_export.engines.backends.cuda_major", lambda name: 13)
    path = small(tmp_path)
    code, out, err = run_cli(command, path, *([images] if command == "predict" else []), "--json")
    assert code == 4
    assert "built for CUDA 13; the NVIDIA driver serves CUDA up to 12.8." in json.loads(out)["error"]
    assert "Update the driver, or install tensorrt for CUDA 12." in err


@pytest.mark.parametrize("field", ["classes", "preprocess", "input_type", "precision"])
def test_a_manifest_that_does_not_tell_classes_or_preprocessing_is_exit_1(tmp_path, images, run_cli, field):
    path = small(tmp_path)
    place = artifacts.manifest_path(path)
    manifest = json.loads(place.read_text())
    del manifest[field]
    place.write_text(json.dumps(manifest))
    for command in (("self-test", path), ("predict", path, images)):
        code, _, err = run_cli(*command)
        assert code == 1
        assert f"The manifest of {path} doesn't tell classes and preprocessing: '{field}'" in err


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"profiles": ("1:2:4",)}, ()),
        ({"profiles": ("1:2:4",), "backend": "tensorrt-rtx"}, ("--batch", "3")),
        ({"profiles": ("4:4:8",)}, ("--batch", "5")),
        ({"profiles": ("4:4:4",)}, ("--batch", "4")),
        ({"batch": 4}, ()),
        ({"profiles": ("1:1:1", "8:8:8")}, ()),
        ({"profiles": ("4:4:5",)}, ("--batch", "11")),
        ({"raw": True, "profiles": ("2:2:4", "5:5:5")}, ()),
    ],
    ids=str,
)
def test_predict_gives_what_the_graph_gives_whatever_batches_the_engine_takes(
    tmp_path, images, run_cli, options, arguments
):
    path, raw = small(tmp_path, **options), options.get("raw", False)
    code, out, err = run_cli("predict", path, images, "--json", *arguments)
    assert code == 0, err
    found = json.loads(out)["predictions"]
    files = [Path(one["image"]) for one in found]
    assert files == sorted(images.rglob("*.png"))
    pixels = np.stack([PREPROCESS.load(file) for file in files])
    expected = predictor.softmax(logits_of(tmp_path / "m.onnx", pixels, raw, options.get("batch", "n")))
    np.testing.assert_allclose([list(one["probabilities"].values()) for one in found], expected, atol=1e-6)
    assert [one["class"] for one in found] == [CLASSES[row.argmax()] for row in expected]


def test_another_batch_than_the_only_one_is_wrong_usage(tmp_path, images, run_cli):
    code, _, err = run_cli("predict", small(tmp_path, profiles=("4:4:4",)), images, "--batch", "2")
    assert code == 2
    assert "fixed batch 4" in err


def test_other_class_names_than_the_engines_own_are_refused(tmp_path, images, run_cli):
    code, _, err = run_cli("predict", small(tmp_path), images, "--classes", "a,b,c")
    assert code == 1
    assert "has the classes bright, dark, striped" in err


@pytest.mark.parametrize("command", ["self-test", "predict"])
def test_what_tensorrt_rtx_thinks_of_an_engine_is_told(tmp_path, images, run_cli, t4, command):
    path = small(tmp_path, backend="tensorrt-rtx")
    t4.setenv("FAKE_TENSORRT", "suboptimal")
    code, _, err = run_cli(command, path, *([images] if command == "predict" else []))
    assert code == 0
    assert f"warning: TensorRT-RTX says that {path.name} is not the best for this GPU" in err


def test_inspect_lists_the_layers_of_an_engine_that_runs_here(tmp_path, run_cli, t4):
    path = small(tmp_path)
    code, out, err = run_cli("inspect", path, "--json")
    assert code == 0, err
    assert json.loads(out)["layers"] == {"CAST": {"fp32": 1}, "REDUCE": {"fp32": 1}, "MATRIX_MULTIPLY": {"fp32": 1}}
    assert "layers: MATRIX_MULTIPLY" in run_cli("inspect", path)[1]
    manifest = artifacts.read_manifest(path)
    artifacts.write_json(artifacts.manifest_path(path), {**manifest, "census": None})
    listed = json.loads(run_cli("inspect", path, "--layers", "--json")[1])["kernels"]
    assert [kernel["kind"] for kernel in listed] == ["CAST", "REDUCE", "MATRIX_MULTIPLY"], "by the inspector"
    assert "as TensorRT's inspector lists them" in run_cli("inspect", path, "--layers")[1]
    t4.setenv("FAKE_TENSORRT", "no-engine")
    code, out, err = run_cli("inspect", path)
    assert code == 0
    assert "Its layers can't be listed: tensorrt" in err
    assert "layers:" not in out
