"""The C++ library and the programs of its tests, built with sanitizers, once for all tests."""

from __future__ import annotations

import hashlib
import importlib.util
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


def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """The programs, built once a run; of an earlier run's build what changed since then. A skip where that can't be."""
    for tool in ("cmake", "ninja", "c++", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    base = tmp_path_factory.getbasetemp()
    run_wide = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, done = kept(request, run_wide), run_wide / "cpp-built"
    with FileLock(f"{root}.lock"):
        if not done.exists():
            build_again(root)
            done.touch()
    missing = root / "missing"
    if missing.exists():
        pytest.skip(f"needs the headers of {missing.read_text()}")
    return Probe(root)


def kept(request: pytest.FixtureRequest, otherwise: Path) -> Path:
    """A folder that lasts from run to run, of these tools and this checkout; below `otherwise` where there is none."""
    cache = getattr(request.config, "cache", None)  # gone with -p no:cacheprovider
    if cache is None:
        return otherwise / "cpp"
    asked = (("c++", "--version"), ("cc", "--version"), ("cmake", "--version"))
    named = "".join(run(command).stdout for command in asked) + str(SOURCE)
    return Path(cache.mkdir("cpp")) / hashlib.sha256(named.encode()).hexdigest()[:16]


def build_again(root: Path) -> None:
    """What changed; all of it where that fails, as where a library went that an earlier build had found."""
    earlier = root.exists()
    try:
        build(root)
    except AssertionError:
        if not earlier:
            raise
        shutil.rmtree(root)
        build(root)


def build(root: Path, *options: str, optimization: str = "-O0") -> None:
    """Library, installed, and test programs, which find it there with CMake as a user's program would.

    A file `missing` in `root` says which libraries this machine has no headers of.
    """
    root.mkdir(exist_ok=True)
    (root / "missing").unlink(missing_ok=True)
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
    shutil.rmtree(installed, ignore_errors=True)  # a header that is gone must be missed
    run(("cmake", "--install", library))
    tests = Path(__file__).parent / "cpp"
    run(
        ("cmake", "-S", tests, "-B", programs, f"-DHEMF_SOURCE={SOURCE}", f"-DCMAKE_PREFIX_PATH={installed}", *common),
    )
    run(("cmake", "--build", programs, "-j2"))


def variables() -> dict[str, str]:
    """The environment in which CMake finds nlohmann/json: the headers of a package that development needs, if they are
    installed, else the system's."""
    spec = importlib.util.find_spec("nlohmann_json")
    folders = [] if spec is None else [str(place) for place in spec.submodule_search_locations or ()]
    places = [*folders, *filter(None, [os.environ.get("CMAKE_PREFIX_PATH")])]
    return {**os.environ, "CMAKE_PREFIX_PATH": os.pathsep.join(places)}


def run(command: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A step of a build; its whole output where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables())
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
