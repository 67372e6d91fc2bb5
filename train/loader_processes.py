"""Failures of loader processes: no room in shared memory, through which batches go, and processes that were killed.

PyTorch's errors about them are translated here, and nowhere else.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hemf_export.files.errors import HemfError, MissingCapabilityError

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2  # batches that each process prefetches: PyTorch's default
_SEMAPHORES = 5  # that PyTorch's queues and events need per process, roughly
_WAY_OUT = "Use `workers=0`, or give the container more: docker run --shm-size=1g, or --ipc=host."
_ROOM = {
    errno.ENOSPC,
    errno.ENOSYS,
    errno.EACCES,
    errno.ENOENT,
    errno.EROFS,
    errno.EPERM,
}  # errors of a semaphore that mean no room
# PyTorch's words for it, in DataLoader's handler of signals and in its C++ code. What Triton calls shared memory ("out
# of resource: shared memory, Required: 98304, Hardware limit: 65536") is the GPU's.
_NO_ROOM = re.compile(
    r"Bus error|(?:out of|insufficient) shared memory|shared memory (?:object|file|segment|limit)|"
    r"shared memory ?\(shm\)|shm_open"
)


def require_room(workers: int, batches: int, batch_bytes: int, processes: int = 1) -> None:
    """Check that the prefetched batches fit into shared memory, if that has a size.

    Args:
        workers: loader processes per process of the run.
        batches: number of batches in an epoch, which may be fewer than can be prefetched.
        batch_bytes: size of the largest batch.
        processes: processes of the run on this host.

    Raises:
        MissingCapabilityError: they don't fit, or not even the semaphores do, which lie there too.
        HemfError: the system refuses semaphores for another reason.
    """
    with translated():  # before PyTorch does: its half-built objects would print errors as they are destroyed
        _ = [multiprocessing.Lock() for _ in range(_SEMAPHORES * (workers + 1))]
    needed, free = processes * min(batches, PREFETCHED * workers) * batch_bytes, free_bytes()
    if free is None or needed <= free:
        return
    prefetching = f"{workers} loader processes prefetch" if workers > 1 else "a loader process prefetches"
    raise MissingCapabilityError(
        f"{SHARED_MEMORY} has {free / 1e6:.1f} MB free, and the batches that {prefetching} need {needed / 1e6:.1f} MB.",
        f"{_WAY_OUT} Fewer `workers` or a smaller `batch_size` need less.",
    )


def free_bytes() -> int | None:
    """Free bytes in shared memory; None if it has no size of its own."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # not on Linux
        return None
    return status.f_bavail * status.f_frsize if status.f_blocks else None


@contextmanager
def translated() -> Iterator[None]:
    """Translate PyTorch's errors about loader processes into messages for the user, for the duration of the block.

    The block must cover everything that is done with batches, not only the waiting for them: PyTorch raises the error
    wherever the program happens to be when a process dies.

    Raises:
        MissingCapabilityError: there is no room in shared memory.
        HemfError: a process was killed, or couldn't be started; or its own error, without its traceback.
    """
    try:
        yield
    except HemfError as error:
        raise _plain(error) from error
    except OSError as error:
        if (translated_error := _not_started(error)) is None:
            raise
        raise translated_error from error
    except RuntimeError as error:
        if (translated_error := _ended(_with_causes(error))) is None:
            raise
        raise translated_error from error


def _plain(error: HemfError) -> HemfError:
    """Remove the loader process's traceback, which PyTorch puts into the message of an error raised there."""
    if not error.message.startswith("Caught ") or " in DataLoader worker process " not in error.message:
        return error
    lines = error.message.rstrip().splitlines()
    name = type(error).__name__
    start = next((index for index, line in enumerate(lines) if re.match(rf"[\w.]*{name}: ", line)), None)
    if start is None:
        return error
    return type(error)("\n".join([lines[start].partition(": ")[2], *lines[start + 1 :]]))


def _not_started(error: OSError) -> HemfError | None:
    trace, frames = error.__traceback__, []
    while trace is not None:
        frames.append(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    if not any(str(name).startswith("multiprocessing.") for name in frames):
        return None  # raised for another reason, such as a file
    if error.errno in _ROOM:
        return _no_room(error.strerror or str(error))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return HemfError("Loader processes need more open files than are allowed.", "Raise ulimit -n, or `workers=0`.")
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return HemfError(
            f"Loader processes can't be started: {error.strerror}.", "Use fewer `workers`, or `workers=0`."
        )
    return None


def _with_causes(error: BaseException | None) -> str:
    """Join the messages of an error and its causes: only the first of them names the signal."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(reversed(messages))


def _ended(message: str) -> HemfError | None:
    if _NO_ROOM.search(message):
        reason = next((line for line in reversed(message.splitlines()) if "shared memory" in line), "")
        return _no_room(reason.rpartition(": ")[2])
    killed = re.search(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (?:is killed by signal: ([\w ]+)|exited)", message)
    if killed is None:
        return None
    if killed[1] in (None, "Killed"):
        how = "was killed, as the system does where memory runs out" if killed[1] else "ended unexpectedly"
        return HemfError(
            f"A loader process {how}.",
            "Use fewer `workers` or `workers=0`, a smaller `batch_size`, or give the container more memory.",
        )
    return HemfError(
        f"A loader process was ended by a signal: {killed[1]}.", "Run again with `workers=0` to see the error."
    )


def _no_room(reason: str) -> MissingCapabilityError:
    because = f" ({reason.strip().rstrip('.')})" if reason.strip() else ""
    return MissingCapabilityError(
        f"Loader processes have no room in shared memory, {SHARED_MEMORY}{because}.", _WAY_OUT
    )
