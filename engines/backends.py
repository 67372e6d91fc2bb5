"""The two backends, TensorRT and TensorRT-RTX: which of them are installed, and which builds for a target.

Neither package is imported before it is needed: everything else works without them.
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from hemf_export.engines.targets import Target
from hemf_export.files.errors import MissingCapabilityError

if TYPE_CHECKING:
    import tensorrt_bindings  # stubs alone, in tests/typings/
    import tensorrt_rtx_bindings
    from tensorrt_bindings import ILogger

BackendName = Literal["tensorrt", "tensorrt-rtx"]
_MODULES: dict[BackendName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL: dict[BackendName, str] = {
    "tensorrt": "Install it on a host with a GPU: pip install tensorrt.",
    "tensorrt-rtx": "Install it: pip install tensorrt-rtx-cu12 (Linux and Windows, x86-64).",
}
_CUDA_MAJORS = (11, 12, 13, 14)


@dataclass(frozen=True)
class Backend:
    """An imported TensorRT package."""

    name: BackendName
    module: ModuleType

    @property
    def version(self) -> str:
        """The package's version."""
        return self.bindings.__version__

    @property
    def bindings(self) -> tensorrt_bindings.Bindings:
        """The module, typed as what both flavours have in common."""
        return cast("tensorrt_bindings.Bindings", self.module)

    @property
    def rtx(self) -> tensorrt_rtx_bindings.Bindings:
        """The module, typed as TensorRT-RTX's."""
        return cast("tensorrt_rtx_bindings.Bindings", self.module)

    def logger(self, add: Callable[[str, str], None]) -> ILogger:
        """Make an `ILogger` that passes each message's severity and text to `add`.

        TensorRT returns None for whatever fails; only its logger learns the reason.
        """
        bindings = self.bindings

        class Logger(bindings.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                bindings.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                add(getattr(severity, "name", str(severity)), message)

        return Logger()


def load(name: BackendName) -> Backend:
    """Import a backend.

    Raises:
        MissingCapabilityError: it is not installed, or broken.
    """
    try:
        return Backend(name, importlib.import_module(_MODULES[name]))
    except ModuleNotFoundError as error:
        raise MissingCapabilityError(f"{name} is not installed here.", _INSTALL[name]) from error
    except Exception as error:
        raise MissingCapabilityError(f"{name} can't be imported: {error}.", _INSTALL[name]) from error


def cuda_major(name: BackendName) -> int | None:
    """Major version of CUDA that the installed package is built for, from the name of its wheel.

    None where there is no such wheel, as in NVIDIA's containers, or more than one: the last installed has overwritten
    the others.
    """
    majors = []
    for major in _CUDA_MAJORS:
        with suppress(metadata.PackageNotFoundError):
            metadata.version(f"{_MODULES[name]}_cu{major}")
            majors.append(major)
    return majors[0] if len(majors) == 1 else None


def installed_version(name: BackendName) -> str | None:
    """Version of the backend's package, without importing it; None where pip knows none, as in NVIDIA's containers."""
    for package in (_MODULES[name], *(f"{_MODULES[name]}_cu{major}" for major in _CUDA_MAJORS)):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def choose(wanted: Literal["auto"] | BackendName, target: Target) -> BackendName:
    """Choose the backend for a target: `auto` is tensorrt on a GPU of its compute capability, else tensorrt-rtx.

    Raises:
        MissingCapabilityError: this machine can't build for the target; or tensorrt is `wanted`, and there is no GPU of
            the target's compute capability.
    """
    gpu = gpu_capability()
    if target.platform == "aarch64" and platform.machine().lower() not in ("aarch64", "arm64"):
        raise MissingCapabilityError(
            f"Engines for {target.name} are built on it: plans don't cross from {platform.machine()} to aarch64.",
            f"Take the ONNX file there: `build_engine(MODEL.onnx, target='{target.name}', backend='tensorrt')`.",
        )
    if wanted == "auto":
        if gpu == target.compute_capability and _installed("tensorrt"):
            return "tensorrt"
        return "tensorrt-rtx"
    if wanted == "tensorrt" and gpu != target.compute_capability:
        here = "no GPU" if gpu is None else f"a GPU of sm_{gpu[0]}{gpu[1]}"
        raise MissingCapabilityError(
            f"tensorrt builds for the GPU that it runs on: {target.name} needs {target.sm}, here is {here}.",
            "Build on such a GPU, or with `backend='tensorrt-rtx'`, which needs none.",
        )
    return wanted


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of this machine's first GPU, or None."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def gpu_name() -> str | None:
    """Product name of this machine's first GPU, or None."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def lacks_memory(reason: str) -> bool:
    """Whether an error message of TensorRT or CUDA says that memory ran out.

    TensorRT says "Error Code 2: OutOfMemory (Requested size was 1024 bytes.)", "Cuda Runtime (out of memory)" and
    "Requested amount of GPU memory (1024 bytes) could not be allocated.", according to where it ran out.
    """
    return bool(re.search(r"out[ _]?of[ _]?memory|memory \([^)]*\) could not be allocated|bad_alloc", reason, re.I))


def _installed(name: BackendName) -> bool:
    try:
        load(name)
    except MissingCapabilityError:
        return False
    return True
