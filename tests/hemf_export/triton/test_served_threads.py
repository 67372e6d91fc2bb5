"""Triton's Python backend: a copy on a CPU takes what its container may use, where the configuration says nothing."""

from __future__ import annotations

import json

import onnxruntime
import pytest

from hemf_export.triton.served import onnx_runner
from tests.conftest import Made


@pytest.mark.parametrize(
    ("files", "settings", "threads"),
    [
        ({"cpu.max": "150000 100000\n"}, {}, 1),
        ({"cpu.max": "3200000 100000\n"}, {}, 0),
        ({"cpu.max": "max 100000\n"}, {}, 0),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, {}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "50000\n"}, {}, 0),
        ({"cpu.max": "150000 100000\n"}, {"intra_op_thread_count": "3"}, 3),
        ({}, {}, 0),
    ],
)
def test_threads_by_quota(made: Made, tmp_path, monkeypatch, files, settings, threads):
    """0 leaves the choice to ONNX Runtime, as on a machine without a quota."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    asked, real = [], onnxruntime.InferenceSession

    def session(data, options, providers, **more):
        asked.append(options.intra_op_num_threads)
        options.intra_op_num_threads = 1
        return real(data, options, providers=providers, **more)

    monkeypatch.setattr(onnx_runner, "_GROUP", tmp_path)
    monkeypatch.setattr(onnx_runner.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    manifest = json.loads(made.onnx.with_name("model.onnx.json").read_text())
    onnx_runner.Runner(made.onnx.read_bytes(), manifest, settings, None)
    assert asked == [threads]
