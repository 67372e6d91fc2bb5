"""The C header from plain C, changed files by the hundred, and the library under the other compiler."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hemf_export.files import artifacts
from hemf_export.images.images import Preprocess, decode
from tests.engines import cpp_build, cpp_images
from tests.engines.cpp_images import picture
from tests.engines.cpp_probe import Probe
from tests.engines.test_cpp_manifest import described

ROUNDS = 150


def test_the_c_header_serves_plain_c(cpp: Probe, tmp_path: Path):
    image = tmp_path / "image.png"
    picture(61, 40).save(image)
    path = described(tmp_path, preprocess=Preprocess(16, "crop", 18).to_dict(), layout="NHWC")
    pixels = Preprocess(16, "crop", 18).pixels(decode(image))
    found = cpp.run("plain", image, path)
    lines = found.out.splitlines()
    assert found.code == 0, found
    assert lines[0] == "0.1.0 off"
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["null:", "2"], ["nothing:", "1"], ["bytes:", "1"], ["size:", "2"],
    ]  # fmt: skip
    total = pixels.sum()
    assert lines[5:9] == ["61 40", "3 bright null 0 1 0", f"input: 16 16 0 {total}", "16 0 18 0.5 0.5"]
    assert lines[9] == f"{total} {(np.float32(pixels[0, 0, 0]) / 255 - 0.5) / 0.5:.6f}"
    assert "std must be positive" in lines[10]
    assert "preflight: 4" in lines[11]
    assert "was not built with" in lines[11]
    assert "load: 4" in lines[12]
    assert "infer: 2" in lines[13]


def test_files_with_changed_bytes_are_read_or_refused_and_nothing_else(cpp: Probe, tmp_path: Path):
    for name in ("kinds", "raw", "turned", "whole"):
        (tmp_path / name).mkdir()
    whole = described(tmp_path / "whole", input_type="uint8", source_size=[24, 40])
    manifests = [artifacts.manifest_path(path) for path in (described(tmp_path), whole)]
    images = [*cpp_images.write_kinds(tmp_path / "kinds"), *cpp_images.write_raw_pngs(tmp_path / "raw")]
    images += cpp_images.write_orientations(tmp_path / "turned")[3:6]
    small = [path for path in images if path.stat().st_size < 40_000]
    seed = int(os.environ.get("HEMF_FUZZ_SEED", "0"))
    found = cpp.probe("fuzz", seed, ROUNDS, listed=[*manifests, *small])
    taken, _, total = found.out.partition(" of ")
    assert found.code == 0, found
    assert int(total) == ROUNDS * (len(small) + 2)
    assert 0 < int(taken) < int(total), "neither all is refused nor all is read"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # every file by itself, optimized
@pytest.mark.parametrize("compiler", ["clang++", "g++"])
def test_it_builds_without_warnings_file_by_file(tmp_path: Path, compiler: str):
    if shutil.which(compiler) is None or shutil.which("ninja") is None:
        pytest.skip(f"needs {compiler}")
    c = "clang" if compiler == "clang++" else "gcc"
    options = (f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_C_COMPILER={c}", "-DCMAKE_UNITY_BUILD=OFF")
    cpp_build.build(tmp_path / "build", *options, optimization="-O2")
    probe = Probe(tmp_path / "build")
    (tmp_path / "images").mkdir()
    paths = cpp_images.write_kinds(tmp_path / "images")
    for path, pixels in zip(paths, probe.decode(paths), strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(decode(path)), path.name)
