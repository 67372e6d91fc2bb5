"""Building engines: profiles, backends that are missing or crash, names of the API."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hemf_export.engines import backends, build, targets
from hemf_export.engines.batches import BatchProfile
from hemf_export.engines.options import BuildOptions
from hemf_export.files.errors import BadInputError, MissingCapabilityError, UsageError
from tests.conftest import Recorder


def test_profiles():
    assert BatchProfile.parse("1:8:32") == BatchProfile(1, 8, 32)
    assert BatchProfile.parse("4") == BatchProfile(4, 4, 4)
    for text in ("0:1:2", "4:2:8", "1:9:8", "1:2", "a:b:c", "-1"):
        with pytest.raises(UsageError):
            BatchProfile.parse(text)


def tiny_graph(path: Path, dtype: type = np.float16, operator: str = "MatMul") -> Path:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], name="the_node")], "g",
        [helper.make_tensor_value_info("x", element, ["n", 16])],
        [helper.make_tensor_value_info("y", element, ["n", 16])],
        [numpy_helper.from_array(np.ones((16, 16), dtype), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


OPTIONS = BuildOptions(profiles=(BatchProfile(1, 2, 4),))


def make(graph: Path, output: Path, **changes: object) -> build.Engine:
    settings = {"backend": "tensorrt-rtx", "target": targets.find("t4"), "options": OPTIONS, "fields": {}}
    return build.build_engine(graph, output, **{**settings, **changes})


def test_a_real_engine_with_its_manifest(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    progress = Recorder()
    done = make(
        tiny_graph(tmp_path / "m.onnx"), tmp_path / "m.engine",
        progress=progress, fields={"classes": ["a"]},
    )  # fmt: skip
    assert done.path.stat().st_size > 1000
    assert progress.moves
    manifest = json.loads((tmp_path / "m.engine.json").read_text())
    assert manifest["classes"] == ["a"]
    assert manifest["backend_version"] == done.version


def test_float32_on_turing_is_refused_with_the_way_out(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "m.engine").write_bytes(b"old")
    with pytest.raises(BadInputError, match="the_node") as refused:
        make(tiny_graph(tmp_path / "m.onnx", np.float32), tmp_path / "m.engine")
    assert "`precision='fp16'`" in str(refused.value.hint)
    assert (tmp_path / "m.engine").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine", "m.onnx"]


def test_an_operator_that_tensorrt_does_not_know_is_named(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    path = tiny_graph(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, path)
    with pytest.raises(BadInputError, match="Frobnicate"):
        make(path, tmp_path / "m.engine")


def test_a_builder_that_crashes_takes_only_its_process_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "executable", str(script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    )
    with pytest.raises(BadInputError, match="crashed \\(signal 11\\)"):
        make(tiny_graph(tmp_path / "m.onnx"), tmp_path / "m.engine")
    assert not (tmp_path / "m.engine").exists()


def script(folder: Path, code: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


def test_auto_takes_tensorrt_on_a_gpu_of_the_target_else_rtx(monkeypatch):
    target = targets.find("t4")
    monkeypatch.setattr(backends, "_installed", lambda name: True)
    for gpu, expected in (((7, 5), "tensorrt"), ((8, 9), "tensorrt-rtx"), (None, "tensorrt-rtx")):
        monkeypatch.setattr(backends, "gpu_capability", lambda gpu=gpu: gpu)
        assert backends.choose("auto", target) == expected
    monkeypatch.setattr(backends, "gpu_capability", lambda: (8, 9))
    with pytest.raises(MissingCapabilityError, match="here is a GPU of sm_89"):
        backends.choose("tensorrt", target)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("no"), ImportError("libnvinfer.so.11"), RuntimeError("CUDA"), OSError("x")]
)
def test_a_backend_that_cannot_be_imported_is_exit_4_with_the_install_command(monkeypatch, error):
    def fail(name: str, *rest: object) -> object:
        raise error

    monkeypatch.setattr(backends.importlib, "import_module", fail)
    with pytest.raises(MissingCapabilityError, match="tensorrt-rtx") as refused:
        backends.load("tensorrt-rtx")
    assert refused.value.exit_code == 4
    assert "pip install" in str(refused.value.hint)
