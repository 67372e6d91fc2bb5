"""NVML of a machine with one T4: `nvml.c`, compiled, which the real pynvml loads in place of the driver's library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).with_name("nvml.c")
# A driver before R535; one that has a function's old and new name; one of CUDA 14.
DRIVERS = {"R470": (), "today": ("-DRENAMED",), "CUDA 14": ("-DRENAMED", "-DREMOVED")}


class Library:
    """The library, whose variables a test sets as attributes: `devices`, `init_error`, `power_error`, `temperature`."""

    def __init__(self, path: Path) -> None:
        self.__dict__["cdll"] = ctypes.CDLL(str(path))

    def __setattr__(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self.__dict__["cdll"], name).value = value


def load(monkeypatch: pytest.MonkeyPatch, folder: Path, driver: str = "today") -> Library:
    """Compile the library of a driver into `folder`, and let pynvml load it; a skip where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: NVML is a C library")
    path = folder / "libnvidia-ml.so.1"  # in a folder of its own, as a library is loaded once for each path
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", path, SOURCE, *DRIVERS[driver]]
    subprocess.run(command, check=True)
    library = Library(path)
    monkeypatch.setattr(pynvml, "CDLL", lambda name: {"libnvidia-ml.so.1": library.cdll}[name])
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library
