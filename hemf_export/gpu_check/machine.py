"""Step of the GPU check: what this machine has."""

from __future__ import annotations

import torch

import hemf_export
from hemf_export.bench import conditions
from hemf_export.engines import backends, machine
from hemf_export.files import artifacts
from hemf_export.gpu_check.step import Findings, Place


def machine_facts(place: Place, findings: Findings) -> None:
    """Look at the GPU through PyTorch, the driver and NVML, and record all versions."""
    checkup = hemf_export.doctor()
    needed = ("GPU", "driver", "CUDA in torch")
    for component in checkup.components:
        if component.name in needed:
            findings.check(component.name, component.status == "ok", component.found or component.fix)
    with findings.attempt("NVML"):
        device = conditions.open_gpu()
        if device is None:
            findings.check("NVML", False, "NVML doesn't open the GPU")
        else:
            facts, sample = device.facts(), device.sample()
            findings.facts["nvml"] = {**facts, **vars(sample)}
            shown = f"{facts['name']}, driver {facts['driver']}, {sample.sm_mhz} MHz, {sample.temperature_c} °C"
            complete = None not in (facts["name"], facts["driver"], sample.sm_mhz, sample.memory_mhz)
            findings.check("NVML", complete, shown)
    capability = backends.gpu_capability()
    findings.facts |= {
        "gpu": backends.gpu_name(), "compute_capability": None if capability is None else list(capability),
        "driver_cuda": machine.driver(), "versions": artifacts.versions(),
        "tensorrt": dict(machine.here().versions), "torch_cuda": torch.version.cuda,
    }  # fmt: skip
