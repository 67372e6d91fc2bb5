"""Float32 arithmetic without TF32: PyTorch's settings for the duration of a block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 in float32 on a GPU for the duration of the block, without TF32.

    TF32 has float16's 10 bits of mantissa. On compute capability 8.0 and newer, PyTorch uses it by default in cuDNN's
    convolutions, and in matrix products if the process asks for it. The settings are the process's, and are restored.
    """
    kept = _Float32.current()
    _Float32(tf32_convolutions=False, products="highest", newer=("ieee",) * len(_newer_settings())).apply()
    try:
        yield
    finally:
        kept.apply()


@dataclass(frozen=True)
class _Float32:
    """PyTorch's settings of float32 arithmetic: two older ones, and those of torch 2.9 and later.

    PyTorch refuses to read an older setting that a newer one contradicts, and its compiler reads both sorts
    (torch/_inductor): so both have to say the same. Only the newer ones override `torch.backends.fp32_precision`.

    Args:
        tf32_convolutions: `torch.backends.cudnn.allow_tf32`; None if newer settings contradict it.
        products: `torch.get_float32_matmul_precision()`; None likewise.
        newer: the values of `_newer_settings`.
    """

    tf32_convolutions: bool | None
    products: str | None
    newer: tuple[str, ...]

    @classmethod
    def current(cls) -> _Float32:
        """The process's settings."""
        with _without_advice():
            return cls(
                _unless_contradicted(lambda: torch.backends.cudnn.allow_tf32),
                _unless_contradicted(torch.get_float32_matmul_precision),
                tuple(setting.fp32_precision for setting in _newer_settings()),
            )

    def apply(self) -> None:
        """Make them the process's settings."""
        with _without_advice():
            if self.tf32_convolutions is not None:
                torch.backends.cudnn.allow_tf32 = self.tf32_convolutions
            if self.products is not None:
                torch.set_float32_matmul_precision(self.products)
            for setting, precision in zip(_newer_settings(), self.newer, strict=True):
                setting.fp32_precision = precision


def _newer_settings() -> tuple[Any, ...]:
    """What the older settings change as well: cuDNN's convolutions, and the products of cuBLAS and of oneDNN."""
    backends: Any = torch.backends
    return backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul


def _unless_contradicted(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def _without_advice() -> Iterator[None]:
    """Suppress torch 2.9's and 2.10's warnings about the older settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
