"""Device, precision, memory format and allocator of a run. None of it is part of the recipe."""

from __future__ import annotations

import ctypes
import os
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from hemf_export.files.errors import HemfError, MissingCapabilityError
from hemf_export.files.gpu_memory import is_out_of_memory

Amp = Literal["off", "float16", "bfloat16"]

_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "off": torch.float16}
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt, by malloc.h
_NEVER = -1
_GROW_BYTES = 256 << 20  # the heap grows in steps of this size


@dataclass(frozen=True)
class Hardware:
    """How a training step is computed.

    Args:
        device: "cpu" or "cuda"; each of several processes has its own GPU.
        amp: the type in which autocast computes matrix products; float16 uses a gradient scaler as well.
        channels_last: keep weights and images in channels-last memory format.
        compile: run the training network through `torch.compile`.
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
        """The autocast context of the forward pass."""
        return torch.autocast(self.device, _TYPES[self.amp], enabled=self.amp != "off")

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, enabled with float16 only."""
        return torch.amp.GradScaler(self.device, enabled=self.amp == "float16")

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the user should know about this choice."""
        if self.device == "cpu" and self.amp == "float16":
            return ("float16 is slow on a CPU: try out with few images and small batches what a GPU computes.",)
        return ()

    @contextmanager
    def compilation(self) -> Iterator[None]:
        """Translate what torch.compile raises, which compiles while the network runs, for the duration of the block.

        Its advice to use TF32 is suppressed: see `train.float32`.

        Raises:
            HemfError: it fails; full GPU memory is left to `files.gpu_memory`.
        """
        if not self.compile:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
                yield
        except TorchDynamoException as error:
            if is_out_of_memory(error):
                raise
            # The first line may only name the part that raised it.
            lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
            reason = lines[0].rstrip(".") if lines else type(error).__name__
            raise HemfError(f"torch.compile fails: {reason}.", "Leave out `compile`.") from error

    def describe(self) -> str:
        """Describe device and precision for the user: "on cuda in float16 autocast"."""
        words = [f"{self.amp} autocast" if self.amp != "off" else "float32", *["compiled"] * self.compile]
        return f"on {self.device} in {', '.join(words)}"


def choose(device: str, amp: str | None = None, *, channels_last: bool = True, compile: bool = False) -> Hardware:
    """Choose the device and precision, and check that they are available.

    Args:
        device: "cpu", "cuda", or "auto", which is CUDA if it is available.
        amp: "off", "float16", "bfloat16"; by default float16 on CUDA, off on a CPU. A CPU computes float16 slowly, and
            only if `device` is "cpu": it is for trying out what a GPU computes.
        channels_last: see `Hardware`.
        compile: see `Hardware`.

    Raises:
        MissingCapabilityError: CUDA, bfloat16 or compilation was requested and is not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingCapabilityError(
            "No CUDA GPU can be used here.", "Leave out `device`, or install a CUDA build of torch."
        )
    available: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    precision: Amp = ("float16" if available == "cuda" else "off") if amp is None else amp  # type: ignore[assignment]
    if precision == "float16" and available == "cpu" and device != "cpu":
        raise MissingCapabilityError(
            "float16 training needs a CUDA GPU.", "Leave out `amp`, or try it out on this CPU, slowly: `device='cpu'`."
        )
    if precision == "bfloat16" and not has_bfloat16(available):
        what = torch.cuda.get_device_name() if available == "cuda" else "This CPU"
        raise MissingCapabilityError(
            f"{what} has no bfloat16 arithmetic.", "Use `amp='float16'`." if available == "cuda" else "Leave out `amp`."
        )
    if compile and (missing := _missing_for_compile(available)):
        raise MissingCapabilityError(f"torch.compile needs {missing}.", "Install it, or leave out `compile`.")
    return Hardware(available, precision, channels_last, compile)


def has_bfloat16(device: str) -> bool:
    """Whether the device has bfloat16 instructions, so that it is not emulated."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _missing_for_compile(device: str) -> str | None:
    """What torch.compile lacks; None for nothing.

    On CUDA it generates Triton kernels, which are launched by C code that Triton compiles here: with CC, gcc or clang
    (triton/runtime/build.py). On a CPU it generates C++ code, and compiles it with CXX or g++
    (torch/_inductor/config.py, cpp.cxx). Both include Python.h.
    """
    if device == "cuda" and find_spec("triton") is None:
        return "the package triton"
    variable, language, usual = ("CC", "C", ("gcc", "clang")) if device == "cuda" else ("CXX", "C++", ("g++",))
    compilers = (os.environ[variable],) if variable in os.environ else usual
    if not any(shutil.which(compiler) for compiler in compilers):
        return f"a {language} compiler ({' or '.join(compilers)}; {variable} names another)"
    # Debian's own Python names a folder that packages don't install into; both generators then look into the usual one.
    folders = sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")
    if not any(Path(folder, "Python.h").is_file() for folder in folders):
        return f"Python's headers in {folders[1]} (package python3-dev)"
    return None


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory for the rest of the process, instead of returning it to the system.

    By default glibc returns a large block as soon as it is freed, and the system zeroes its pages again when the next
    tensor needs them: 15 % of the processor time of a training step of hemf-base, batch 8, by getrusage on an AMD EPYC,
    2026-11-29. See mallopt(3). Results stay bit-identical. Peak memory is what tensors need at once, plus
    fragmentation.

    Returns:
        Whether it could be set: False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROW_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
