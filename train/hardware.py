"""What a run computes on, and in which precision; none of it is part of what is trained."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch

from hemf_export.files.errors import MissingCapabilityError

Amp = Literal["off", "float16", "bfloat16"]

_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "off": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """How a training step is computed.

    Args:
        device: "cpu" or "cuda"; of several processes, each has the GPU that it chose.
        amp: the type that autocast computes products in; float16 comes with a gradient scaler.
        channels_last: weights and images in channels-last memory.
        compile: the training network through `torch.compile`.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    amp: Amp = "off"
    channels_last: bool = True
    compile: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """The context that the forward pass runs in."""
        return torch.autocast(self.device, _TYPES[self.amp], enabled=self.amp != "off")

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, which does nothing but with float16."""
        return torch.amp.GradScaler(self.device, enabled=self.amp == "float16")

    def describe(self) -> str:
        """For the user."""
        words = [f"{self.amp} autocast" if self.amp != "off" else "float32", *["compiled"] * self.compile]
        return f"on {self.device} in {', '.join(words)}"


def choose(device: str, amp: str | None = None, *, channels_last: bool = True, compile: bool = False) -> Hardware:
    """The hardware that is asked for.

    Args:
        device: "cpu", "cuda", or "auto", which is CUDA where it is.
        amp: "off", "float16", "bfloat16"; by default float16 on CUDA, off on a CPU.
        channels_last: see `Hardware`.
        compile: see `Hardware`.

    Raises:
        MissingCapabilityError: CUDA, bfloat16 or a compiler is asked for and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingCapabilityError(
            "No CUDA GPU can be used here.", "Leave out `device`, or install a CUDA build of torch."
        )
    on: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    chosen: Amp = ("float16" if on == "cuda" else "off") if amp is None else amp  # type: ignore[assignment]
    if chosen == "float16" and on == "cpu":
        raise MissingCapabilityError("float16 training needs a CUDA GPU.", "Leave out `amp`.")
    if chosen == "bfloat16" and not has_bfloat16(on):
        what = torch.cuda.get_device_name() if on == "cuda" else "This CPU"
        raise MissingCapabilityError(
            f"{what} has no bfloat16 arithmetic.", "Use `amp='float16'`." if on == "cuda" else "Leave out `amp`."
        )
    if compile and (missing := _missing_for_compile(on)):
        raise MissingCapabilityError(f"torch.compile needs {missing}.", "Install it, or leave out `compile`.")
    return Hardware(on, chosen, channels_last, compile)


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is computed by instructions of the device, and not emulated."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _missing_for_compile(device: str) -> str | None:
    if device == "cuda":
        return None if find_spec("triton") is not None else "the package triton"
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"a C++ compiler ({compiler})"
