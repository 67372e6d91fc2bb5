"""The step of the GPU check that looks at the machine: the real doctor, and the real pynvml on a compiled library."""

from __future__ import annotations

import pytest
import torch

from hemf_export.gpu_check import machine, step
from hemf_export.gpu_check.step import Place
from tests.hemf_export import nvml_library


@pytest.mark.extended
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_nvml_tells_is_recorded_and_what_is_missing_fails(tmp_path, monkeypatch):
    nvml_library.load(monkeypatch, tmp_path)
    result = step.run("doctor", machine.machine_facts, Place(tmp_path, "cpu", small=True))
    found = {check.name: check for check in result.checks}
    assert set(found) == {"GPU", "driver", "CUDA in torch", "NVML"}
    assert found["NVML"].outcome == "passed", found["NVML"]
    assert "T4" in found["NVML"].found
    assert (result.outcome, found["CUDA in torch"].outcome, result.reason) == ("failed", "failed", "")
    assert result.facts["nvml"]["sm_mhz"] > 0
    assert result.facts["versions"]["torch"] == torch.__version__


@pytest.mark.extended
def test_a_gpu_that_nvml_does_not_know_is_told(tmp_path, monkeypatch):
    nvml_library.load(monkeypatch, tmp_path).devices = 0
    monkeypatch.setattr(machine.hemf_export, "doctor", lambda: type("Checkup", (), {"components": ()}))
    result = step.run("doctor", machine.machine_facts, Place(tmp_path, "cpu", small=True))
    assert [(check.name, check.found) for check in result.checks] == [("NVML", "NVML doesn't open the GPU")]
