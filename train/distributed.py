"""The processes of one run, as `torchrun` starts them: their ranks, collectives, and BatchNorm over all of them.

A single process is the ordinary case, and pays nothing for any of this. With several, each takes its part of every
batch and of the validation images; only the first reads and checks shared input, writes files and prints.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hemf_export.files.errors import FailedElsewhereError, HemfError, MissingCapabilityError, UsageError

Value = TypeVar("Value")

# One process may read all images, or write a checkpoint, while the others wait. A dead process is noticed at once.
TIMEOUT = timedelta(hours=1)


@dataclass(frozen=True)
class Group:
    """The place of this process among those of its run.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number among those of this host; its GPU.
        local_size: processes of this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Call `make` in the first process and return its result in all of them; an error there ends all of them.

        Raises:
            FailedElsewhereError: in the other processes, where the first one raised a `HemfError`.
        """
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        failure: HemfError | None = None
        if self.first:
            try:
                answer[0] = make()
            except HemfError as error:
                failure, answer[1] = error, (str(error), error.exit_code)
        dist.broadcast_object_list(answer)
        if failure is not None:
            raise failure
        if answer[1] is not None:
            failed = FailedElsewhereError(f"The first process of this run ended: {answer[1][0]}")
            failed.exit_code = answer[1][1]
            raise failed
        return cast(Value, answer[0])

    @contextmanager
    def once(self, block: AbstractContextManager[Any]) -> Iterator[None]:
        """Hold the context `block` in the first process; an error on entering it ends all of them.

        Raises:
            FailedElsewhereError: see `from_first`.
        """
        with ExitStack() as stack:
            self.from_first(lambda: stack.enter_context(block) and None)
            yield

    def gather(self, value: Value) -> list[Value]:
        """Gather the values of all processes into each of them, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast("list[Value]", values)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.size


def launched() -> Group:
    """The group that `torchrun`'s environment variables describe; without them, this process alone.

    Raises:
        UsageError: the variables are invalid.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Group()
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE, LOCAL_RANK must be numbers: {error}.", "torchrun sets them.") from error
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} of WORLD_SIZE {size}.", "torchrun sets them.")
    return Group(rank, size, *local)


def current() -> Group:
    """The group that this process has joined; outside `joined`, this process alone."""
    return launched() if dist.is_available() and dist.is_initialized() else Group()


def with_averaged_gradients(network: nn.Module, group: Group, *, skips: bool = False) -> nn.Module:
    """Wrap a network so that `backward` averages the gradients over all processes.

    Buffers stay each process's own: BatchNorm's statistics are averaged once per epoch (`Group.average_`), instead of
    being overwritten with the first process's at every step.

    Args:
        network: the network.
        group: the processes.
        skips: whether some of its parameters take no part, whose gradients would be waited for.
    """
    # torch 2.13 renamed this option.
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    devices = [group.local_rank] if next(network.parameters()).is_cuda else None
    settings: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    if skips:
        settings["find_unused_parameters"] = True
    return DistributedDataParallel(network, devices, **settings)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the run's process group for the duration of the block, which begins when all processes have started.

    Gradients use NCCL on CUDA and Gloo on a CPU; everything else uses Gloo.

    Args:
        device: "cpu", "cuda" or "auto".

    Raises:
        MissingCapabilityError: this host has more processes than GPUs.
        FailedElsewhereError: another process ended, or can't be reached.
    """
    group = launched()
    if group.size == 1:
        yield group
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if group.local_rank >= torch.cuda.device_count():
            raise MissingCapabilityError(
                f"{group.local_size} processes on this host, which has {torch.cuda.device_count()} GPUs.",
                f"torchrun --nproc-per-node {torch.cuda.device_count()} …",
            )
        torch.cuda.set_device(group.local_rank)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
        group.gather(group.rank)  # waits until all have started
        yield group
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise FailedElsewhereError(
            "Another process of this run ended, or can't be reached.", "Its own message tells why."
        ) from error
    # Not after an error: a pending operation with a process that is gone might never end.
    dist.destroy_process_group()


def _lost(error: RuntimeError) -> bool:
    """Whether another process was lost; Gloo has no error class of its own, so its message decides."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "peer" in str(error).lower()


class SynchronizedBatchNorm(_BatchNorm):
    """BatchNorm over the images of all processes: (N, C) or (N, C, …) → the same. torch's `SyncBatchNorm` needs a GPU.

    In training, mean and variance are computed over all processes, which may have different numbers of images, and
    gradients flow through them. In evaluation it is PyTorch's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept what the module that it replaces accepts."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
        count = _sum(torch.tensor(float(values.numel() // values.shape[1]), device=values.device))
        mean = _sum(values.sum(axes)) / count
        centred = values - mean.reshape(shape)
        variance = _sum(centred.square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.detach(), share)
                self.running_var.lerp_(variance.detach() * count / (count - 1), share)
        normalized = centred * (variance + self.eps).rsqrt().reshape(shape)
        if not self.affine:
            return normalized
        return normalized * self.weight.reshape(shape) + self.bias.reshape(shape)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm of `model` use all processes' batches, in place; parameters, buffers and names stay."""
    if device.type == "cuda":
        # In place, since the model itself is no BatchNorm.
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                synchronized = SynchronizedBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                synchronized.__dict__.update(
                    _parameters=child._parameters, _buffers=child._buffers, training=child.training
                )
                setattr(parent, name, synchronized)


def _sum(values: Tensor) -> Tensor:
    """Sum over all processes; gradients flow back to each."""
    return cast(Tensor, functional.all_reduce(values))  # type: ignore[no-untyped-call]
