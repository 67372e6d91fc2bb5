"""What a measurement was made under: the real pynvml on a library whose GPU heats up, and other processes."""

from __future__ import annotations

import pynvml
import pytest

from hemf_export.bench import conditions
from hemf_export.bench.conditions import Conditions, CpuTimes
from tests.hemf_export import nvml_library


@pytest.mark.parametrize("driver", nvml_library.DRIVERS)
def test_clocks_power_temperature_and_throttling_are_ranges_over_the_run(monkeypatch, tmp_path, driver):
    if driver == "CUDA 14" and not hasattr(pynvml, "nvmlDeviceGetTemperatureV"):
        pytest.skip("this nvidia-ml-py is older than such drivers, and knows the old names alone")
    nvml = nvml_library.load(monkeypatch, tmp_path, driver)
    monkeypatch.setattr(conditions, "SAMPLE_S", 0.0)
    watched = Conditions(2, conditions.open_gpu("GPU-right"))
    watched.look()
    cool = watched.to_dict()
    assert cool["gpu"]["throttling"] == [], "an idle GPU is not throttled"
    nvml.temperature = 80
    watched.look()
    gpu = watched.to_dict()["gpu"]
    assert (gpu["name"], gpu["driver"], gpu["power_limit_w"]) == ("Tesla T4", "580.95.05", 70.0)
    assert (gpu["samples"], gpu["temperature_c"], gpu["power_w"]) == (2, [60, 80], [69.5, 69.5])
    assert (gpu["sm_mhz"], gpu["memory_mhz"]) == ([1590, 1590], [5000, 5000])
    assert gpu["throttling"] == ["temperature"]
    assert "throttled (temperature)" in conditions.warnings(watched.to_dict())[-1]


def test_a_release_of_nvidia_ml_py_without_the_new_names_is_enough(monkeypatch, tmp_path):
    """12.535.77, the first 12, has no nvmlDeviceGetTemperatureV; 12.575.51 has it."""
    nvml_library.load(monkeypatch, tmp_path)
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTemperatureV", raising=False)
    device = conditions.open_gpu()
    assert device is not None
    assert device.sample().temperature_c == 60


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_what_a_gpu_does_not_tell_is_left_open(monkeypatch, tmp_path, code):
    nvml_library.load(monkeypatch, tmp_path).power_error = code
    watched = Conditions(2, conditions.open_gpu())
    watched.look()
    gpu = watched.to_dict()["gpu"]
    assert (gpu["power_w"], gpu["temperature_c"], gpu["throttling"]) == (None, [60, 60], [])


@pytest.mark.parametrize(
    ("settings", "uuid"),
    [
        ({"devices": 0}, None),
        ({}, "GPU-another"),
        ({"init_error": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}, None),
        ({"init_error": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}, None),
    ],
    ids=["no GPU", "another GPU", "driver not loaded", "driver updated, machine not restarted"],
)
def test_without_a_driver_or_gpu_there_is_no_device(monkeypatch, tmp_path, settings, uuid):
    nvml = nvml_library.load(monkeypatch, tmp_path)
    for name, value in settings.items():
        setattr(nvml, name, value)
    assert conditions.open_gpu(uuid) is None
    assert Conditions(1, None).to_dict()["gpu"] is None


def test_the_real_pynvml_without_the_drivers_library(monkeypatch):
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "CDLL", missing)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    assert conditions.open_gpu() is None


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
