"""Workloads for timing: a batch in place, and one call that returns when its logits are computed.

On a GPU the input is in host memory and the logits are copied back (with transfers), or both stay on the GPU (without),
and the call synchronizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hemf_export.models.runners import Runner


class Workload(Protocol):
    """One batch on one runner."""

    def run(self) -> None:
        """Compute the logits once, and return when they are complete.

        Raises:
            Exception: the runner can't, for instance because the batch is too large; `timing.failures` translates it.
        """
        ...

    def logits(self) -> NDArray[np.float32]:
        """Return the last run's logits, (batch, classes), on the host."""
        ...


class HostWorkload:
    """A runner whose input and output are arrays on the host.

    Args:
        runner: the runner.
        batch: network input.
    """

    def __init__(self, runner: Runner, batch: NDArray[np.generic]) -> None:
        self._runner, self._batch = runner, batch
        self._logits = np.empty((0, 0), np.float32)

    def run(self) -> None:
        """Compute the logits; input and logits are on the host."""
        self._logits = self._runner.infer(self._batch)

    def logits(self) -> NDArray[np.float32]:
        """Return the last run's logits, on the host."""
        return self._logits


class TensorWorkload:
    """A function of PyTorch tensors.

    Args:
        compute: network input → logits, of any float type, on the same device.
        batch: network input, on the host.
        device: device of `compute`.
        transfers: include the transfer of input and logits; False leaves them on the device.
        channels_last: memory format of the input, for PyTorch's convolutions.
        overwritten: logits on the device may be overwritten before they are read, as those of torch.compile's CUDA
            graphs are by the next run of any of them, whose memory they share: they are copied in each run.
    """

    def __init__(
        self, compute: Callable[[Any], Any], batch: NDArray[np.generic], device: str, *, transfers: bool,
        channels_last: bool = False, overwritten: bool = False,
    ) -> None:  # fmt: skip
        self._compute, self._device, self._transfers = compute, torch.device(device), transfers
        self._overwritten = overwritten
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        host = torch.from_numpy(np.ascontiguousarray(batch))
        self._gpu = self._device.type == "cuda"
        # Pinned memory, from which the GPU copies directly, as a server would use.
        self._input = host.pin_memory() if self._gpu and transfers else self._placed(host)
        self._logits = torch.empty(0)

    def run(self) -> None:
        """Compute the logits, with the transfers if they are included."""
        logits = self._compute(self._placed(self._input) if self._transfers else self._input)
        if self._transfers:
            self._logits = logits.to("cpu")
        else:
            self._logits = logits.clone() if self._overwritten else logits
        if self._gpu:
            torch.cuda.synchronize()

    def logits(self) -> NDArray[np.float32]:
        """Return the last run's logits, on the host."""
        logits: NDArray[np.float32] = self._logits.to("cpu", torch.float32).numpy()
        return logits

    def _placed(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self._device, non_blocking=True, memory_format=self._format)
