"""One schema of proof in every manifest; real ones of before, in tests/earlier, are read too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.calibration.budget import Budget
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.metrics.comparison import compare
from hemf_export.models import proof
from hemf_export.models.proof import Figures, ImageRecord, Proof
from hemf_export.precision import int8_choice
from tests.conftest import PROJECT, Made
from tests.engines.test_preflight import engine

EARLIER = PROJECT / "tests" / "earlier"


def earlier(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EARLIER / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "images", "calibrated", "difference", "accuracy"),
    [
        ("best.onnx", "6 images of seeded noise (20250)", None, 1.558e-06, None),
        ("structural.fp16.onnx", "12 images of data/test", None, 4.851e-03, 2 / 3),
        ("best.fp16.t4.engine", "12 images of data/test", None, 4.851e-03, 2 / 3),
        ("best.fp16.onnx", "24 images of val", "24 images of train", 4.215e-03, 0.625),
        ("shipped.fp16.onnx", "24 images of val", "24 images of train", 4.215e-03, 0.625),
        ("shipped.fp16.t4.engine", "24 images of val", "24 images of train", 4.215e-03, 0.625),
        ("best.int8.onnx", "24 images of val", "24 images of train", 6.408e-02, 0.625),
    ],
)
def test_manifests_of_earlier_schemas_are_read(name, images, calibrated, difference, accuracy):
    found = proof.of_manifest(earlier(name))
    assert found is not None
    assert (str(found.images), found.calibration_images and str(found.calibration_images)) == (images, calibrated)
    assert found.figures.agreement == 1.0
    assert found.figures.max_logit_difference == pytest.approx(difference, rel=1e-3)
    assert found.figures.accuracy == found.figures.reference_accuracy == accuracy
    assert found.images.noise == (name == "best.onnx")
    assert found.float16_emulated == (name != "best.onnx")
    assert (found.file_as_written is None) == (name == "best.onnx")
    assert Proof.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_what_int8_gives_is_read_from_an_earlier_engine():
    told = int8_choice.of_manifest(earlier("shipped.fp16.t4.engine"))
    assert told is not None
    assert told == earlier("shipped.fp16.onnx")["int8_gain"]


def test_a_proof_comes_back_from_its_manifest():
    labels = np.arange(20) % 3
    scores = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    figures = Figures.from_dict(compare(scores * 0.99, scores, labels).to_dict())
    record = ImageRecord("val", 100, {"a": 40, "b": 60}, "ab" * 32)
    whole = Proof(record, figures, True, record, 0.05, Budget(0.5, 0.9, "balanced-accuracy"), {"images": 16})
    assert proof.of_manifest({proof.KEY: json.loads(json.dumps(whole.to_dict()))}) == whole
    assert figures.agreement == 1
    assert figures.accuracy == figures.reference_accuracy
    assert (figures.accuracy_drop_points, figures.accuracy_drop_interval_points) == (0, (0, 0))
    assert figures.max_logit_difference == pytest.approx(0.01 * np.abs(scores).max(), rel=1e-3)
    assert figures.expected is not None
    assert proof.of_manifest({"kind": "onnx"}) is proof.of_manifest(None) is None


@pytest.mark.parametrize(
    "manifest",
    [
        {"proof": []},
        {"proof": {"images": {"folder": "val", "images": 3}}},
        {"proof": {"images": {"folder": "val", "images": 3}, "figures": {"agreement": "all"}}},
        {"proof": {"images": {"folder": "val"}, "figures": {"agreement": 1.0}}},
        {"figures": {"agreement": 1.0}},
        {"parity": {"agreement": 1.0}},
        {"proof_of_the_graph": "none"},
        {"figures": {"agreement": 1.0}, "held_out_images": {"folder": "v", "images": 3}, "budget": {"max_drop": -1}},
    ],
)
def test_what_is_no_proof_is_a_bad_manifest(manifest):
    with pytest.raises(BadInputError, match="proof can't be read"):
        proof.of_manifest(manifest)


def test_every_graph_has_the_same_key(made: Made):
    for path, reference in ((made.onnx, "float32"), (made.half, "float16")):
        told = artifacts.read_manifest(path)
        assert told is not None
        assert set(told[proof.KEY]) == {
            *("images", "figures", "float16_emulated", "calibration_images", "bound", "budget", "file_as_written"),
        }, reference
        assert told[proof.KEY]["images"]["noise"] is True
        assert not {"parity", "figures", "held_out_images", "calibration_images", "file_as_written"} & set(told)


def test_inspect_shows_the_proof_of_a_graph(made: Made, run_cli):
    code, out, err = run_cli("inspect", made.half)
    assert code == 0, err
    assert "8 images of seeded noise (20250), float16 emulated" in out
    assert "largest logit difference" in out
    code, out, _ = run_cli("inspect", made.half, "--json")
    assert json.loads(out)["proof"] == artifacts.read_manifest(made.half)["proof"]


@pytest.mark.parametrize("name", ["shipped.fp16.t4.engine", "best.fp16.t4.engine"])
def test_inspect_shows_the_proof_of_an_engine_of_before(name, tmp_path, run_cli, monkeypatch):
    """Of one built from a calibrated graph it was lost: only one of the two schemas was looked for."""
    monkeypatch.setattr("hemf_export.engines.backends.gpu_capability", lambda: None)
    path, told = engine(tmp_path), earlier(name)
    manifest = artifacts.read_manifest(path)
    kept = {key: told[key] for key in ("proof_of_the_graph", "parity_of_the_graph", "file_as_written") if key in told}
    artifacts.write_json(artifacts.manifest_path(path), {**manifest, **kept})
    code, out, err = run_cli("inspect", path)
    assert code == 0, err
    calibrated = name.startswith("shipped")
    assert ("24 images of train" in out) == calibrated
    assert ("24 images of val" if calibrated else "12 images of data/test") in out
    assert f"largest logit difference {'4.2e-03' if calibrated else '4.9e-03'}" in out


def test_inspect_says_that_a_proof_cannot_be_read(made: Made, tmp_path: Path, run_cli):
    for path in (made.half, artifacts.manifest_path(made.half)):
        shutil.copy(path, tmp_path)
    path = tmp_path / made.half.name
    manifest = artifacts.read_manifest(path)
    artifacts.write_json(artifacts.manifest_path(path), {**manifest, "proof": 3})
    code, out, err = run_cli("inspect", path)
    assert code == 0, err
    assert "proof can't be read" in err
    assert "logit difference" not in out
