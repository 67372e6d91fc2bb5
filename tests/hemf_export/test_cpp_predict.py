"""The C++ example prints what `predict` prints, byte for byte, and ends with the same codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from engines import machine
from engines.machine import Machine
from hemf import artifacts
from hemf_export import image_list, predict
from tests.conftest import CLASSES, Made, write_images
from tests.engines.cpp_probe import Ended, Probe
from tests.engines.test_preflight import RTX, engine


@pytest.fixture
def place(copies: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, and images in class folders and of names that a table has trouble with."""
    folder = copies.folder
    for kind in CLASSES:
        write_images(folder / "images" / kind, 3, kind)
    (folder / "images" / "notes.txt").write_text("no image")
    write_images(folder, 1, "striped")
    names = (
        "new\nline é.png",
        "\x1b[31mred\x9b \u202egnp.exe\u2066 \ue000.png",
        "a long name of a picture " * 4 + ".png",
        "画像" * 30 + ".png",
        "x" * 200 + ".png",
    )
    (folder / "odd").mkdir()
    for name in names:
        (folder / "odd" / name).write_bytes((folder / "striped0.png").read_bytes())
    monkeypatch.chdir(folder)
    return folder


def told(cpp: Probe, model: str, how: str, *named: str, top: int = 3, least: int = 1) -> Ended:
    """What the example prints of images, if its engine gives the logits that the model gives."""
    predictor = predict.load(model)
    paths = image_list.collect(named).paths
    pixels = np.stack([predictor.input.load(path) for path in paths])
    size = predict.BATCH  # as predict takes them: another size may round otherwise
    rows = np.concatenate([predictor.logits(pixels[at : at + size]) for at in range(0, len(pixels), size)])
    # The last batch is filled up to a whole number of `least`.
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % least, axis=0)])
    filled.astype(np.float32).tofile("logits")
    return cpp.run("probe", "predict", model, "logits", how, least, top, *named, cwd=Path.cwd())


@pytest.mark.parametrize(
    "named",
    [("images",), ("./images/dark", "images//bright/"), ("striped0.png",), ("odd", "images", "striped0.png")],
    ids=str,
)  # fmt: skip
def test_its_table_is_the_same(cpp: Probe, place: Path, run_cli, named: tuple[str, ...]):
    code, out, _ = run_cli("predict", "model.onnx", *named)
    found = told(cpp, "model.onnx", "table", *named)
    assert (code, found.code) == (0, 0), found.err
    assert found.out == out


@pytest.mark.parametrize("top", [1, 9])
def test_its_columns_are_the_same(cpp: Probe, place: Path, run_cli, top: int):
    _, out, _ = run_cli("predict", "model.onnx", "images", "--top", top)
    assert told(cpp, "model.onnx", "table", "images", top=top).out == out


@pytest.mark.parametrize("least", [1, 4])
def test_its_json_is_the_same(cpp: Probe, place: Path, run_cli, least: int):
    _, out, _ = run_cli("predict", "model.onnx", "images", "odd", "--json")
    found = told(cpp, "model.onnx", "json", "images", "odd", least=least)
    lines = zip(out.splitlines(), found.out.splitlines(), strict=True)
    for expected, line in lines:  # exponentials of two libraries may differ in the last digit
        if expected != line:
            (name, value), (own_name, own_value) = expected.rsplit(": ", 1), line.rsplit(": ", 1)
            assert name == own_name
            assert float(own_value.rstrip(",")) == pytest.approx(float(value.rstrip(",")), rel=1e-14)


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_logits_that_are_not_finite_end_it_with_3(cpp: Probe, place: Path, logit: float):
    np.array([0, logit, 1], np.float32).tofile("logits")
    found = cpp.run("probe", "predict", "model.onnx", "logits", "table", 1, 3, "striped0.png", cwd=place)
    assert (found.code, found.out) == (3, "")
    assert "the logits of striped0.png are not finite" in found.err


@pytest.mark.parametrize(
    "words",
    [
        ("missing.engine", "striped0.png"), ("bare.engine", "striped0.png"), ("text.engine", "striped0.png"),
        ("m.fp16.t4.engine", "nothing.png"), ("m.fp16.t4.engine", "empty"), ("m.fp16.t4.engine", "striped0.png"),
        ("m.fp16.t4.engine",), (), ("--top", "0", "a", "b"), ("--wrong", "a", "b"), ("m.fp16.t4.engine", "--batch"),
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
    expected, answer = json.loads(out), json.loads(found.out)
    assert answer["exit_code"] == expected["exit_code"]
    if code == 2 or "TensorRT" in found.err or f"tensorrt-rtx {RTX}" in found.err:
        return  # words of the command line, and of what is installed, are each program's own
    assert answer["error"] == expected["error"]
    assert answer["hint"] == expected["hint"] or words[0] == "missing.engine"  # it takes engines alone


def test_all_images_that_do_not_decode_are_named(cpp: Probe, place: Path, run_cli):
    (place / "images" / "dark" / "bad.png").write_text("no image")
    (place / "images" / "striped" / "cut.png").write_bytes((place / "striped0.png").read_bytes()[:300])
    code, _, err = run_cli("predict", "model.onnx", "images")
    np.zeros(3, np.float32).tofile("logits")
    found = cpp.run("probe", "predict", "model.onnx", "logits", "table", 1, 3, "images", cwd=place)
    assert found.code == code == 1
    assert found.err.splitlines()[0] == "2 of 11 images can't be read:"
    for name in ("bad.png", "cut.png"):
        assert name in err
        assert name in found.err


def test_its_help_names_its_options(cpp: Probe):
    found = cpp.run("hemf-predict", "--help")
    assert (found.code, found.err) == (0, "")
    assert all(option in found.out for option in ("--top", "--batch", "--json"))
    assert os.sep not in found.out.split()[0]
