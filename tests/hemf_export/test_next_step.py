"""What is proposed next: the first step that isn't done, by what lies there, and never the command just run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemf_export.cli import next_step
from hemf_export.files import artifacts
from tests.conftest import Made
from tests.hemf_export.triton.models import plan


@pytest.fixture(autouse=True)
def in_the_folder(copies: Made, monkeypatch) -> Path:
    monkeypatch.chdir(copies.folder)
    return copies.folder


def proposed(name: str, *arguments: str, **more: object) -> str:
    return " ".join(str(word) for word in next_step.after(Path(name), *arguments, **more))  # type: ignore[arg-type]


def engine_of(graph: str, target: str = "t4") -> Path:
    """An engine with the manifest of one that was built from a graph in this folder."""
    path = Path(graph).with_suffix(f".{target}.engine")
    return plan(path, parent=graph, parent_sha256=artifacts.sha256(Path(graph)), target=target)


def without(*names: str) -> None:
    for name in names:
        Path(name).unlink()
        artifacts.manifest_path(Path(name)).unlink()


def test_each_step_in_turn():
    without("model.fp16.onnx")
    onnx = Path("model.onnx").rename(".kept")
    assert proposed("model.pt") == "hemf-export onnx model.pt"
    onnx.rename("model.onnx")
    assert proposed("model.pt") == "hemf-export trt model.onnx --fp16"
    assert proposed("model.onnx") == "hemf-export trt model.onnx --fp16"


def test_a_graph_that_lies_there_is_built_not_made_again():
    assert proposed("model.pt") == "hemf-export trt model.fp16.onnx"
    assert proposed("model.onnx", "bench") == "hemf-export trt model.fp16.onnx"
    assert proposed("model.fp16.onnx", target="l4") == "hemf-export trt model.fp16.onnx --target l4"


def test_an_engine_that_lies_there_is_not_built_again():
    engine = engine_of("model.fp16.onnx")
    files = "model.onnx model.fp16.onnx"
    for name in ("model.pt", "model.onnx", "model.fp16.onnx", engine.name):
        assert proposed(name) == f"hemf-export verify {files} --data DATA"
        assert proposed(name, "verify") == f"hemf-export bench {files}"
        assert proposed(name, "bench", report=Path("b.json")).startswith(
            f"hemf-export bundle model.fp16.onnx {engine} -o model.tar.zst --bench b.json"
        )
    assert proposed("model.onnx", "trt", images=Path("scans")) == f"hemf-export verify {files} --data scans"
    Path("model.tar.zst").touch()
    assert proposed("model.pt", "bench") == "hemf-export self-test model.tar.zst"


def test_one_for_another_target_or_of_another_graph_does_not_count():
    engine_of("model.fp16.onnx", target="l4")
    assert proposed("model.fp16.onnx", target="t4") == "hemf-export trt model.fp16.onnx"
    assert proposed("model.fp16.onnx").startswith("hemf-export verify")
    without("model.fp16.l4.engine")
    plan(Path("model.fp16.t4.engine"))
    assert proposed("model.fp16.onnx") == "hemf-export trt model.fp16.onnx"


def test_an_engine_elsewhere_was_built_all_the_same():
    assert proposed("model.fp16.onnx", "trt") == "hemf-export verify model.onnx model.fp16.onnx --data DATA"


def test_damaged_files_beside_it_count_for_nothing(capfd):
    engine = engine_of("model.fp16.onnx")
    engine.write_bytes(engine.read_bytes() + b"x")
    assert proposed("model.fp16.onnx") == "hemf-export trt model.fp16.onnx"
    Path("other.onnx").write_bytes(b"no model")
    next_step.show(Path("other.onnx"))
    assert capfd.readouterr().err == "", "a hint fails no command"
