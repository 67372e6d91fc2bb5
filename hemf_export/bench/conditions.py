"""What a measurement was made under: processor, GPU, threads, versions, and who else was busy meanwhile."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hemf import artifacts
from hemf.processors import usable_cores
from hemf_export.bench.gpu_state import GpuSample, NvmlDevice

SAMPLE_S = 0.5
BUSY_SHARE = 0.15  # of the cores, for others, from which on latencies say little
_TICK_NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclasses.dataclass(frozen=True)
class CpuTimes:
    """Seconds of all cores since the start of the machine, and of this process; None where it isn't told."""

    busy: float
    steal: float
    own: float
    at: float


class Conditions:
    """Watches from its making on.

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
        """Between rounds: a sample of the GPU, not more often than `SAMPLE_S`."""
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
    found = []
    cpu, gpu = conditions["cpu"], conditions["gpu"]
    for share, who in ((cpu["others_share"], "Other processes"), (cpu["steal_share"], "Other virtual machines")):
        if share is not None and share > BUSY_SHARE:
            found.append(f"{who} took {share:.0%} of the cores: latencies are too long, and ratios less certain.")
    if gpu and gpu["throttling"]:
        found.append(f"The GPU was throttled ({', '.join(gpu['throttling'])}): latencies are too long.")
    return found


def cpu_model() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ranges(samples: list[GpuSample]) -> dict[str, Any]:
    """Least and most of each figure over the samples, and every reason for throttling that was seen."""
    names = [field.name for field in dataclasses.fields(GpuSample) if field.name != "throttling"]
    found: dict[str, Any] = {"samples": len(samples)}
    for name in names:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        found[name] = [min(values), max(values)] if values else None
    found["throttling"] = sorted({reason for sample in samples for reason in sample.throttling})
    return found


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
