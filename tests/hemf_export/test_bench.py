"""`bench`: interleaved, only what computes the reference's logits, and honest about what it measured."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from hemf.errors import CheckFailedError
from hemf_export import bench, bench_folder
from hemf_export.bench import Contender, measure


class Clock:
    """Stands in for the `time` module: a machine that is never busy with anything else."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock | None:
    """Its seconds pass in `FakeRunner` alone; tests of real files keep the real one."""
    if "made" in request.fixturenames:
        return None
    fake = Clock()
    monkeypatch.setattr(bench, "time", fake)
    return fake


class FakeRunner:
    """A runner whose latency and outputs are known."""

    def __init__(self, clock: Clock, name: str, seconds: float, value: float = 0.0) -> None:
        self.clock, self.name, self.seconds, self.value, self.calls = clock, name, seconds, value, []

    def infer(self, batch):
        self.calls.append(self.clock.now)
        self.clock.now += self.seconds
        return np.full((len(batch), 2), self.value, np.float32)


def contender(runner):
    return Contender(runner, lambda pixels: pixels, lambda largest: 0.1)


def test_latencies_and_ratios_are_those_of_the_runners(clock):
    slow, quick = FakeRunner(clock, "slow", 0.02), FakeRunner(clock, "quick", 0.01)
    first, second = measure([contender(slow), contender(quick)], np.zeros((1, 4, 4, 3), np.uint8), seconds=0.6)
    assert first.percentile(50) == pytest.approx(20)
    assert second.ratio == pytest.approx((0.5, 0.5, 0.5))
    assert len(first.latencies_ms) == 20, "0.6 s in rounds of 0.03"
    assert slow.calls[-3] < quick.calls[-3] < slow.calls[-2] < quick.calls[-2], "in turn"


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_what_is_fast_and_wrong_is_not_timed(clock, value):
    with pytest.raises(CheckFailedError, match="wrong computes other logits"):
        measure(
            [contender(FakeRunner(clock, "right", 0)), contender(FakeRunner(clock, "wrong", 0, value))],
            np.zeros((1, 4, 4, 3), np.uint8),
            seconds=0.1,
        )


def test_the_current_folder_is_taken(made, run_cli, monkeypatch):
    monkeypatch.chdir(made.folder)
    code, out, err = run_cli("bench", "--seconds", "0.2", "--batch", "1,3", "--json")
    assert code == 0, err
    report = json.loads(out)
    names = ["PyTorch, model.pt", "ONNX Runtime, model.onnx", "ONNX Runtime, model.fp16.onnx"]
    assert [timing["name"] for timing in report["timings"]] == names * 2
    assert [timing["batch"] for timing in report["timings"]] == [1, 1, 1, 3, 3, 3]
    assert all(timing["max_logit_difference"] < 0.05 for timing in report["timings"])
    assert "float16 is emulated" in err


def test_files_of_two_models_are_not_compared(made, run_cli, tmp_path):
    from hemf import checkpoint
    from tests.conftest import tiny_checkpoint

    checkpoint.save(tiny_checkpoint(seed=1), tmp_path / "other.pt")
    code, _, err = run_cli("bench", tmp_path / "other.pt", made.onnx)
    assert code == 1
    assert "2 different checkpoints" in err


def test_an_empty_folder_says_what_to_do(run_cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli("bench")
    assert code == 1
    assert "hemf-export onnx" in err


def test_without_the_checkpoint_the_files_alone_are_timed(made, run_cli, tmp_path):
    shutil.copy(made.onnx, tmp_path)
    code, out, err = run_cli("bench", tmp_path / "model.onnx", "--seconds", "0.1", "--json")
    assert code == 0
    assert "PyTorch is not timed" in err
    assert len(json.loads(out)["timings"]) == 1


def test_images_of_any_classes_serve_as_input(made, run_cli, image_data):
    """Without the checkpoint too, and whatever the folder's classes are called: nothing here is about accuracy."""
    code, _, err = run_cli("bench", made.onnx, "--images", image_data, "--seconds", "0.1", "--json")
    assert code == 0, err


def test_a_batch_that_the_files_do_not_have_is_refused(made, run_cli, monkeypatch):
    description = dataclasses.replace(bench_folder.onnx_file.read(made.onnx)[1], batch=4)
    monkeypatch.setattr(bench_folder, "_describe", lambda path: description)
    code, _, err = run_cli("bench", made.onnx, "--batch", "1,4")
    assert code == 2
    assert "fixed batch 4" in err
