"""The C++ library and the programs of its tests, built once for all tests, with sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import PROJECT
from tests.engines.cpp_probe import Probe

SOURCE = PROJECT / "engines" / "cpp"
SANITIZERS = "address,undefined"
LIBRARIES = ("JPEG", "PNG", "ZLIB")


def built(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """The programs, built now unless another test, or another process of the same run, has built them; else a skip."""
    for tool in ("cmake", "ninja", "c++", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cpp"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            build(root)
    missing = root / "missing"
    if missing.exists():
        pytest.skip(f"needs the headers of {missing.read_text()}")
    return Probe(root)


def build(root: Path, *options: str, optimization: str = "-O0") -> None:
    """Library, installed, and test programs, which find it there with CMake as a user's program would.

    A file `missing` in `root` says which libraries this machine has no headers of.
    """
    root.mkdir()
    # Fewer and larger files to compile, none made faster: a third of the time.
    common = (
        "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={optimization}", "-DCMAKE_UNITY_BUILD=ON",
        "-DCMAKE_UNITY_BUILD_BATCH_SIZE=40", f"-DHEMF_SANITIZE={SANITIZERS}", *options,
    )  # fmt: skip
    library, programs, installed = root / "library", root / "tests", root / "installed"
    configured = run(
        ("cmake", "-S", SOURCE, "-B", library, f"-DCMAKE_INSTALL_PREFIX={installed}", "-DHEMF_STRICT=ON",
         "-DHEMF_EXAMPLES=OFF", *common),
        check=False,
    )  # fmt: skip
    missing = [name for name in LIBRARIES if f"Could NOT find {name}" in configured.stderr]
    if missing:
        (root / "missing").write_text(", ".join(missing))
        return
    assert configured.returncode == 0, configured.stderr
    run(("cmake", "--build", library, "-j2"))
    run(("cmake", "--install", library))
    tests = Path(__file__).parent / "cpp"
    run(
        ("cmake", "-S", tests, "-B", programs, f"-DHEMF_SOURCE={SOURCE}", f"-DCMAKE_PREFIX_PATH={installed}", *common),
    )
    run(("cmake", "--build", programs, "-j2"))


def run(command: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A step of a build; its whole output where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
