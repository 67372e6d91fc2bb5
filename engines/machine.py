"""What this machine can run engines with: its first GPU, and the versions of both TensorRT flavours."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from engines import backends
from engines.backends import BackendName
from hemf.errors import MissingCapabilityError


@dataclass(frozen=True)
class Machine:
    """What is here.

    Args:
        gpu: compute capability of the first GPU; None where there is none.
        versions: of the TensorRT flavours that can be imported.
        platform: operating system and processor; plans don't cross them.
    """

    gpu: tuple[int, int] | None = None
    versions: Mapping[BackendName, str] = field(default_factory=dict)
    platform: str = field(default_factory=lambda: platform_here())


def platform_here() -> str:
    """`linux-x86_64`."""
    return f"{sys.platform}-{platform.machine().lower()}"


def here(names: tuple[BackendName, ...] = ("tensorrt", "tensorrt-rtx")) -> Machine:
    """This machine; of TensorRT only the flavours in `names` are looked for."""
    versions: dict[BackendName, str] = {}
    for name in names:
        try:
            versions[name] = backends.load(name).version
        except MissingCapabilityError:
            continue
    return Machine(backends.gpu_capability(), versions)
