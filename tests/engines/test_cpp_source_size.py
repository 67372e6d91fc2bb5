"""Files that resize whole images themselves, in C++: what the engine is fed and what is refused is what Python has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemf_export.engines.golden import Golden
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess, decode
from hemf_export.images.model_input import ModelInput, SourceSize
from hemf_export.models.description import Description
from tests.engines import cpp_images
from tests.engines.cpp_images import picture
from tests.engines.cpp_probe import Probe
from tests.engines.test_cpp_engines import CLASSES, fake_engine, rows
from tests.engines.test_cpp_manifest import LOGITS, described

SOURCE = SourceSize(24, 40)  # of the pictures that `cpp_images.write_orientations` turns upright
PREPROCESS = Preprocess.for_size(8)
RAW = {"input_type": "uint8", "source_size": [SOURCE.height, SOURCE.width]}


def whole_engine(folder: Path, **fields: Any) -> Path:
    """An engine on the TensorRT that is made up, for raw images of `SOURCE`."""
    return fake_engine(folder, raw=True, sides=(SOURCE.height, SOURCE.width), **{**RAW, **fields})


def upright(folder: Path) -> list[Path]:
    """Files of every orientation that are of `SOURCE` once they are turned."""
    paths = [*cpp_images.write_orientations(folder), folder / "grey.png"]
    picture(SOURCE.width, SOURCE.height, "L").save(paths[-1])
    found = [path for path in paths if decode(path).size == (SOURCE.width, SOURCE.height)]
    assert len(found) == 13, "EXIF turns half of the images on their side, and so does XMP"
    return found


@pytest.mark.parametrize("taken", [
    ModelInput(PREPROCESS), ModelInput(PREPROCESS, raw=True), ModelInput(PREPROCESS, raw=True, source=SOURCE),
    ModelInput(PREPROCESS, layout="NHWC"), ModelInput(PREPROCESS, raw=True, layout="NCHW"),
], ids=["floats", "pixels", "whole images", "floats, channels last", "pixels, channels first"])  # fmt: skip
def test_an_engine_is_fed_the_same_bytes(cpp: Probe, tmp_path: Path, taken: ModelInput):
    paths = upright(tmp_path)
    source = None if taken.source is None else [taken.height, taken.width]
    path = described(tmp_path, input_type="uint8" if taken.raw else "float32", source_size=source, layout=taken.layout)
    expected = taken.network(np.stack([taken.load(image) for image in paths]))
    assert cpp.fed(path, paths) == expected.tobytes()


@pytest.mark.parametrize("value", [None, [24, 40], [1, 10_000], [10_000, 10_000]], ids=str)
def test_a_manifest_tells_the_size_as_python_reads_it(cpp: Probe, tmp_path: Path, value: list[int] | None):
    path = described(tmp_path, input_type="uint8", source_size=value)
    size = Description.from_manifest(path, artifacts.read_manifest(path)).source_size
    assert cpp.probe("manifest", path).out.splitlines()[5] == ("any" if size is None else str(size))


@pytest.mark.parametrize(
    ("value", "input_type"),
    [
        ([40], "uint8"), ([24, 40, 3], "uint8"), ("24x40", "uint8"), ({}, "uint8"), (24, "uint8"), (False, "uint8"),
        ([24.0, 40], "uint8"), ([True, 40], "uint8"), (["24", "40"], "uint8"), ([None, 40], "uint8"),
        ([], "uint8"), ([0, 40], "uint8"), ([24, -40], "uint8"), ([10_001, 1], "uint8"), ([10**12, 1], "uint8"),
        ([24, 40], "float32"),
    ],
    ids=str,
)  # fmt: skip
def test_a_size_without_sense_is_refused_as_python_refuses_it(cpp: Probe, tmp_path: Path, value: Any, input_type: str):
    path = described(tmp_path, input_type=input_type, source_size=value)
    with pytest.raises(BadInputError, match="doesn't tell classes and preprocessing") as python:
        Description.from_manifest(path, artifacts.read_manifest(path))
    found = cpp.probe("manifest", path)
    assert found.code == 1
    assert "doesn't tell classes and preprocessing" in found.err
    if "A source size is" in python.value.message and value != [10**12, 1]:  # the last is no number of C's
        assert found.err.startswith(f"{python.value.message}\n")
    else:
        assert "source_size" in found.err


def mixed(folder: Path) -> list[Path]:
    """More images of other sizes than a message names, and two right ones."""
    paths = []
    for name, size in {
        "b/z.png": (40, 24), "b-1.png": (24, 40), "b/a.png": (41, 24), "c.png": (1, 1), "ä.png": (40, 23),
        "b.png": (39, 24), "😀.png": (48, 80), "a.png": (40, 24), "d.png": (5000, 1),
    }.items():  # fmt: skip
        paths.append(folder / name)
        paths[-1].parent.mkdir(exist_ok=True)
        picture(*size).save(paths[-1])
    return paths


@pytest.mark.parametrize("count", [2, 3, 9])
def test_images_of_another_size_are_all_named_in_pythons_words(cpp: Probe, tmp_path: Path, count: int):
    paths = [*mixed(tmp_path)[:count], tmp_path / "b-1.png"]
    taken = ModelInput(PREPROCESS, raw=True, source=SOURCE)
    sizes = {path: (decode(path).height, decode(path).width) for path in sorted(paths)}
    with pytest.raises(BadInputError) as python:
        taken.require_sizes(sizes)
    path = described(tmp_path, **RAW)
    found = cpp.probe("fed", path, listed=paths)
    assert (found.code, found.out) == (1, ""), "none is fed"
    hint = str(python.value.hint).replace("`source_size`", "source size")
    assert found.err == f"{python.value.message}\n{hint}\n"


def test_images_that_do_not_decode_are_named_before_those_of_another_size(cpp: Probe, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    picture(8, 8).save(tmp_path / "small.png")
    found = cpp.probe("fed", described(tmp_path, **RAW), listed=[tmp_path / "small.png", tmp_path / "bad.png"])
    assert (found.code, found.out) == (1, "")
    assert "1 of 2 images can't be read" in found.err


def test_an_image_that_changed_its_size_meanwhile_is_refused(cpp: Probe, tmp_path: Path):
    """The program reads images twice, and what it copies the second time must fit."""
    image = tmp_path / "image.png"
    picture(SOURCE.width, SOURCE.height + 1).save(image)
    found = cpp.run("plain", image, described(tmp_path, **RAW))
    assert "of 24x40 (height x width) alone: the image is 25x40." in found.out


def test_c_programs_learn_the_size_and_get_the_pixels(cpp: Probe, tmp_path: Path):
    image = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(SOURCE.height, SOURCE.width).save(image, exif=exif)
    total = np.asarray(decode(image)).sum(dtype=np.int64)
    found = cpp.run("plain", image, described(tmp_path, **RAW))
    assert f"input: 24 40 1 {total}" in found.out.splitlines()
    assert "preprocess: 2 hemf_manifest_preprocess: the file resizes images itself" in found.out


def test_what_hemf_predict_prints_is_what_python_prints(cpp: Probe, tmp_path: Path):
    (tmp_path / "images").mkdir()
    paths = upright(tmp_path / "images")
    logits = np.random.default_rng(0).normal(0, 3, (len(paths), len(LOGITS[0]))).astype(np.float32)
    logits.tofile(tmp_path / "logits")
    path = described(tmp_path, **RAW)
    found = cpp.probe("predict", path, tmp_path / "logits", "json", 1, *paths)
    assert found.code == 0, found.err
    top = [one["class"] for one in json.loads(found.out)["predictions"]]
    classes = artifacts.read_manifest(path)["classes"]
    assert top == [classes[index] for index in logits.argmax(1)]


PIXELS = np.random.default_rng(2).integers(0, 256, (5, SOURCE.height, SOURCE.width, 3), dtype=np.uint8)
MEANS = PIXELS.reshape(5, -1).mean(1)[:, None] * np.arange(1, CLASSES + 1)


def with_golden(path: Path, pixels: np.ndarray) -> Path:
    entry = Golden(pixels, MEANS[: len(pixels)].astype(np.float32), "noise", 1e-3).write(path)
    artifacts.write_manifest(path, {**artifacts.read_manifest(path), "golden": entry})
    return path


@pytest.mark.parametrize("profiles", ["1:4:16", "4:4:4"])
def test_an_engine_takes_whole_images_and_tries_its_golden_ones(cpp: Probe, tmp_path: Path, profiles: str):
    path = with_golden(whole_engine(tmp_path, profiles=profiles), PIXELS[:2])
    found = cpp.run("engines", path, 0, given=PIXELS.tobytes())
    assert found.code == 0, found.err
    np.testing.assert_allclose(rows(found.out.partition("\n")[2]), MEANS, rtol=1e-5)


def test_golden_images_that_were_resized_are_another_engines(cpp: Probe, tmp_path: Path):
    path = with_golden(whole_engine(tmp_path), PIXELS[:2, :8, :8])
    found = cpp.run("engines", path, 0, given=PIXELS.tobytes())
    assert (found.code, "golden images are of another size" in found.err) == (1, True), found


@pytest.mark.parametrize("fields", [{"source_size": [40, 24]}, {"source_size": None}, {"source_size": [25, 40]}],
                         ids=str)  # fmt: skip
def test_a_manifest_with_another_size_than_the_plans_is_refused(cpp: Probe, tmp_path: Path, fields: dict[str, Any]):
    found = cpp.run("engines", whole_engine(tmp_path, **fields), 0, given=PIXELS.tobytes())
    assert (found.code, "describes another input" in found.err) == (1, True), found
