"""The ways in which PyTorch runs a network: float32 as it is, channels-last, AMP, and compiled.

float32 is float32 here: TF32, which PyTorch takes for convolutions on newer GPUs, is off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from hemf.errors import HemfError, MissingCapabilityError
from hemf.model import HEMF


@dataclass(frozen=True)
class TorchMode:
    """How to run.

    Args:
        channels_last: memory of images and of convolutions' weights.
        amp: products in float16 on a GPU, in bfloat16 on a CPU.
        compiled: by torch.compile (inductor): `default`, or `reduce-overhead`, which launches CUDA graphs.
    """

    channels_last: bool = False
    amp: bool = False
    compiled: str | None = None


MODES = {
    "eager": TorchMode(),
    "channels-last": TorchMode(channels_last=True),
    "amp": TorchMode(channels_last=True, amp=True),
    "compile": TorchMode(compiled="default"),
    "compile-amp": TorchMode(channels_last=True, amp=True, compiled="default"),
    "compile-graph": TorchMode(channels_last=True, amp=True, compiled="reduce-overhead"),
}


def function(model: HEMF, mode: TorchMode, device: str) -> Callable[[Tensor], Tensor]:
    """Images (N, 3, H, W) on `device` → logits there, without gradients. The model is moved, and is the function's own.

    A compiled one compiles at its first run of each batch size.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    moved = model.eval().to(device)
    if mode.channels_last:
        moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    call: Callable[[Tensor], Tensor] = _compiled(moved, mode.compiled) if mode.compiled else moved

    def compute(images: Tensor) -> Tensor:
        with torch.inference_mode(), _precision(mode, device):
            return call(images)

    return compute


def _precision(mode: TorchMode, device: str) -> AbstractContextManager[object]:
    if not mode.amp:
        return nullcontext()
    return torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16)


def _compiled(model: HEMF, kind: str) -> Callable[[Tensor], Tensor]:
    from torch._dynamo.exc import TorchDynamoException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parts of PyTorch that it imports itself
        compiled = torch.compile(model, mode=kind, dynamic=False)

    def call(images: Tensor) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logits: Tensor = compiled(images)
                return logits
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            if "compiler" in reason.lower():
                raise MissingCapabilityError(
                    f"torch.compile finds no C++ compiler: {reason}", "Install g++, or name another: CXX=…."
                ) from error
            raise HemfError(f"torch.compile fails: {reason}") from error

    return call
