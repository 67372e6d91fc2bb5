"""What a GPU does at this moment, through NVML, the driver's own library: clocks, power, temperature, throttling.

By ctypes, as NVML comes with the driver and its Python package would be one more to install. Nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

# From nvml.h.
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_TEMPERATURE_GPU = 0
# What slows a GPU down; that it is idle, or at a clock that its owner set, is not throttling.
THROTTLING = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "temperature", 0x40: "hardware, temperature",
    0x80: "power brake",
}  # fmt: skip


@dataclass(frozen=True)
class GpuSample:
    """One look; None where the GPU doesn't tell.

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
        """Look once."""
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


def open_device(uuid: str | None = None) -> NvmlDevice | None:
    """The GPU with that UUID, or the first; None without a driver or a GPU."""
    try:
        return Nvml().device(uuid)
    except OSError:
        return None
