"""What a measurement was made under: a stand-in for NVML, whose GPU heats up, and for other processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from hemf_export.bench import conditions
from hemf_export.bench.conditions import Conditions, CpuTimes


class FakeNvml:
    """As much of pynvml as is asked of it: a T4 that is throttled once it is hot.

    What NVML can't answer raises pynvml's own error, as its documentation says: NVML_ERROR_NOT_FOUND for a GPU that
    isn't there, NVML_ERROR_NOT_SUPPORTED for what a GPU doesn't measure, NVML_ERROR_UNINITIALIZED before nvmlInit.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVMLError = pynvml.NVMLError

    def __init__(self, devices: int = 1, errors: dict[str, int] | None = None) -> None:
        self.devices, self.errors, self.temperature, self.initialized = devices, errors or {}, 60, False

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml"):
            if name in (errors := object.__getattribute__(self, "errors")):
                return self._raise(errors[name])
            if name != "nvmlInit" and not self.initialized:
                return self._raise(pynvml.NVML_ERROR_UNINITIALIZED)
        return object.__getattribute__(self, name)

    def _raise(self, code: int) -> Callable[..., None]:
        def function(*_: Any) -> None:
            raise pynvml.NVMLError(code)

        return function

    def nvmlInit(self) -> None:  # noqa: N802
        self.initialized = True

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index >= self.devices:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return "T4"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-right":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "T4"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return {"T4": "Tesla T4"}[handle]

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:  # noqa: N802
        return {"T4": 70_000}[handle]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return {"T4": 69_500}[handle]

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return {self.NVML_CLOCK_SM: 1590 - 10 * (self.temperature - 60), self.NVML_CLOCK_MEM: 5000}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        self.temperature += 20
        return self.temperature - 20

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        hot = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown if self.temperature > 70 else 0
        return pynvml.nvmlClocksThrottleReasonGpuIdle | hot


@pytest.fixture
def nvml(monkeypatch):
    """Put a `FakeNvml` in pynvml's place."""

    def install(**settings: Any) -> None:
        monkeypatch.setattr(conditions, "pynvml", FakeNvml(**settings))

    return install


def test_clocks_power_temperature_and_throttling_are_ranges_over_the_run(monkeypatch, nvml):
    nvml()
    monkeypatch.setattr(conditions, "SAMPLE_S", 0.0)
    watched = Conditions(2, conditions.open_gpu("GPU-right"))
    watched.look()
    cool = watched.to_dict()
    assert cool["gpu"]["throttling"] == [], "an idle GPU is not throttled"
    watched.look()
    gpu = watched.to_dict()["gpu"]
    assert (gpu["name"], gpu["driver"], gpu["power_limit_w"]) == ("Tesla T4", "580.1", 70.0)
    assert (gpu["samples"], gpu["temperature_c"], gpu["power_w"]) == (2, [60, 80], [69.5, 69.5])
    assert (gpu["sm_mhz"], gpu["memory_mhz"]) == ([1390, 1590], [5000, 5000])
    assert gpu["throttling"] == ["temperature"]
    assert "throttled (temperature)" in conditions.warnings(watched.to_dict())[-1]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_what_a_gpu_or_an_old_driver_does_not_tell_is_left_open(nvml, code):
    nvml(errors=dict.fromkeys(("nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksThrottleReasons"), code))
    watched = Conditions(2, conditions.open_gpu())
    watched.look()
    gpu = watched.to_dict()["gpu"]
    assert (gpu["power_w"], gpu["temperature_c"], gpu["throttling"]) == (None, [60, 60], [])


@pytest.mark.parametrize(
    ("settings", "uuid"),
    [
        ({"devices": 0}, None),
        ({}, "GPU-another"),
        ({"errors": {"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}}, None),
        ({"errors": {"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}}, None),
        ({"errors": {"nvmlInit": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}}, None),
    ],
    ids=["no GPU", "another GPU", "no driver", "driver not loaded", "driver updated, machine not restarted"],
)
def test_without_a_driver_or_gpu_there_is_no_device(nvml, settings, uuid):
    nvml(**settings)
    assert conditions.open_gpu(uuid) is None
    assert Conditions(1, None).to_dict()["gpu"] is None


def test_the_real_pynvml_without_the_drivers_library(monkeypatch):
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "CDLL", missing)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    assert conditions.open_gpu() is None


def test_the_fake_has_no_name_that_pynvml_lacks():
    names = [name for name in dir(FakeNvml) if name.lower().startswith("nvml")]
    assert len(names) > 10
    assert set(names) <= set(dir(pynvml))


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
