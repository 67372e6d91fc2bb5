"""Runners that fail while they are loaded, prepared or timed: told with the reason, and the others go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.bench import run as bench_run
from hemf_export.bench.provider_runner import ProviderRunner
from hemf_export.files.errors import HemfError
from hemf_export.models.runners import OnnxRunner
from hemf_export.timing import failures, measurement
from hemf_export.timing.measurement import Contender, measure
from hemf_export.timing.workloads import HostWorkload, TensorWorkload
from tests.hemf_export.bench.onnx_sessions import Sessions, of_one_batch, of_too_much_memory
from tests.hemf_export.triton.models import SIDE, means

PIXELS = np.zeros((2, SIDE, SIDE, 3), np.uint8)
IMAGES = np.zeros((2, 3, SIDE, SIDE), np.float32)
QUICK = ("--seconds", "0.05", "--threads", "1", "--no-memory", "--batch", "1")


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    monkeypatch.setattr(measurement, "WARMUP_S", 0.0)


def reference(folder: Path) -> Contender:
    runner = OnnxRunner(means(folder / "reference.onnx"), threads=1)
    return Contender("reference", lambda pixels: HostWorkload(runner, IMAGES), lambda _: 0.1)


def by_provider(path: Path, *, on_gpu: bool = True) -> Contender:
    runner = ProviderRunner(path, "CUDAExecutionProvider")
    return Contender("ort-cuda", lambda pixels: HostWorkload(runner, IMAGES), lambda _: 0.1, on_gpu=on_gpu)


def by_torch(compute, *, on_gpu: bool = True) -> Contender:
    return Contender(
        "torch", lambda pixels: TensorWorkload(compute, IMAGES, "cpu", transfers=True), lambda _: 0.1, on_gpu=on_gpu
    )


def left_out(contender: Contender, folder: Path) -> measurement.NotRun:
    """Reason of the one contender that is left out beside a reference and another."""
    timings, (missing,) = measure([reference(folder), contender, reference(folder)], PIXELS, seconds=0.01)
    assert [timing.name for timing in timings] == ["reference", "reference"]
    assert missing.name == contender.name
    assert not missing.failed, "its logits aren't wrong"
    assert missing.batch == len(PIXELS)
    return missing


def test_a_kernel_that_fails(tmp_path, monkeypatch):
    Sessions().install(monkeypatch)
    reason = left_out(by_provider(of_one_batch(tmp_path, 3)), tmp_path).reason
    assert reason.startswith("It fails: ")
    assert "Input shape:{2,3}, requested shape:{3,3}" in reason


@pytest.mark.parametrize(("on_gpu", "whose"), [(True, "The GPU's"), (False, "This machine's")])
def test_an_arena_that_is_full(tmp_path, monkeypatch, on_gpu, whose):
    Sessions().install(monkeypatch)
    contender = by_provider(of_too_much_memory(tmp_path), on_gpu=on_gpu)
    assert left_out(contender, tmp_path).reason == f"{whose} memory is full, which all runners share."


def test_a_provider_that_fails_in_its_first_run(tmp_path, monkeypatch):
    Sessions(failing_runs=["TensorRT EP failed to create engine"]).install(monkeypatch)
    contender = by_provider(means(tmp_path / "m.onnx"))
    assert left_out(contender, tmp_path).reason == "It fails: TensorRT EP failed to create engine."


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "The GPU's memory is full"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "The GPU's memory"),
        (torch.AcceleratorError("CUDA error: an illegal memory access\nCUDA kernel errors might"), "It fails: CUDA"),
        (RuntimeError("\n"), "It fails: RuntimeError."),
    ],
)  # fmt: skip
def test_what_pytorch_raises(tmp_path, error, reason):
    def compute(images):
        raise error

    assert left_out(by_torch(compute), tmp_path).reason.startswith(reason)


def test_a_runner_that_fails_later_than_in_its_first_run(tmp_path):
    """While it is timed, and while its logits are read afterwards."""
    runs = 0

    def compute(images):
        nonlocal runs
        runs += 1
        if runs > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean((2, 3))

    reason = left_out(by_torch(compute), tmp_path).reason
    assert reason == "While it was timed: The GPU's memory is full, which all runners share."

    class Unreadable(HostWorkload):
        reads = 0

        def logits(self):
            self.reads += 1
            if self.reads > 1:
                raise RuntimeError("CUDA error: unspecified launch failure")
            return super().logits()

    runner = OnnxRunner(means(tmp_path / "m.onnx"), threads=1)
    unreadable = Contender("unreadable", lambda pixels: Unreadable(runner, IMAGES), lambda _: 0.1)
    reason = left_out(unreadable, tmp_path).reason
    assert reason == "After the timing: It fails: CUDA error: unspecified launch failure."


@pytest.mark.parametrize("good_runs", [0, 8])
def test_without_the_reference_nothing_is_compared(tmp_path, good_runs):
    runs = 0

    def compute(images):
        nonlocal runs
        runs += 1
        if runs > good_runs:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean((2, 3))

    with pytest.raises(HemfError, match=r"^torch, which the others.*batch of 2: .*memory is full.* `batch`") as caught:
        measure([by_torch(compute), reference(tmp_path)], PIXELS, seconds=0.01)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("error", [TypeError("ours"), KeyError("ours"), AssertionError("ours")])
def test_a_defect_of_ours_is_passed_on(error):
    with pytest.raises(type(error)), failures.guarded(on_gpu=True):
        raise error


@pytest.fixture
def gpu(monkeypatch) -> None:
    """A machine on which everything says that there is a GPU, as far as runners of ONNX Runtime ask."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(bench_run, "_uuid", lambda: None)


