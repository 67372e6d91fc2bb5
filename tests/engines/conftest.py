"""The C++ library, built once for all tests with sanitizers, and its program that shows what it makes of files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from tests.engines.cpp_probe import Probe

CPP = Path(__file__).parents[2] / "engines" / "cpp"
FLAGS = ("-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1", "-DHEMF_SANITIZE=address,undefined")


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """The library built, installed, and found again by CMake from there, as a user's program finds it."""
    for tool in ("cmake", "ninja", "c++", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cpp"
    with FileLock(f"{root}.lock"):  # one of the test processes builds, the others wait
        if not (root / "built").exists():
            build(root, CPP)
            (root / "built").touch()
    if (root / "missing").exists():
        pytest.skip((root / "missing").read_text())
    return Probe(root)


def build(root: Path, source: Path, *options: str) -> None:
    """Library and test programs in `root`; a file `missing` there says what this machine lacks."""
    installed = f"-DCMAKE_INSTALL_PREFIX={root / 'installed'}"
    unity = "-DCMAKE_UNITY_BUILD=ON"  # fewer and larger files to compile: half the time
    configured = run(
        ("cmake", "-S", source, "-B", root / "library", *FLAGS, unity, "-DCMAKE_UNITY_BUILD_BATCH_SIZE=40", installed,
         "-DHEMF_STRICT=ON", "-DHEMF_EXAMPLES=OFF", *options),
        check=False,
    )  # fmt: skip
    if configured.returncode != 0 and "Could NOT find" in configured.stderr:
        names = [name for name in ("JPEG", "PNG", "ZLIB") if f"Could NOT find {name}" in configured.stderr]
        root.mkdir(parents=True, exist_ok=True)
        (root / "missing").write_text(f"needs the headers of {', '.join(names)}")
        return
    assert configured.returncode == 0, configured.stderr
    run(("cmake", "--build", root / "library", "-j2"))
    run(("cmake", "--install", root / "library"))
    run(
        ("cmake", "-S", Path(__file__).parent / "cpp", "-B", root / "tests", *FLAGS, unity, f"-DHEMF_SOURCE={source}",
         f"-DCMAKE_PREFIX_PATH={root / 'installed'}", *options)
    )  # fmt: skip
    run(("cmake", "--build", root / "tests", "-j2"))


def run(command: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a step of the build; its whole output where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
