"""The processes of one run, as `torchrun` starts them: who they are, and what they tell each other.

One process is the ordinary case, where nothing here costs anything. With several, each takes its part of every batch
and of the validation images; the first one alone reads and checks what is shared, writes files and talks to the user.
Knows nothing of what is trained.
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
from torch.nn.parallel import DistributedDataParallel

from hemf_export.files.errors import HemfError, MissingCapabilityError, UsageError

Value = TypeVar("Value")

# One process may read all images, or write a checkpoint, while the others wait. One that has died is noticed at once.
TIMEOUT = timedelta(hours=1)


class FailedElsewhereError(HemfError):
    """Another process of the run ended: what is wrong, it has told itself."""


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
        """Whether this process writes and talks."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in the first process, for all of them; an error there ends all of them.

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
            told = FailedElsewhereError(f"The first process of this run ended: {answer[1][0]}")
            told.exit_code = answer[1][1]
            raise told
        return cast(Value, answer[0])

    @contextmanager
    def once(self, block: AbstractContextManager[Any]) -> Iterator[None]:
        """Be in `block` in the first process, for all of them; where it can't be entered, that ends all of them.

        Raises:
            FailedElsewhereError: see `from_first`.
        """
        with ExitStack() as stack:
            self.from_first(lambda: stack.enter_context(block) and None)
            yield

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in the order of their ranks, in each of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.size


def launched() -> Group:
    """The group that the environment describes: `torchrun`'s variables, or one process alone.

    Raises:
        UsageError: the variables are there in part, or are no numbers.
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
    """The group that this process has joined, or itself alone."""
    return launched() if dist.is_available() and dist.is_initialized() else Group()


def with_averaged_gradients(network: nn.Module, group: Group) -> nn.Module:
    """The network as its processes call it: what `backward` leaves in each is the mean of all their gradients.

    Buffers stay each process's own: BatchNorm's statistics are averaged once an epoch (`Group.average_`), instead of
    being overwritten with the first process's at every step.
    """
    # torch 2.13 renamed the option.
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    devices = [group.local_rank] if next(network.parameters()).is_cuda else None
    settings: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DistributedDataParallel(network, devices, **settings)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Be one of the run's processes while the block lasts; all of them have started when it begins.

    Gradients go over NCCL on CUDA, over Gloo on a CPU; all else over Gloo.

    Args:
        device: "cpu", "cuda" or "auto".

    Raises:
        MissingCapabilityError: more processes on this host than GPUs.
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
        group.gather(group.rank)  # all are there
        yield group
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise FailedElsewhereError(
            "Another process of this run ended, or can't be reached.", "Its own message tells why."
        ) from error
    # Not after an error: what is under way with a process that is gone might never end.
    dist.destroy_process_group()


def _lost(error: RuntimeError) -> bool:
    """Gloo has no error class of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "peer" in str(error).lower()
