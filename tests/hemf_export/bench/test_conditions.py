"""What a measurement was made under: a stand-in for NVML, whose GPU heats up, and for other processes."""

from __future__ import annotations

import pytest

from hemf_export.bench import conditions
from hemf_export.bench.conditions import Conditions, CpuTimes, Nvml


class FakeNvml:
    """As much of the library as is asked of it: a T4 that is throttled once it is hot."""

    def __init__(self, devices: int = 1, broken: str = "") -> None:
        self.devices, self.broken, self.temperature = devices, broken, 60

    def __getattr__(self, name: str):
        if name == self.broken:
            return lambda *arguments: 3  # NVML_ERROR_NOT_SUPPORTED
        return object.__getattribute__(self, f"_{name}")

    def _nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def _nvmlDeviceGetHandleByIndex_v2(self, index: int, handle) -> int:  # noqa: N802
        handle._obj.value = 7
        return 0 if index < self.devices else 6

    def _nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle) -> int:  # noqa: N802
        handle._obj.value = 7
        return 0 if uuid == b"GPU-right" else 6

    def _nvmlDeviceGetName(self, handle, text, length: int) -> int:  # noqa: N802
        text.value = b"Tesla T4"
        return 0

    def _nvmlSystemGetDriverVersion(self, text, length: int) -> int:  # noqa: N802
        text.value = b"580.1"
        return 0

    def _nvmlDeviceGetEnforcedPowerLimit(self, handle, value) -> int:  # noqa: N802
        value._obj.value = 70_000
        return 0

    def _nvmlDeviceGetPowerUsage(self, handle, value) -> int:  # noqa: N802
        value._obj.value = 69_500
        return 0

    def _nvmlDeviceGetClockInfo(self, handle, kind: int, value) -> int:  # noqa: N802
        value._obj.value = {1: 1590 - 10 * (self.temperature - 60), 2: 5000}[kind]
        return 0

    def _nvmlDeviceGetTemperature(self, handle, sensor: int, value) -> int:  # noqa: N802
        self.temperature += 20
        value._obj.value = self.temperature - 20
        return 0

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, value) -> int:  # noqa: N802
        value._obj.value = 0x1 | (0x20 if self.temperature > 70 else 0)
        return 0


def test_clocks_power_temperature_and_throttling_are_ranges_over_the_run(monkeypatch):
    monkeypatch.setattr(conditions, "SAMPLE_S", 0.0)
    watched = Conditions(2, Nvml(FakeNvml()).device("GPU-right"))
    watched.look()
    cool = watched.to_dict()
    assert cool["gpu"]["throttling"] == [], "that it idles is no throttling"
    watched.look()
    gpu = watched.to_dict()["gpu"]
    assert (gpu["name"], gpu["driver"], gpu["power_limit_w"]) == ("Tesla T4", "580.1", 70.0)
    assert (gpu["samples"], gpu["temperature_c"], gpu["power_w"]) == (2, [60, 80], [69.5, 69.5])
    assert (gpu["sm_mhz"], gpu["memory_mhz"]) == ([1390, 1590], [5000, 5000])
    assert gpu["throttling"] == ["temperature"]
    assert "throttled (temperature)" in conditions.warnings(watched.to_dict())[-1]


def test_what_a_gpu_does_not_tell_is_left_open():
    watched = Conditions(2, Nvml(FakeNvml(broken="nvmlDeviceGetPowerUsage")).device())
    watched.look()
    gpu = watched.to_dict()["gpu"]
    assert (gpu["power_w"], gpu["temperature_c"]) == (None, [60, 60])


def test_no_gpu_is_none():
    assert Nvml(FakeNvml(devices=0)).device() is None
    assert Nvml(FakeNvml()).device("GPU-another") is None
    with pytest.raises(OSError, match="NVML doesn't start"):
        Nvml(FakeNvml(broken="nvmlInit_v2"))


def test_a_machine_without_a_driver_has_no_device(monkeypatch):
    def missing(name):
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(conditions.ctypes, "CDLL", missing)
    assert conditions.open_gpu() is None
    assert Conditions(1, None).to_dict()["gpu"] is None


def test_shares_of_others_and_of_the_host_are_told_and_warned_of(monkeypatch):
    """Ten seconds on four cores: 18 s busy, of which 10 s were ours; 8 s stolen."""
    times = iter((CpuTimes(100, 5, 50, 0), CpuTimes(118, 13, 60, 10)))
    monkeypatch.setattr(conditions, "_cpu_times", lambda: next(times))
    monkeypatch.setattr(conditions.os, "cpu_count", lambda: 4)
    values = Conditions(2, None).to_dict()
    assert (values["cpu"]["others_share"], values["cpu"]["steal_share"]) == (0.2, 0.2)
    assert [text.partition(" took 20%")[0] for text in conditions.warnings(values)] == [
        "Other processes",
        "Other virtual machines",
    ]


def test_a_quiet_machine_gives_no_warning(monkeypatch):
    times = iter((CpuTimes(100, 5, 50, 0), CpuTimes(111, 5, 60, 10)))
    monkeypatch.setattr(conditions, "_cpu_times", lambda: next(times))
    monkeypatch.setattr(conditions.os, "cpu_count", lambda: 4)
    assert conditions.warnings(Conditions(2, None).to_dict()) == []


def test_processor_threads_versions_and_date_are_there():
    values = Conditions(3, None).to_dict()
    assert values["cpu"]["model"]
    assert values["cpu"]["threads"] == 3
    assert "torch" in values["versions"]
    assert values["date"].endswith("+00:00")