def test_bench_tells_what_failed_and_its_json_is_json(made, gpu, run_cli, monkeypatch):
    """Its CUDA provider fails in the first run of one file; TensorRT's can't take the other."""
    Sessions(failing_runs=["CUDA failure 700: an illegal memory access was encountered"]).install(monkeypatch)
    code, out, err = run_cli("bench", made.onnx, made.half, *QUICK, "--runners", "ort-cpu,ort-cuda", "--json")
    assert code == 0, err
    report = json.loads(out)
    names = [timing["name"] for timing in report["timings"]]
    assert names == ["ort-cpu, model.onnx", "ort-cpu, model.fp16.onnx", "ort-cuda, model.fp16.onnx"]
    (missing,) = report["not_run"]
    assert missing["name"] == "ort-cuda, model.onnx"
    assert "CUDA failure 700: an illegal memory access" in missing["reason"]
    assert not missing["failed"]


def test_bench_ends_with_1_where_the_first_runner_fails(made, gpu, run_cli, monkeypatch):
    Sessions(failing_runs=["CUDA failure 2: out of memory"] * 2).install(monkeypatch)
    code, out, err = run_cli("bench", made.onnx, made.half, *QUICK, "--runners", "ort-cuda", "--json")
    assert code == 1
    assert json.loads(out)["exit_code"] == 1
    assert "ort-cuda, model.onnx, which the others are compared with, can't be run on a batch of 1" in err


def test_a_runner_that_can_not_be_loaded_is_left_out_unless_it_is_the_first(made, gpu, run_cli, monkeypatch):
    full = RuntimeError("CUDA error: out of memory")
    Sessions(creating=full).install(monkeypatch)
    monkeypatch.setattr("hemf_export.bench.provider_runner._missing_library", lambda provider: None)
    code, out, err = run_cli("bench", made.onnx, *QUICK, "--runners", "ort-cpu,ort-cuda", "--json")
    assert code == 0, err
    (missing,) = json.loads(out)["not_run"]
    assert missing["reason"] == "The GPU's memory is full, which all runners share."
    Sessions(creating=full).install(monkeypatch)
    code, _, err = run_cli("bench", made.onnx, *QUICK, "--runners", "ort-cuda")
    assert code == 1
    assert "ort-cuda, model.onnx can't be loaded: The GPU's memory is full" in err
