"""The step of the GPU check that runs stand-ins of engines, on a GPU that is one too: it checks order and lifetime."""

from __future__ import annotations

import pytest
import torch

from hemf_export.engines import device, runner
from hemf_export.gpu_check import execution, step
from hemf_export.gpu_check.step import Place, Result
from tests.engines import fake_tensorrt as fake
from tests.engines.fake_cuda import CpuDevice
from tests.engines.fake_records import streams


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CpuDevice:
    """The stand-in of a GPU, whose kernels run on the CPU."""
    gpu = CpuDevice()

    def launch(stream, run, count, addresses):
        streams[stream].launch(count, run, [addresses["images"]], [addresses["logits"]])

    def forbidden():
        """As `torch.cuda.synchronize`: the check of its CUDA call raises (c10/cuda/CUDAException.cpp)."""
        if gpu.capturing():
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(device, "CudaDevice", lambda: gpu)
    monkeypatch.setattr(execution, "launch", launch)
    monkeypatch.setattr(execution, "forbidden_in_captures", forbidden)
    return gpu


def run(tmp_path) -> Result:
    with fake.installed():  # which fails if the GPU was misused
        return step.run("execution", execution.execution, Place(tmp_path, "cpu", small=True))


def test_everything_passes(gpu, tmp_path):
    result = run(tmp_path)
    assert (result.outcome, result.reason) == ("passed", ""), result.checks
    assert len(result.checks) == 6
    assert gpu.replayed > 20
    assert "can't be captured" in result.checks[-1].found or "without" in result.checks[-1].found


def test_an_engine_that_does_nothing_fails_every_check(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "launch", lambda stream, run, count, addresses: None)
    result = run(tmp_path)
    outcomes = {check.name: check.outcome for check in result.checks}
    assert outcomes.pop("graphs equal to the bit") == "passed", "nothing is equal to nothing"
    assert set(outcomes.values()) == {"failed"}, result.checks


def test_a_capture_that_fails_has_to_be_told(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_add_once", lambda notes, text: None)
    last = run(tmp_path).checks[-1]
    assert (last.name, last.outcome) == ("a capture that fails", "failed")
    assert last.found == "5 of 5 batches right; nothing was said"
