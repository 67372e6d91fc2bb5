"""Description of this machine for running engines: its first GPU, driver, and installed TensorRT flavours."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from hemf_export.engines import backends
from hemf_export.engines.backends import BackendName
from hemf_export.files.errors import MissingCapabilityError


@dataclass(frozen=True)
class Machine:
    """GPU, driver and TensorRT flavours of a machine.

    Args:
        gpu: compute capability of the first GPU; None where there is none.
        versions: version of each TensorRT flavour that can be imported.
        platform: operating system and processor; plans don't cross them.
        driver: the latest CUDA version that the NVIDIA driver supports, (12, 8); None without a driver.
        cuda: major version of CUDA that each flavour is built for, where its package says so.
        gpu_name: product name of the first GPU; None where there is none, or where it isn't known.
    """

    gpu: tuple[int, int] | None = None
    versions: Mapping[BackendName, str] = field(default_factory=dict)
    platform: str = field(default_factory=lambda: platform_here())
    driver: tuple[int, int] | None = None
    cuda: Mapping[BackendName, int] = field(default_factory=dict)
    gpu_name: str | None = None


def platform_here() -> str:
    """This machine's operating system and processor: `linux-x86_64`."""
    return f"{sys.platform}-{platform.machine().lower()}"


def here(names: tuple[BackendName, ...] = ("tensorrt", "tensorrt-rtx")) -> Machine:
    """Look at this machine; of TensorRT only at the flavours in `names`."""
    versions: dict[BackendName, str] = {}
    for name in names:
        try:
            versions[name] = backends.load(name).version
        except MissingCapabilityError:
            continue
    majors = {name: backends.cuda_major(name) for name in versions}
    cuda = {name: major for name, major in majors.items() if major is not None}
    return Machine(
        backends.gpu_capability(), versions, driver=driver(), cuda=cuda, gpu_name=backends.gpu_name()
    )  # fmt: skip


def cuda_library() -> ctypes.CDLL:
    """Load the CUDA driver's library.

    Raises:
        OSError: it isn't there.
    """
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


def driver() -> tuple[int, int] | None:
    """The latest CUDA version that the NVIDIA driver supports, by its own library; None without a driver."""
    try:
        version = ctypes.c_int()
        failed = cuda_library().cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)
