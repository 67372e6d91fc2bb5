"""Record the conditions of a measurement: processor, GPU, threads, versions, and load from other processes.

Clocks, power, temperature and throttling of the GPU are read through NVML, NVIDIA's management library, which comes
with the driver. No setting of the GPU is changed. NVML renames functions: the old names go with CUDA 14 (comments in
nvidia-ml-py 13.615's pynvml.py), and the new ones lack in older drivers and releases of nvidia-ml-py. Both are tried.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pynvml

from hemf_export.files import artifacts
from hemf_export.files.processors import usable_cores

# Reasons for throttling; being idle, or at application clocks, isn't one.
THROTTLING = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "temperature",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware, temperature",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
}
# Names of the same function, the newest first.
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
SAMPLE_S = 0.5
BUSY_SHARE = 0.15  # share of the cores used by other processes from which latencies are unreliable
_TICK_NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True)
class GpuSample:
    """State of the GPU at one moment; None where it isn't reported.

    Args:
        sm_mhz: clock of the multiprocessors.
        memory_mhz: clock of the memory.
        power_w: power draw.
        temperature_c: temperature of the chip.
        throttling: reasons for throttling, from `THROTTLING`.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    throttling: tuple[str, ...]


class NvmlDevice:
    """GPU as NVML reports it; figures that it doesn't support are None."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def facts(self) -> dict[str, Any]:
        """Return the constant facts: name, driver, power limit in W."""
        limit = _query(("nvmlDeviceGetEnforcedPowerLimit",), self._handle)
        return {
            "name": _query(("nvmlDeviceGetName",), self._handle),
            "driver": _query(("nvmlSystemGetDriverVersion",)),
            "power_limit_w": None if limit is None else limit / 1000,
        }

    def used_bytes(self) -> int | None:
        """Return the memory in use, by all processes and the driver. Unlike CUDA's own figure, asking takes none."""
        memory = _query(("nvmlDeviceGetMemoryInfo",), self._handle)
        return None if memory is None else int(memory.used)

    def sample(self) -> GpuSample:
        """Read the GPU's state now."""
        power = _query(("nvmlDeviceGetPowerUsage",), self._handle)
        reasons = _query(_REASONS, self._handle) or 0
        return GpuSample(
            _query(("nvmlDeviceGetClockInfo",), self._handle, pynvml.NVML_CLOCK_SM),
            _query(("nvmlDeviceGetClockInfo",), self._handle, pynvml.NVML_CLOCK_MEM),
            None if power is None else power / 1000,
            _query(_TEMPERATURE, self._handle, pynvml.NVML_TEMPERATURE_GPU),
            tuple(name for bit, name in THROTTLING.items() if reasons & bit),
        )


def open_gpu(uuid: str | None = None) -> NvmlDevice | None:
    """Open the GPU with a UUID (`GPU-…`), or the first one; None without a driver or such a GPU."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0) if uuid is None else pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return None
    return NvmlDevice(handle)


def _query(names: tuple[str, ...], *arguments: Any) -> Any:
    """Call the first of some NVML functions that answers; None if none does, as not every GPU supports everything."""
    for function in filter(None, (getattr(pynvml, name, None) for name in names)):
        with suppress(pynvml.NVMLError):
            return function(*arguments)
    return None


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds of all cores since the machine started, and of this process; None where not reported."""

    busy: float
    steal: float
    own: float
    at: float


class Conditions:
    """Recorder of conditions from its creation on.

    Args:
        threads: threads of each runner on the CPU.
        device: the GPU in use; None without one.
    """

    def __init__(self, threads: int, device: NvmlDevice | None) -> None:
        self._threads, self._device = threads, device
        self._date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._start = _cpu_times()
        self._samples: list[GpuSample] = []
        self._sampled = -SAMPLE_S

    def look(self) -> None:
        """Sample the GPU, at most every `SAMPLE_S`; to be called between rounds."""
        if self._device is not None and time.monotonic() - self._sampled >= SAMPLE_S:
            self._samples.append(self._device.sample())
            self._sampled = time.monotonic()

    def to_dict(self) -> dict[str, Any]:
        """Return the conditions up to now in plain types, for JSON."""
        return {
            "date": self._date,
            "cpu": {"model": cpu_model(), "cores": usable_cores(), "threads": self._threads, **self._others()},
            "gpu": None if self._device is None else {**self._device.facts(), **_ranges(self._samples)},
            "versions": artifacts.versions(),
        }

    def _others(self) -> dict[str, float | None]:
        """Return the shares of all cores used by other processes, and stolen by the host of a virtual machine."""
        now = _cpu_times()
        if self._start is None or now is None:
            return {"others_share": None, "steal_share": None}
        whole = max(1e-9, (now.at - self._start.at) * (os.cpu_count() or 1))
        others = (now.busy - self._start.busy) - (now.own - self._start.own)
        return {
            "others_share": round(min(1.0, max(0.0, others / whole)), 3),
            "steal_share": round(min(1.0, max(0.0, (now.steal - self._start.steal) / whole)), 3),
        }


def warnings(conditions: dict[str, Any]) -> list[str]:
    """Describe what in `Conditions.to_dict()` makes latencies unreliable."""
    texts = []
    cpu, gpu = conditions["cpu"], conditions["gpu"]
    for share, who in ((cpu["others_share"], "Other processes"), (cpu["steal_share"], "Other virtual machines")):
        if share is not None and share > BUSY_SHARE:
            texts.append(f"{who} took {share:.0%} of the cores: latencies are too long, and ratios less certain.")
    if gpu and gpu["throttling"]:
        texts.append(f"The GPU was throttled ({', '.join(gpu['throttling'])}): latencies are too long.")
    return texts


def cpu_model() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ranges(samples: list[GpuSample]) -> dict[str, Any]:
    """Return minimum and maximum of each figure over the samples, and every reason for throttling."""
    names = [field.name for field in fields(GpuSample) if field.name != "throttling"]
    ranges: dict[str, Any] = {"samples": len(samples)}
    for name in names:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        ranges[name] = [min(values), max(values)] if values else None
    ranges["throttling"] = sorted({reason for sample in samples for reason in sample.throttling})
    return ranges


def _cpu_times() -> CpuTimes | None:
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    except OSError:
        return None
    ticks = dict(zip(_TICK_NAMES, (int(value) / os.sysconf("SC_CLK_TCK") for value in line), strict=False))
    own = os.times()
    busy = sum(ticks.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    mine = own.user + own.system + own.children_user + own.children_system
    return CpuTimes(busy, ticks.get("steal", 0.0), mine, time.monotonic())
