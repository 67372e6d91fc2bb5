"""What hemf-export asks of its packages, from its own metadata: versions, and the commands that install them."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata

GPU_RUNTIME, CPU_RUNTIME = "onnxruntime-gpu", "onnxruntime"


def runtime() -> str:
    """The distribution of ONNX Runtime for this platform, as pyproject.toml says."""
    return GPU_RUNTIME if sys.platform == "linux" and platform.machine() == "x86_64" else CPU_RUNTIME


def has_tensorrt_rtx() -> bool:
    """Whether TensorRT-RTX is made for this platform."""
    return sys.platform in ("linux", "win32") and platform.machine() in ("x86_64", "AMD64")


def requirement(distribution: str) -> str:
    """`onnx>=1.22`; the name alone where our metadata doesn't tell, as in a folder that was never installed."""
    try:
        lines = metadata.requires("hemf-export") or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?([^;]*)", line)  # the name, its extras, its bounds
        if match and match[1].lower() == distribution.lower():
            bounds = match[2].strip()
            return match[1] + ",".join(sorted(bounds.split(","), reverse=True))  # the floor first: >=2.10,<2.14
    return distribution


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version keeps to the bounds (>=, <) of a requirement; what can't be compared does."""
    found = _release(version)
    if not found:
        return True
    floors = (_release(bound) for bound in re.findall(r">=\s*([\w.]+)", wanted))
    ceilings = (_release(bound) for bound in re.findall(r"<\s*([\w.]+)", wanted))
    return all(found >= floor for floor in floors) and all(found < ceiling for ceiling in ceilings)


def install(distribution: str, *, again: bool = False) -> str:
    """The command that installs a distribution, or installs it again over a broken one."""
    wanted = requirement(distribution)
    quoted = f"'{wanted}'" if re.search(r"[<>]", wanted) else wanted
    return f"pip install {'--force-reinstall ' if again else ''}{quoted}"


def installed(distribution: str) -> bool:
    """Whether pip knows of it, which says nothing of whether it works."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` → (2, 13), without the zeros at the end: 2.10 is 2.10.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
