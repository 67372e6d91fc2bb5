"""Files of the commit before the rooms moved under one name (a7aef95): read as they are.

tests/earlier holds what `onnx`, `calibrate`, `trt` and `ship` wrote then, of a small network and seeded images.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import zstandard

from tests.conftest import write_class_folders

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that the files were made with."""
    root = tmp_path_factory.mktemp("earlier") / "data"
    for seed, (split, count) in enumerate((("train", 8), ("val", 8), ("test", 4))):
        write_class_folders(root / split, count, seed)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the earlier files, with the models that the bundle holds beside their manifests."""
    shutil.copytree(EARLIER, tmp_path / "earlier")
    return tmp_path / "earlier"


def test_the_checkpoint_is_read_and_exported(folder, run_cli):
    code, out, err = run_cli("inspect", folder / "best.pt", "--json")
    assert code == 0, err
    assert json.loads(out)["sha256"] == json.loads((folder / "best.onnx.json").read_text())["checkpoint_sha256"]
    code, out, err = run_cli("onnx", folder / "best.pt", "--json")
    assert code == 0, err
    assert json.loads(out)["classes"] == ["bright", "dark", "striped"]


def test_the_bundle_passes_its_self_test(folder, run_cli):
    code, out, err = run_cli("self-test", folder / "best.tar.zst", "--json")
    assert code == 0, err + out


def test_its_models_are_verified_beside_the_checkpoint(folder, data, run_cli, tmp_path):
    unpacked = tmp_path / "unpacked"
    with zstandard.open(folder / "best.tar.zst") as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
        archive.extractall(unpacked, filter="data")
    (half,) = unpacked.rglob("best.fp16.onnx")
    code, out, err = run_cli("verify", half, "--data", data, "--reference", folder / "best.pt", "--json")
    assert code == 0, err
    assert json.loads(out)["passed"]
    code, out, err = run_cli("inspect", half)
    assert code == 0, err
    assert "100% agree, largest logit difference" in out, "its proof"


@pytest.mark.extended
def test_a_calibration_goes_on_from_the_earlier_cache(folder, data, run_cli, tmp_path, monkeypatch):
    assert run_cli("onnx", folder / "best.pt")[0] == 0
    answers = []
    for cache in (folder / "cache", tmp_path / "empty"):
        home = tmp_path / f"home-{cache.name}"
        (home / "hemf-export").parent.mkdir(parents=True, exist_ok=True)
        if cache.exists():
            shutil.copytree(cache, home / "hemf-export")
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        output = tmp_path / f"{cache.name}.fp16.onnx"
        line = ("calibrate", folder / "best.onnx", "--precision", "fp16", "--images", data, "-o", output)
        code, _, err = run_cli(*line)
        assert code == 0, err
        answers.append(output.read_bytes())
    assert answers[0] == answers[1]
