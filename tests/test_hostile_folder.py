"""A user's folder that holds files named as parts of ours: nothing there is imported, nor run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

NAMES = ("train.py", "engines/__init__.py", "calibration.py", "hemf.py", "networks.py", "files/__init__.py", "cli.py")
MARKER = "imported.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / MARKER)!r}, 'a').write({name!r} + chr(10))\n")
    return tmp_path


def ran(folder: Path, *words: object) -> str:
    """Run Python in the folder, with our repository on its path as an editable install has it; what it said."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def unharmed(folder: Path) -> None:
    marker = folder / MARKER
    assert not marker.exists(), f"imported: {marker.read_text()}"


def test_the_markers_work(folder):
    ran(folder, "-c", "import train, engines, calibration, hemf")
    assert (folder / MARKER).read_text().split() == ["train.py", "engines/__init__.py", "calibration.py", "hemf.py"]


def test_every_module_is_imported_from_the_package(folder):
    code = """
import importlib, pkgutil, hemf_export
left_out = ("__main__", "memory_worker", "probe", "served")
for module in pkgutil.walk_packages(hemf_export.__path__, "hemf_export."):
    if not any(part in left_out for part in module.name.split(".")):
        importlib.import_module(module.name)
print(len(__import__("sys").modules))
"""
    ran(folder, "-W", "ignore", "-c", code)
    unharmed(folder)


def test_the_command_line(folder, made):
    ran(folder, "-m", "hemf_export", "inspect", made.onnx)
    ran(folder, "-m", "hemf_export", "onnx", made.checkpoint, "-o", "model.onnx")
    unharmed(folder)


@pytest.mark.extended
def test_training_under_torchrun(folder, image_data):
    options = ("--model", "hemf-tiny", "--image-size", 32, "--epochs", 1, "--batch-size", 4)
    distributed = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 1, "-m", "hemf_export")
    ran(folder, *distributed, "train", image_data, "-o", "run", *options)
    assert (folder / "run" / "best.pt").is_file()
    unharmed(folder)


@pytest.mark.extended
def test_each_function_of_the_api(folder, image_data, trained_checkpoint):
    code = f"""
import shutil, hemf_export
data = {str(image_data)!r}
shutil.copy({str(trained_checkpoint)!r}, "best.pt")
hemf_export.train(data, "run", model="hemf-tiny", image_size=32, recipe={{"epochs": 1, "batch_size": 4}})
onnx = hemf_export.export_onnx("best.pt", images=data)
half = hemf_export.quantize(onnx, data, min_agreement=0.5)
hemf_export.load(half).predict(data + "/test")
verification = hemf_export.verify([onnx, half], data)
hemf_export.evaluate(onnx, data)
hemf_export.explain("best.pt", data + "/test/dark")
hemf_export.benchmark(["best.pt", onnx], batches=[1], seconds=0.2)
files = [onnx, half]
try:
    files.append(hemf_export.build_engine(half))
except hemf_export.MissingCapabilityError as error:  # no TensorRT-RTX for this platform
    print(error)
bundle = hemf_export.bundle(files, "best.tar.zst", verification=verification)
assert hemf_export.self_test(bundle).passed
hemf_export.ship("best.pt", data, "shipped", precision="fp16", bench=False)
"""
    ran(folder, "-W", "ignore", "-c", code)
    unharmed(folder)
