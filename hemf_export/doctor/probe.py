"""Probe of one component, run as a child process of `doctor.probing`; it answers with one JSON line.

Anything in here may crash, hang or exit, hence the child process. Before the package to probe it imports only the
standard library, so that no other broken package interferes.

    package MODULE [DISTRIBUTION]   import it: version and details that commands need
    driver                          the NVIDIA driver and its GPUs, from the driver's own libraries
    torch-cuda                      a float16 product in PyTorch on the first GPU
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

NVIDIA_PCI_VENDOR = "0x10de"
PCI_DISPLAY_CLASS = "0x03"
# Attributes of cuDeviceGetAttribute, from cuda.h.
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76


class NotThereError(Exception):
    """Raised if the component isn't installed."""

    def __init__(self, reason: str, **facts: Any) -> None:
        super().__init__(reason)
        self.facts = facts


def package(module: str, distribution: str | None = None) -> dict[str, Any]:
    """Import a package of a distribution; return its version and details."""
    try:
        imported: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise NotThereError("not installed") from error
        raise
    if getattr(imported, "__file__", None) is None:
        # Python imports any folder of that name as a namespace package, such as remains of an interrupted pip.
        raise ImportError(f"nothing but a folder of that name is there: {next(iter(imported.__path__), '?')}")
    version = getattr(imported, "__version__", "")
    if not version:
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(distribution or module.partition(".")[0])
    facts: dict[str, Any] = {"version": str(version).removeprefix("v")}
    if module == "torch":
        facts["cuda_build"] = imported.version.cuda
    if module == "onnxruntime":
        facts["providers"] = list(imported.get_available_providers())
    return facts


def driver() -> dict[str, Any]:
    """Return the driver's version, the CUDA version that it supports, and its GPUs."""
    cuda = _library("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    facts: dict[str, Any] = {"driver": _driver_version(), "pci": _nvidia_devices(), "gpus": []}
    version, count = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) == 0:
        facts["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        return {**facts, "error": f"{(text.value or b'unknown error').decode(errors='replace')} (CUDA error {code})"}
    return {**facts, "gpus": [_gpu(cuda, index) for index in range(count.value)]}


def torch_cuda() -> dict[str, Any]:
    """Compute a float16 product on the first GPU: `torch.cuda.is_available()` is True for unsupported GPUs too."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if not there:
        torch.zeros(1, device="cuda")  # raises an error with the reason
        raise RuntimeError(str(said[-1].message) if said else "torch.cuda.is_available() is False")
    try:
        ones = torch.ones(8, 8, device="cuda", dtype=torch.float16)
        total = float((ones @ ones).sum())
    except RuntimeError as error:
        raise RuntimeError(_why(torch, error)) from error
    if total != 8**3:
        raise RuntimeError("a float16 product on the GPU is wrong")
    return {"gpu": torch.cuda.get_device_name()}


def _why(torch: Any, error: RuntimeError) -> str:
    """Return a CUDA error's first line, which PyTorch follows by advice for debugging; and kernels, if those lack."""
    reason = str(error).strip().partition("\n")[0]
    if "no kernel image" not in reason:
        return reason
    major, minor = torch.cuda.get_device_capability()
    return f"{reason}: torch has kernels for {', '.join(torch.cuda.get_arch_list())}, the GPU is sm_{major}{minor}"


def _library(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or "cannot open shared object" in str(error):
            raise NotThereError(f"{name} is not there", pci=_nvidia_devices()) from error
        raise


def _driver_version() -> str | None:
    """Read the driver's version from NVML, or else from the kernel module."""
    with suppress(ImportError):
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            return str(pynvml.nvmlSystemGetDriverVersion())
    with suppress(OSError):
        match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
        return match[0] if match else None
    return None


def _gpu(cuda: Any, index: int) -> dict[str, Any]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    codes = (
        cuda.cuDeviceGet(ctypes.byref(device), index),
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    )
    if any(codes):
        raise RuntimeError(f"GPU {index} doesn't answer the driver (CUDA error {next(filter(None, codes))})")
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": [major.value, minor.value],
        "memory_bytes": memory.value,
    }


def _nvidia_devices() -> int:
    """Count NVIDIA GPUs on the PCI bus, with or without a driver; Linux only, which lists them as files."""
    count = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text(encoding="utf-8").strip() for name in ("vendor", "class"))
            count += vendor == NVIDIA_PCI_VENDOR and kind.startswith(PCI_DISPLAY_CLASS)
    return count


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "package": package,
    "driver": driver,
    "torch-cuda": torch_cuda,
}


def answer(kind: str, *arguments: str) -> dict[str, Any]:
    """Run a probe; return its facts, or the error: anything that a package raises, even SystemExit, is an answer."""
    try:
        return {"outcome": "ok", "facts": PROBES[kind](*arguments)}
    except NotThereError as error:
        return {"outcome": "missing", "reason": str(error), "facts": error.facts}
    except BaseException as error:  # noqa: BLE001 - a broken installation may raise anything
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
        return {"outcome": "broken", "reason": lines[-1].strip()}


def main(*arguments: str) -> None:
    """Write the answer to the original stdout; whatever a package prints goes to stderr."""
    line_out = os.dup(1)
    os.dup2(2, 1)
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected: no core files in the user's folder
    os.write(line_out, json.dumps(answer(*arguments), default=str).encode() + b"\n")
    # Exit at once: native libraries may crash at shutdown, after the answer.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
