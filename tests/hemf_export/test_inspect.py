"""`inspect`: one command for any of our files, which tells what may not be used, and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts
from tests.conftest import CLASSES, tiny_checkpoint
from tests.engines.test_preflight import engine


def copied(path: Path, folder: Path) -> Path:
    """A file and its manifest, where it has one."""
    if artifacts.manifest_path(path).exists():
        shutil.copy(artifacts.manifest_path(path), folder)
    return Path(shutil.copy(path, folder))


def test_a_checkpoint_tells_its_network_classes_and_hash(made, run_cli):
    code, out, err = run_cli("inspect", made.checkpoint)
    assert code == 0, err
    assert all(name in out for name in CLASSES)
    assert artifacts.sha256(made.checkpoint) in out
    assert f"next: hemf-export trt {made.half}" in err, "what is made already is not proposed"


@pytest.mark.parametrize(("name", "precision"), [("onnx", "float32"), ("half", "float16")])
def test_an_onnx_file_tells_what_its_nodes_compute_in(made, run_cli, name, precision):
    path = getattr(made, name)
    code, out, err = run_cli("inspect", path, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["sha256"] == artifacts.sha256(path)
    assert set(found["types"]["products"]) == {precision}
    assert found["classes"] == list(CLASSES)
    assert found["manifest"]["sha256"] == found["sha256"]
    assert found["inputs"][0].startswith("images: float32 (any, 3,")


def test_float32_nodes_of_a_float16_file_are_explained(made, run_cli):
    """Those that precision needs are few; most are inside kernels that read and write float16."""
    manifest = artifacts.read_manifest(made.half)
    inside = manifest["conversion"]["float32_inside_kernels"]
    shown = " ".join(run_cli("inspect", made.half)[1].split())
    assert f"{inside:,} of these inside kernels that read and write float16, the others kept for precision" in shown
    assert 0 < inside <= manifest["types"]["nodes"]["float32"]
    assert "kept for precision" not in run_cli("inspect", made.onnx)[1]


def test_an_onnx_file_that_is_not_ours_is_shown_as_far_as_it_tells(pictures, tmp_path, run_cli):
    import onnx

    from tests.calibration import classifiers

    path = tmp_path / "other.onnx"
    onnx.save(classifiers.normalized_cnn(pictures), path)
    code, out, err = run_cli("inspect", path)
    assert code == 0, err
    assert "isn't ours" in out
    assert "opset 13" in out
    assert "there is none beside the file" in out


def test_a_changed_onnx_file_is_refused(made, tmp_path, run_cli):
    path = copied(made.onnx, tmp_path)
    path.write_bytes(path.read_bytes() + b"\x00")
    code, _, err = run_cli("inspect", path)
    assert code == 1
    assert "SHA-256" in err


def test_weights_that_are_not_finite_are_exit_1_and_name_the_tensor(tmp_path, run_cli):
    saved = tiny_checkpoint()
    name = next(name for name, value in saved.state.items() if value.ndim == 2)
    saved.state[name][0, 0] = np.nan
    path = tmp_path / "bad.pt"
    checkpoint.save(saved, path)
    code, out, err = run_cli("inspect", path)
    assert code == 1
    assert name in err
    assert "refused" in out, "the other facts are shown all the same"


def test_an_engine_for_elsewhere_is_whole_and_not_refused(tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr("hemf_export.engines.backends.gpu_capability", lambda: None)
    code, out, err = run_cli("inspect", engine(tmp_path))
    assert code == 0, err
    assert "t4 (sm_75)" in out
    assert "no GPU here" in out
    assert "hemf-export predict" not in err, "it can't run here"


def test_an_engine_of_another_gpu_is_exit_4_with_the_command(tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr("hemf_export.engines.backends.gpu_capability", lambda: (9, 0))
    code, out, err = run_cli("inspect", engine(tmp_path), "--json")
    assert code == 4
    assert json.loads(out)["exit_code"] == 4
    assert "--target sm_90" in err


def test_a_flipped_byte_of_an_engine_is_exit_1(tmp_path, run_cli):
    path = engine(tmp_path)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    code, out, err = run_cli("inspect", path)
    assert code == 1
    assert "SHA-256" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("name", ["m.engine", "m.plan", "m.onnx", "m.pt", "m.safetensors", "m.txt"])
@pytest.mark.parametrize("data", [b"", b"\x00" * 64, bytes(range(256))])
def test_what_is_nothing_of_ours_is_exit_1(tmp_path, run_cli, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    code, _, err = run_cli("inspect", path)
    assert code == 1
    assert name in err


def test_no_file_at_all_is_exit_1(tmp_path, run_cli):
    code, _, err = run_cli("inspect", tmp_path / "none.onnx")
    assert code == 1
    assert "none.onnx" in err


def test_an_engine_without_a_manifest_needs_trust(tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr("hemf_export.engines.backends.gpu_capability", lambda: None)
    path = engine(tmp_path)
    artifacts.manifest_path(path).unlink()
    code, _, err = run_cli("inspect", path)
    assert code == 1
    assert "--trust" in err
    assert run_cli("inspect", path, "--trust")[0] == 0
