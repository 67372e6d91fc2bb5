"""No line that a command prints ends in blanks: tables fill up their columns, and outputs are compared and pasted."""

from __future__ import annotations

import pytest

from hemf_export import cli
from hemf_export.cli import console
from tests.conftest import Made

LINES = [
    ("info",), ("info", "hemf-tiny"), ("inspect", "{onnx}"), ("predict", "{onnx}", "{data}/val"),
    ("verify", "{half}", "--data", "{data}"),
]  # fmt: skip
LONG_LINES = [
    ("doctor",), ("inspect", "{checkpoint}"), ("evaluate", "{onnx}", "--data", "{data}"),
    ("onnx", "{checkpoint}", "-o", "{folder}/again.onnx"),
    ("bench", "{onnx}", "{half}", "--batch", "1", "--seconds", "0.05", "--no-memory"),
    ("bundle", "{onnx}", "-o", "{folder}/b.tar.zst", "--no-triton", "--no-cpp"),
]  # fmt: skip


@pytest.mark.parametrize(
    "line", [*LINES, *(pytest.param(line, marks=pytest.mark.extended) for line in LONG_LINES)], ids=" ".join
)
def test_of_a_command(line, copies: Made, exported_before, pictures, run_cli):
    known = {"onnx": copies.onnx, "half": copies.half, "checkpoint": copies.checkpoint, "data": pictures,
             "folder": copies.folder}  # fmt: skip
    _, out, err = run_cli(*(word.format(**known) for word in line))
    assert out
    assert [text for text in (out + err).splitlines() if text != text.rstrip()] == []


def test_of_help(run_cli):
    for name in cli.COMMANDS:
        out = run_cli(name, "--help")[1]
        assert [text for text in out.splitlines() if text != text.rstrip()] == []


def test_of_tables(capfd):
    console.table("title", ("name", "number", "words"), [("a", "1", ""), ("longer", "22", "b")], words=(0, 2))
    console.facts("title", [("a", "b"), ("name", "long " * 60)])
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[2:4] == ["a            1", "longer      22  b"]
