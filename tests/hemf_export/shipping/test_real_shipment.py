"""The whole way on the blood cells with TensorRT-RTX, twice, with no GPU: the same bundle, timings apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.bundles import index
from tests.conftest import PROJECT
from tests.hemf_export.bundles.packing import entries

DATA = PROJECT / "examples" / "blood_cells"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_shipments_give_the_same_bundle_but_for_timings(tmp_path: Path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    small = [
        "--model",
        "hemf-tiny",
        "--image-size",
        "64",
        "--epochs",
        "4",
        "--batch-size",
        "16",
        "--learning-rate",
        "1e-3",
    ]
    assert cli.run(["train", str(DATA), "-o", str(tmp_path / "run"), *small]) == 0
    found = []
    for name in ("first", "second"):
        line = ["ship", str(tmp_path / "run" / "best.pt"), "--data", str(DATA), "-o", str(tmp_path / name)]
        line += ["--bench-seconds", "1", "--max-drop", "5"]
        assert cli.run(line) == 0
        again = subprocess.run([sys.executable, "-m", "hemf_export", *line, "--json"], capture_output=True, check=True)
        assert json.loads(again.stdout)["shipped"][0]["made"] == []
        found.append(entries(tmp_path / name / "best.tar.zst"))
        # What calibration kept would make the second run too easy; engines don't repeat byte for byte, and are kept.
        for kept in (tmp_path / "cache").glob("*.npz"):
            kept.unlink()
    first, second = found
    assert first.keys() == second.keys()
    own = (index.NAME, index.SUMS)
    assert {name for name in first if first[name] != second[name]} - {*own} <= {
        name for name in first if index.timed(name)
    }
    assert len({index.Index.parse(one[index.NAME]).contents_sha256 for one in found}) == 1
    assert cli.run(["self-test", str(tmp_path / "second" / "best.tar.zst")]) == 0
