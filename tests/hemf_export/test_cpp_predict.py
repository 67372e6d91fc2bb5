"""The C++ example prints the JSON of `predict`, or a line an image, and ends with the same codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hemf_export.cli import console
from hemf_export.engines import machine
from hemf_export.engines.machine import Machine
from hemf_export.files import artifacts
from hemf_export.images import image_list
from hemf_export.models.model_file import ModelFile
from hemf_export.models.predictor import BATCH
from tests.conftest import CLASSES, Made, write_images
from tests.engines.cpp_probe import Ended, Probe
from tests.engines.test_preflight import RTX, engine


@pytest.fixture
def place(copies: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, and images in class folders and of names that a terminal has trouble with."""
    folder = copies.folder
    for kind in CLASSES:
        write_images(folder / "images" / kind, 3, kind)
    (folder / "images" / "notes.txt").write_text("no image")
    write_images(folder, 1, "striped")
    names = (
        "new\nline é.png",
        "\x1b[31mred\x9b \u202egnp.exe\u2066.png",
        "a long name of a picture " * 4 + ".png",
        "画像" * 30 + ".png",
        "x" * 200 + ".png",
    )
    (folder / "odd").mkdir()
    for name in names:
        (folder / "odd" / name).write_bytes((folder / "striped0.png").read_bytes())
    monkeypatch.chdir(folder)
    return folder


def printed(cpp: Probe, model: str, how: str, *named: str, least: int = 1) -> Ended:
    """What the example prints of images, if its engine gives the logits that the model gives."""
    model_here = ModelFile.open(model).predictor()
    paths = image_list.collect(named).paths
    pixels = np.stack([model_here.description.input.load(path) for path in paths])
    size = BATCH  # as predict takes them: another size may round otherwise
    rows = np.concatenate([model_here.logits(pixels[at : at + size]) for at in range(0, len(pixels), size)])
    # The last batch is filled up to a whole number of `least`.
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % least, axis=0)])
    filled.astype(np.float32).tofile("logits")
    return cpp.run("probe", "predict", model, "logits", how, least, *named, cwd=Path.cwd())


def assert_same_json(text: str, expected: str) -> None:
    """Exponentials of two libraries may differ in the last digit; all else is the same, line by line."""
    for line, ours in zip(expected.splitlines(), text.splitlines(), strict=True):
        if line != ours:
            (name, value), (own_name, own_value) = line.rsplit(": ", 1), ours.rsplit(": ", 1)
            assert name == own_name
            assert float(own_value.rstrip(",")) == pytest.approx(float(value.rstrip(",")), rel=1e-14)


@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize(
    "named",
    [("images",), ("./images/dark", "images//bright/"), ("striped0.png",), ("odd", "images", "striped0.png"), (".",)],
    ids=str,
)  # fmt: skip
def test_its_json_is_the_same(cpp: Probe, place: Path, run_cli, named: tuple[str, ...], least: int):
    _, out, _ = run_cli("predict", "model.onnx", *named, "--json")
    found = printed(cpp, "model.onnx", "json", *named, least=least)
    assert found.code == 0, found.err
    assert_same_json(found.out, out)


def test_without_json_it_prints_a_line_an_image(cpp: Probe, place: Path, run_cli):
    _, out, _ = run_cli("predict", "model.onnx", "odd", "images", "--json")
    predictions = json.loads(out)["predictions"]
    found = printed(cpp, "model.onnx", "lines", "odd", "images")
    assert found.code == 0, found.err
    header, *lines = found.out.splitlines()
    assert header == "class\tprobability\timage"
    cells = [line.split("\t") for line in lines]
    assert [cell[0] for cell in cells] == [one["class"] for one in predictions]
    assert [float(cell[1]) for cell in cells] == pytest.approx([one["probability"] for one in predictions], abs=1e-6)
    assert [cell[2] for cell in cells] == [console.printable(one["image"]) for one in predictions]
    assert all(letter.isprintable() for line in lines for letter in line.replace("\t", ""))


def test_links_to_folders_are_followed_but_not_in_a_circle(cpp: Probe, place: Path, run_cli):
    (place / "images" / "dark" / "up").symlink_to(place / "images")
    (place / "images" / "link").symlink_to(place / "odd")
    _, out, _ = run_cli("predict", "model.onnx", "images", "--json")
    found = printed(cpp, "model.onnx", "json", "images")
    names = [[one["image"] for one in json.loads(text)["predictions"]] for text in (out, found.out)]
    assert names[0] == names[1]
    assert len(names[0]) > 9


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_logits_that_are_not_finite_end_it_with_3(cpp: Probe, place: Path, logit: float):
    np.array([0, logit, 1], np.float32).tofile("logits")
    found = cpp.run("probe", "predict", "model.onnx", "logits", "lines", 1, "striped0.png", cwd=place)
    assert (found.code, found.out) == (3, "")
    assert "the logits of striped0.png are not finite" in found.err


@pytest.mark.parametrize(
    "words",
    [
        ("missing.engine", "striped0.png"), ("bare.engine", "striped0.png"), ("text.engine", "striped0.png"),
        ("m.fp16.t4.engine", "nothing.png"), ("m.fp16.t4.engine", "empty"), ("m.fp16.t4.engine", "striped0.png"),
        ("m.fp16.t4.engine",), (), ("--batch", "0", "a", "b"), ("--wrong", "a", "b"), ("m.fp16.t4.engine", "--batch"),
    ],
    ids=str,
)  # fmt: skip
def test_it_fails_with_the_same_codes_and_reasons(
    cpp: Probe, place: Path, run_cli, monkeypatch, words: tuple[str, ...]
):
    engine(place)
    (place / "empty").mkdir()
    (place / "bare.engine").write_bytes((place / "m.fp16.t4.engine").read_bytes())
    (place / "text.engine").write_text("no plan")
    artifacts.write_manifest(place / "text.engine", {"kind": "engine"})
    # Both see a machine without TensorRT: the program that is tested was built without.
    monkeypatch.setattr(machine, "here", lambda: Machine())
    code, out, err = run_cli("predict", *words, "--json")
    found = cpp.run("hemf-predict", *words, "--json", cwd=place)
    assert found.code == code != 0, (found, err)
    expected, failure = json.loads(out), json.loads(found.out)
    assert failure["exit_code"] == expected["exit_code"]
    if code == 2 or "TensorRT" in found.err or f"tensorrt-rtx {RTX}" in found.err:
        return  # words of the command line, and of what is installed, are each program's own
    assert failure["error"] == expected["error"]
    assert failure["hint"] == expected["hint"] or words[0] == "missing.engine"  # it takes engines alone


def test_all_images_that_do_not_decode_are_named(cpp: Probe, place: Path, run_cli):
    (place / "images" / "dark" / "bad.png").write_text("no image")
    (place / "images" / "striped" / "cut.png").write_bytes((place / "striped0.png").read_bytes()[:300])
    code, _, err = run_cli("predict", "model.onnx", "images")
    np.zeros(3, np.float32).tofile("logits")
    found = cpp.run("probe", "predict", "model.onnx", "logits", "lines", 1, "images", cwd=place)
    assert found.code == code == 1
    assert found.err.splitlines()[0] == "2 of 11 images can't be read:"
    for name in ("bad.png", "cut.png"):
        assert name in err
        assert name in found.err


def test_its_help_names_its_options(cpp: Probe):
    found = cpp.run("hemf-predict", "--help")
    assert (found.code, found.err) == (0, "")
    assert all(option in found.out for option in ("--batch", "--json"))
    assert os.sep not in found.out.split()[0]
