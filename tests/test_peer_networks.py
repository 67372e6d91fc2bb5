"""The table of all networks: what is kept, what is measured again, and how it is shown."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import peer_networks

EXPORT = {
    "parameters": 372_807, "seconds": 4.2, "nodes": 253,
    "parity": {"differences": {"1": 1e-8, "2": 3e-8, "3": 2e-8, "5": 4e-8}, "largest_logit": 0.11},
}  # fmt: skip


def test_what_was_measured_is_kept_and_what_failed_is_measured_again():
    row = {"export": EXPORT, "engine": {"error": "no memory"}, "plain": {"nodes": 267}}
    assert peer_networks._missing(row, "biformer-narrow", baseline=False) == ["engine"]
    assert peer_networks._missing(row, "biformer-narrow", baseline=True) == ["engine", "float32", "float16"]
    assert peer_networks._missing(row, "hemf-tiny", baseline=True) == ["engine"], "it has no plain form here"


def test_a_row_shows_what_failed_and_what_is_not_there():
    row = {"export": EXPORT, "engine": {"error": "no memory"}, "float32": {"ratio": 0.5, "quartiles": [0.4, 0.625]}}
    cells = dict(
        zip(
            (*peer_networks.COLUMNS, *peer_networks.BASELINE_COLUMNS),
            peer_networks._cells("biformer-narrow", row, baseline=True),
            strict=True,
        )
    )
    assert cells["parity at batches 1, 2, 3, 5"] == "1e-08, 3e-08, 2e-08, 4e-08 of 0.11"
    assert (cells["kernels"], cells["plain kernels"]) == ("failed", "–")
    assert cells["float32 on a CPU, ours / plain"] == "0.50 (0.40–0.62)"


@pytest.mark.extended
def test_a_network_is_measured_once(tmp_path, monkeypatch):
    out = tmp_path / "table.md"
    monkeypatch.setattr(
        sys, "argv", ["peer_networks", "--only", "biformer-narrow", "--baseline", "--seconds", "1", "--out", str(out)]
    )
    peer_networks.main()
    kept = out.with_suffix(".json")
    (row,) = json.loads(kept.read_text()).values()
    assert set(row) == set(peer_networks.PARTS)
    assert not [part for part in row.values() if "error" in part]
    assert max(row["export"]["parity"]["differences"].values()) < 1e-5
    assert 0 < row["engine"]["kernels"] < row["plain"]["kernels"]
    before = kept.stat().st_mtime_ns
    peer_networks.main()
    assert kept.stat().st_mtime_ns == before
    assert "biformer-narrow" in out.read_text()
