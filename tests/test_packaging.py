"""The wheel: what is in it, that nothing else is, and that it works where no checkout is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.conftest import PROJECT, once

LINKED = ("train", "calibration", "engines")  # folders at the top, imported through links in hemf_export/
MODULES = {
    *(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "hemf_export").rglob("*.py")),
    *(
        f"hemf_export/{path.relative_to(PROJECT).as_posix()}"
        for room in LINKED
        for path in (PROJECT / room).rglob("*.py")
    ),
}
CPP = {
    f"hemf_export/{path.relative_to(PROJECT).as_posix()}"
    for path in (PROJECT / "engines" / "cpp").rglob("*")
    if path.is_file()
}

TEMPLATES = {
    path.relative_to(PROJECT).as_posix() for path in (PROJECT / "hemf_export" / "pages" / "templates").iterdir()
}
LISTS = {
    path.relative_to(PROJECT).as_posix()
    for path in (PROJECT / "hemf_export").rglob("*.toml")
    if path.with_name("__init__.py").is_file()
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "wheel", build)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def build(folder: Path) -> None:
    source = folder / "source"
    # A copy: setuptools leaves a build/ folder, and would take stale modules from one that lies there.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, source)
    for room in ("hemf_export", *LINKED):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / room, source / room, symlinks=True, ignore=ignored)
    for stray in ("demo-run/best.py", "tests/test_x.py", "benchmarks/__init__.py", "calibration/notes.txt"):
        (source / stray).parent.mkdir(exist_ok=True)
        (source / stray).write_text("")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_links_in_the_package_lead_to_the_folders_at_the_top():
    for room in LINKED:
        assert (PROJECT / room).is_dir()
        assert not (PROJECT / room).is_symlink()
        assert (PROJECT / "hemf_export" / room).readlink() == Path("..") / room


def test_it_holds_our_modules_templates_the_cpp_sources_and_nothing_else(wheel):
    archived = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert archived == MODULES | CPP | TEMPLATES | LISTS | {"hemf_export/py.typed"}
    cpp = "hemf_export/engines/cpp"
    assert {f"{cpp}/CMakeLists.txt", f"{cpp}/include/hemf/hemf.h"} <= archived
    assert {"hemf_export/cli/__init__.py", "hemf_export/train/__init__.py"} <= archived


def test_the_source_archive_holds_files_where_the_repository_has_links(built):
    """The wheel above was built from it, so it is complete."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names >= MODULES | CPP | TEMPLATES | LISTS


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


@pytest.mark.extended
def test_it_runs_without_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "import sys; sys.path.insert(0, 'site'); import hemf_export.calibration; "
        "assert 'site' in hemf_export.__file__ and 'site' in hemf_export.calibration.__file__; "
        "from hemf_export.cli import run; sys.exit(run(['info', 'hemf-tiny']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hemf-tiny" in done.stdout
