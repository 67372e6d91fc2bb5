"""The FP16 file's largest logit difference is one number, wherever it is reported."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hemf_export.files import artifacts
from hemf_export.timing import measurement

ROOT = Path(__file__).parents[2]
_NUMBER = r"\d+\.\d+e[-+]\d+"


def differences(values: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number below a key that speaks of a difference, but bounds and those of the mean and other shares."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if key in ("bounds", "golden", "mean", "mean_difference", "p99", "relative"):
            continue
        if isinstance(value, float) and "difference" in f"{place}/{key}":
            yield f"{place}/{key}", value
        else:
            yield from differences(value, f"{place}/{key}")


def test_every_place_that_tells_it_tells_the_same(copies, pictures, run_cli, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    monkeypatch.chdir(copies.folder)
    monkeypatch.setattr(measurement, "WARMUP_S", 0.0)
    code, trt, err = run_cli("trt", "model.onnx", "--fp16", "--images", pictures, "--force")
    assert code == 0, err
    folder = pictures / "val"  # what of the images proves
    code, out, err = run_cli(
        "verify", "model.onnx", "model.fp16.onnx", "--data", folder, "--json", "--markdown", "verify.md"
    )
    assert code == 0, err
    Path("verify.json").write_text(out)
    verification = json.loads(out)["candidates"][1]
    # Against the checkpoint, and against the float32 file that is proven to be it: these two differ by rounding.
    same = pytest.approx(verification["against_reference"]["logit_difference"]["max"], rel=0.02)

    manifests = _manifested()
    assert manifests == [same, same], "of the file and of the engine that was built from it"
    assert re.findall(rf"largest logit difference\s+({_NUMBER})", trt) == [f"{manifests[0]:.2e}"]
    (row,) = [line for line in Path("verify.md").read_text().splitlines() if line.startswith("| model.fp16.onnx")]
    assert [float(number) for number in re.findall(_NUMBER, row)] == [same]

    bench = ("bench", "model.pt", "model.onnx", "model.fp16.onnx", "--seconds", "0.05", "--batch", "2", "--no-memory")
    written = ("-o", "bench.json", "--markdown", "bench.md", "--report", "bench.html")
    code, out, err = run_cli(*bench, "--threads", "1", *written, "--verified", "verify.json")
    assert code == 0, err
    report = json.loads(Path("bench.json").read_text())
    for timing in report["timings"]:
        assert list(differences(timing)) == [], "what is checked on the timed batch is no figure of the file"
        assert timing["check_on_timed_batch"]["passed"] is True
    runners = {one["file"]: dict(differences(one)) for one in report["verified"]["runners"]}
    assert runners["model.fp16.onnx"] == {"/logit_difference/max": same}
    for text in (out, Path("bench.md").read_text(), Path("bench.html").read_text()):
        assert not re.search(r"\bdiff\b", text)

    code, out, err = run_cli("inspect", "model.fp16.t4.engine")
    assert [float(number) for number in re.findall(f"logit difference ({_NUMBER})", out)] == [
        pytest.approx(verification["against_reference"]["logit_difference"]["max"], rel=0.1)
    ], "two digits"


def _manifested() -> list[float]:
    manifests = [artifacts.read_manifest(Path(name)) for name in ("model.fp16.onnx", "model.fp16.t4.engine")]
    proofs = [manifest["proof"]["figures"] for manifest in manifests]
    return [value for proof in proofs for _, value in differences(proof)]


def test_the_demo_adds_no_difference_of_its_own(made, pictures, tmp_path, monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples/demo.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)

    def command(folder: Path, name: str, *_: str) -> None:
        if name == "train":
            for path in (made.checkpoint, made.onnx, made.half):
                shutil.copy(path, folder / path.name.replace("model", "best"))
            (folder / "summary.json").write_text(json.dumps({"splits": {"test": {"accuracy": 1.0, "images": 12}}}))
            (folder / "bench.json").write_text(json.dumps({"headlines": {"best.onnx": "2.0× faster than PyTorch"}}))
            (folder / "best.fp16.t4.engine").write_bytes(b"plan")
            artifacts.write_manifest(folder / "best.fp16.t4.engine", {})

    monkeypatch.setattr(demo, "command", command)
    monkeypatch.setattr(demo, "DATA", pictures)
    assert demo.main(tmp_path / "run") == 0
    shown = "".join(capfd.readouterr())
    assert "best.fp16.t4.engine" in shown
    assert not re.search(r"\de-\d", shown)
