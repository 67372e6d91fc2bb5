"""`bench`: interleaved, only what computes the reference's logits, and honest about what it measured."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest

from hemf.errors import CheckFailedError
from hemf_export.bench import Contender, measure


class Sleeper:
    """A runner whose latency is known."""

    def __init__(self, name: str, seconds: float, value: float = 0.0) -> None:
        self.name, self.seconds, self.value, self.calls = name, seconds, value, []

    def infer(self, batch):
        self.calls.append(time.perf_counter())
        time.sleep(self.seconds)
        return np.full((len(batch), 2), self.value, np.float32)


def contender(runner):
    return Contender(runner, lambda pixels: pixels, lambda largest: 0.1)


def test_latencies_and_ratios_are_those_of_the_runners():
    slow, quick = Sleeper("slow", 0.02), Sleeper("quick", 0.01)
    first, second = measure([contender(slow), contender(quick)], np.zeros((1, 4, 4, 3), np.uint8), seconds=0.5)
    assert first.percentile(50) == pytest.approx(20, rel=0.3)
    assert second.ratio[0] == pytest.approx(0.5, rel=0.3)
    assert second.ratio[1] <= second.ratio[0] <= second.ratio[2]
    assert slow.calls[-3] < quick.calls[-3] < slow.calls[-2] < quick.calls[-2], "in turn"


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_what_is_fast_and_wrong_is_not_timed(value):
    with pytest.raises(CheckFailedError, match="wrong computes other logits"):
        measure(
            [contender(Sleeper("right", 0)), contender(Sleeper("wrong", 0, value))],
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
