"""The wheel: what is in it, that nothing else is, and that it works where no checkout is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.conftest import PROJECT, once

ROOMS = ("hemf", "train", "calibration", "engines", "hemf_export")
MODULES = {path.relative_to(PROJECT).as_posix() for room in ROOMS for path in (PROJECT / room).rglob("*.py")}
CPP = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "engines" / "cpp").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(once(tmp_path_factory, "wheel", build).glob("*.whl"))


def build(folder: Path) -> None:
    source = folder / "source"
    # A copy: setuptools leaves a build/ folder, and would take stale modules from one that lies there.
    for name in (*MODULES, *CPP, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((PROJECT / name).read_bytes())
    for stray in ("demo-run/best.py", "tests/test_x.py", "benchmarks/__init__.py", "calibration/notes.txt"):
        (source / stray).parent.mkdir(exist_ok=True)
        (source / stray).write_text("")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_holds_our_modules_the_cpp_sources_and_nothing_else(wheel):
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == MODULES | CPP
    assert {"engines/cpp/CMakeLists.txt", "engines/cpp/include/hemf/hemf.h"} <= found
    assert "hemf_export/cli.py" in found


def test_its_metadata_names_the_licence_the_command_and_the_floors(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(names["METADATA"]).decode())
        assert "hemf-export = hemf_export.cli:main" in archive.read(names["entry_points.txt"]).decode()
    assert metadata["License-Expression"] == "MIT"
    assert "LICENSE" in names
    requirements = metadata.get_all("Requires-Dist") or []
    for floor in ("torch<2.14,>=2.10", "onnx>=1.22", "Pillow>=13"):
        assert floor in requirements
    assert any(line.startswith("onnxruntime-gpu") and "linux" in line for line in requirements)


def test_it_runs_without_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "import sys; sys.path.insert(0, 'site'); import hemf_export, calibration; "
        "assert 'site' in hemf_export.__file__ and 'site' in calibration.__file__; "
        "from hemf_export.cli import run; sys.exit(run(['info', 'hemf-tiny']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hemf-tiny" in done.stdout
