"""What a measurement was made under: processor, GPU, threads, versions, and who else was busy meanwhile.

Clocks, power, temperature and throttling of the GPU are read through NVML, by ctypes: it comes with the driver, and its
Python package would be one more to install. Nothing is changed.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts
from hemf_export.files.processors import usable_cores

# From nvml.h.
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_TEMPERATURE_GPU = 0
# What slows a GPU down; that it is idle, or at a clock that its owner set, is not throttling.
THROTTLING = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "temperature", 0x40: "hardware, temperature",
    0x80: "power brake",
}  # fmt: skip
SAMPLE_S = 0.5
BUSY_SHARE = 0.15  # of the cores, for others, from which on latencies say little
_TICK_NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True)
class GpuSample:
    """State of the GPU at one moment; None where it doesn't tell.

    Args:
        sm_mhz: clock of the multiprocessors.
        memory_mhz: clock of the memory.
        power_w: drawn.
        temperature_c: of the chip.
        throttling: reasons, of `THROTTLING`.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    throttling: tuple[str, ...]


class Nvml:
    """The GPUs of this machine, as the driver shows them.

    Args:
        library: NVML; loaded by default.

    Raises:
        OSError: it isn't here: no NVIDIA driver.
    """

    def __init__(self, library: Any = None) -> None:
        name = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"
        self._library = library if library is not None else ctypes.CDLL(name)
        if code := self._library.nvmlInit_v2():
            raise OSError(f"NVML doesn't start: error {code}")

    def count(self) -> int:
        """How many GPUs the driver sees."""
        number = ctypes.c_uint()
        return 0 if self._library.nvmlDeviceGetCount_v2(ctypes.byref(number)) else number.value

    def device(self, uuid: str | None = None) -> NvmlDevice | None:
        """The GPU with a UUID (`GPU-…`), or the first one; None where there is none."""
        handle = ctypes.c_void_p()
        if uuid is not None:
            code = self._library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
        else:
            code = self._library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
        return None if code else NvmlDevice(self._library, handle)


class NvmlDevice:
    """One GPU."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def facts(self) -> dict[str, Any]:
        """What doesn't change: name, driver, power limit in W."""
        limit = self._number(ctypes.c_uint, "nvmlDeviceGetEnforcedPowerLimit")
        return {
            "name": self._text("nvmlDeviceGetName", self._handle),
            "driver": self._text("nvmlSystemGetDriverVersion"),
            "power_limit_w": None if limit is None else limit / 1000,
        }

    def sample(self) -> GpuSample:
        """Read the GPU's state now."""
        power = self._number(ctypes.c_uint, "nvmlDeviceGetPowerUsage")
        reasons = self._number(ctypes.c_ulonglong, "nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return GpuSample(
            self._number(ctypes.c_uint, "nvmlDeviceGetClockInfo", _CLOCK_SM),
            self._number(ctypes.c_uint, "nvmlDeviceGetClockInfo", _CLOCK_MEMORY),
            None if power is None else power / 1000,
            self._number(ctypes.c_uint, "nvmlDeviceGetTemperature", _TEMPERATURE_GPU),
            tuple(name for bit, name in THROTTLING.items() if reasons & bit),
        )

    def _number(self, kind: Any, function: str, *arguments: int) -> int | None:
        value = kind()
        code = getattr(self._library, function)(self._handle, *arguments, ctypes.byref(value))
        return None if code else int(value.value)

    def _text(self, function: str, *arguments: Any) -> str | None:
        text = ctypes.create_string_buffer(96)
        code = getattr(self._library, function)(*arguments, text, len(text))
        return None if code else text.value.decode(errors="replace")


def open_gpu(uuid: str | None = None) -> NvmlDevice | None:
    """The GPU with that UUID, or the first; None without a driver or a GPU."""
    try:
        return Nvml().device(uuid)
    except OSError:
        return None


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of all cores since the start of the machine, and of this process; None where it isn't told."""

    busy: float
    steal: float
    own: float
    at: float


class Conditions:
    """Conditions from the making of this object on.

    Args:
        threads: that each runner on the CPU is given.
        device: the GPU that is used, or None.
    """

    def __init__(self, threads: int, device: NvmlDevice | None) -> None:
        self._threads, self._device = threads, device
        self._date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._start = _cpu_times()
        self._samples: list[GpuSample] = []
        self._sampled = -SAMPLE_S

    def look(self) -> None:
        """Sample the GPU, to be called between rounds; not more often than every `SAMPLE_S`."""
        if self._device is not None and time.monotonic() - self._sampled >= SAMPLE_S:
            self._samples.append(self._device.sample())
            self._sampled = time.monotonic()

    def to_dict(self) -> dict[str, Any]:
        """All of it up to now, in plain types."""
        return {
            "date": self._date,
            "cpu": {"model": cpu_model(), "cores": usable_cores(), "threads": self._threads, **self._others()},
            "gpu": None if self._device is None else {**self._device.facts(), **_ranges(self._samples)},
            "versions": artifacts.versions(),
        }

    def _others(self) -> dict[str, float | None]:
        """Shares of all cores: taken by other processes, and by the host of a virtual machine."""
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
    """What in `Conditions.to_dict()` spoils latencies."""
    texts = []
    cpu, gpu = conditions["cpu"], conditions["gpu"]
    for share, who in ((cpu["others_share"], "Other processes"), (cpu["steal_share"], "Other virtual machines")):
        if share is not None and share > BUSY_SHARE:
            texts.append(f"{who} took {share:.0%} of the cores: latencies are too long, and ratios less certain.")
    if gpu and gpu["throttling"]:
        texts.append(f"The GPU was throttled ({', '.join(gpu['throttling'])}): latencies are too long.")
    return texts


def cpu_model() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ranges(samples: list[GpuSample]) -> dict[str, Any]:
    """Least and most of each figure over the samples, and every reason for throttling that was seen."""
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
