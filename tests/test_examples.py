"""The examples of the Python API run from the sample images to a bundle that passed its self-test."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import PROJECT

EXAMPLES = PROJECT / "examples"
MOST_LINES = 12
SHORT = {'"epochs": 10': '"epochs": 1', "image_size=96": "image_size=32"}


def shortened(source: str) -> str:
    """The same with one epoch of small images."""
    for long, short in SHORT.items():
        assert long in source
        source = source.replace(long, short)
    return source


@pytest.fixture
def folder(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    shutil.copytree(pictures, tmp_path / "examples" / "blood_cells")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_script_is_short_and_uses_the_api_alone():
    source = (EXAMPLES / "images_to_engine.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= MOST_LINES
    imported = [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported == ["import hemf_export"]


@pytest.mark.extended
def test_the_script_runs(folder: Path, capsys: pytest.CaptureFixture[str]):
    source = shortened((EXAMPLES / "images_to_engine.py").read_text(encoding="utf-8"))
    exec(compile(source, "images_to_engine.py", "exec"), {})
    assert (
        "'verdict': 'passed: best.onnx and best.fp16.onnx are the model that was validated" in capsys.readouterr().out
    )
    assert (folder / "run" / "cells.tar.zst").is_file()


@pytest.mark.extended
def test_the_notebook_runs_and_its_results_show_themselves(folder: Path):
    notebook = json.loads((EXAMPLES / "images_to_engine.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    exec(compile(shortened("\n".join(cells)), "images_to_engine.ipynb", "exec"), names)
    for shown in ("run", "verification"):
        assert "<table>" in names[shown]._repr_html_()  # type: ignore[attr-defined]
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "no output of one machine is kept"
