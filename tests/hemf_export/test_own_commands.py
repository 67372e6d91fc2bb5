"""A user's own network through the commands, from images to a bundle, named again in each that reads its checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.extended
MODEL = ("--model", "my_models:resnet")


@pytest.fixture
def folder(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the code and the images, which nothing but the command line finds modules in."""
    shutil.copy(PROJECT / "examples" / "own_model" / "my_models.py", tmp_path)
    (tmp_path / "data").symlink_to(pictures)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return tmp_path


def test_from_images_to_a_bundle(folder: Path, run_cli):
    def run(*line: object) -> dict:
        code, out, err = run_cli(*line, "--json")
        assert code == 0, err
        return json.loads(out)

    assert run("info", *MODEL, "--num-classes", 3)["config"]["factory"] == MODEL[1]
    assert sys.path[-1] == str(folder), "it hides no installed package"
    recipe = ("--image-size", 32, "--epochs", 8, "--batch-size", 8, "--learning-rate", 2e-3, "--device", "cpu")
    summary = run("train", "data", "-o", "run", *MODEL, *recipe)
    assert summary["splits"]["val"]["accuracy"] > 0.6
    assert run("evaluate", "run/best.pt", "--data", "data", *MODEL)["models"]
    maps = run("explain", "run/best.pt", "data/test/dark", *MODEL, "--feature-layer", "stages")
    assert maps["cells"] == [2, 2]
    code, _, err = run_cli("explain", "run/best.pt", "data/test/dark", *MODEL, "-o", "other")
    assert code == 2
    assert "its modules: stem, stages, dropout, head" in err
    run("onnx", "run/best.pt", *MODEL)
    half = run("calibrate", "run/best.onnx", "--precision", "fp16", "--images", "data")
    assert half["precision"] == "fp16"
    eight = ("--precision", "int8", "--images", "data", "--for", "cpu", "--count", 12, "--held-out-count", 12)
    run("calibrate", "run/best.onnx", *eight, "--max-drop", 50)
    verified = run("verify", "run/best.onnx", "run/best.fp16.onnx", "--data", "data", *MODEL, "--locate")
    assert verified["passed"]
    run("bench", "run/best.onnx", *MODEL, "--seconds", 0.2, "--batch", 1, "--no-memory")
    run("bundle", "run/best.onnx", "run/best.fp16.onnx", "-o", "run.tar.zst", "--no-cpp", *MODEL)
    assert run("self-test", "run.tar.zst")["passed"]
    for line in (
        ("evaluate", "run/best.pt", "--data", "data", "-o", "again"), ("onnx", "run/best.pt", "-o", "again.onnx"),
        ("verify", "run/best.onnx", "--data", "data"), ("bench", "run/best.onnx", "--no-memory"),
        ("bundle", "run/best.onnx", "-o", "again.tar.zst"), ("info", "run/best.pt"), ("inspect", "run/best.pt"),
        ("predict", "run/best.pt", "data/test"), ("ship", "run/best.pt", "--data", "data", "-o", "again"),
    ):  # fmt: skip
        code, _, err = run_cli(*line)
        assert code == 1, line
        assert "is code of a user's own, my_models:resnet, which a file can't make run" in err
        assert "say so: --model my_models:resnet" in err


def test_a_process_of_its_own_that_measures_memory_gets_the_code_too(folder: Path):
    """The installed program, as a user starts it, finds nothing in the current folder except by --model."""
    program = "import sys; from hemf_export.cli import main; main(sys.argv[1:])"
    environ = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONSAFEPATH": "1"}

    def run(*line: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, line)], env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    recipe = ("--image-size", 32, "--epochs", 2, "--batch-size", 8, "--learning-rate", 2e-3, "--device", "cpu")
    run("train", "data", "-o", "run", *MODEL, *recipe)
    run("onnx", "run/best.pt", *MODEL)
    run("bench", "run/best.onnx", *MODEL, "--seconds", 0.2, "--batch", 1, "--runners", "eager,ort-cpu", "-o", "b.json")
    report = json.loads((folder / "b.json").read_text())
    peaks = [value for value in _found(report, "peak_rss_bytes") if value]
    assert len(peaks) == 2, "of PyTorch, whose network is the user's, and of ONNX Runtime"


def _found(value: object, key: str) -> list[object]:
    if isinstance(value, dict):
        return ([value[key]] if key in value else []) + [each for one in value.values() for each in _found(one, key)]
    return [each for one in value for each in _found(one, key)] if isinstance(value, list) else []
