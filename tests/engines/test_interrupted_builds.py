"""Builds with the real TensorRT-RTX that are killed, or run into each other: what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hemf_export.engines import preflight
from hemf_export.engines.machine import Machine
from hemf_export.files import artifacts
from tests.conftest import PROJECT
from tests.engines.real_engines import tiny_graph

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

BUILD = """
import sys
from contextlib import contextmanager
from pathlib import Path
from hemf_export.engines import build, targets
from hemf_export.engines.options import BuildOptions
from hemf_export.files.progress import Silent
class Told(Silent):
    @contextmanager
    def task(self, *told):
        yield self
    def update(self, *told):
        print(told, flush=True)
build.build_engine(
    Path(sys.argv[1]), Path(sys.argv[2]), backend="tensorrt-rtx", target=targets.find("t4"), options=BuildOptions(),
    fields={"builder": sys.argv[3]}, progress=Told(),
)
"""


def start(graph: Path, output: Path, name: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(graph), str(output), name], cwd=PROJECT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.extended
def test_two_builds_of_one_output_at_once_leave_one_whole_engine(tmp_path):
    graph, output = tiny_graph(tmp_path / "m.onnx"), tmp_path / "m.engine"
    builds = [start(graph, output, name) for name in ("first", "second")]
    for running in builds:
        assert running.communicate(timeout=240)[1] == ""
        assert running.returncode == 0
    manifest = artifacts.read_manifest(output)
    assert manifest is not None, "it describes the very file"
    assert manifest["builder"] in ("first", "second")
    found = preflight.look(output, Machine((7, 5), {"tensorrt-rtx": manifest["backend_version"]}))
    assert found.refusal is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine", "m.engine.json", "m.onnx"]


@pytest.mark.extended
@pytest.mark.parametrize("wait_for", ["worker", "build"])
def test_kill_9_in_the_middle_leaves_everything_as_it_was(tmp_path, wait_for):
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    work.mkdir()
    scratch.mkdir()
    graph, output = tiny_graph(work / "m.onnx"), work / "m.engine"
    output.write_bytes(b"old")
    running = start(graph, output, "killed", TMPDIR=str(scratch))
    assert running.stdout is not None
    if wait_for == "build":
        assert running.stdout.readline(), "the builder is at work"
    else:
        _until(lambda: list(scratch.glob("hemf-export-*/request.json")))
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in work.iterdir()) == ["m.engine", "m.onnx"]
    # The process that builds sees that it is alone, cleans up and ends.
    _until(lambda: not list(scratch.iterdir()))
    running.communicate()


def _until(true: object, timeout_s: float = 240) -> None:
    end = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_scratch_is_really_where_builds_work(monkeypatch, tmp_path):
    """Else the test above would find nothing whatever was left."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert Path(tempfile.gettempdir()) == tmp_path
