"""Loader processes and what can befall them: batches go through shared memory, and the system may end a process.

What PyTorch says of it is translated here, and nowhere else.
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
PREFETCHED = 2  # batches that each process makes ahead: PyTorch's own number
_SEMAPHORES = 5  # that PyTorch's queues and events take for a process, about
_WAY_OUT = "Take `workers=0`, or give the container more: docker run --shm-size=1g, or --ipc=host."
_ROOM = {errno.ENOSPC, errno.ENOSYS, errno.EACCES, errno.ENOENT, errno.EROFS, errno.EPERM}  # of a semaphore


def require_room(workers: int, batches: int, batch_bytes: int, processes: int = 1) -> None:
    """See that the batches which are made ahead fit into shared memory, where that has a size.

    Args:
        workers: loader processes of each process of the run.
        batches: of an epoch, which may be fewer than can be made ahead.
        batch_bytes: of the largest one.
        processes: of the run, on this host.

    Raises:
        MissingCapabilityError: they don't, or nothing does: semaphores lie there too.
        HemfError: the system refuses semaphores for another reason.
    """
    with translated():  # before PyTorch meets it, half of whose objects would then complain as they go
        _ = [multiprocessing.Lock() for _ in range(_SEMAPHORES * (workers + 1))]
    needed, free = processes * min(batches, PREFETCHED * workers) * batch_bytes, free_bytes()
    if free is None or needed <= free:
        return
    made = f"{workers} loader processes make" if workers > 1 else "a loader process makes"
    raise MissingCapabilityError(
        f"{SHARED_MEMORY} has {free / 1e6:.1f} MB free, and the batches that {made} ahead need {needed / 1e6:.1f} MB.",
        f"{_WAY_OUT} Fewer `workers` or a smaller `batch_size` need less.",
    )


def free_bytes() -> int | None:
    """What is free in shared memory; None where that has no size of its own."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # another system
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


@contextmanager
def translated() -> Iterator[None]:
    """Tell in a user's words what ends loader processes while the block lasts.

    The block is all that is done with batches, not the waiting for them alone: PyTorch raises an error wherever the
    program is when a process dies.

    Raises:
        MissingCapabilityError: there is no room in shared memory.
        HemfError: a process was ended by the system, or couldn't be started; or its own error, without its traceback.
    """
    try:
        yield
    except HemfError as error:
        raise _plain(error) from error
    except OSError as error:
        if (told := _not_started(error)) is None:
            raise
        raise told from error
    except RuntimeError as error:
        if (told := _ended(_with_causes(error))) is None:
            raise
        raise told from error


def _plain(error: HemfError) -> HemfError:
    """An error as it was raised in a loader process; PyTorch puts that process's traceback into the message."""
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
        return None  # a file of the user's, or of ours
    if error.errno in _ROOM:
        return _no_room(error.strerror or str(error))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return HemfError("Loader processes need more open files than are allowed.", "Raise ulimit -n, or `workers=0`.")
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return HemfError(
            f"Loader processes can't be started: {error.strerror}.", "Take fewer `workers`, or `workers=0`."
        )
    return None


def _with_causes(error: BaseException | None) -> str:
    """Messages of an error and of those that it came of: which signal it was, only the first of them says."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(reversed(messages))


def _ended(message: str) -> HemfError | None:
    if "Bus error" in message or "shared memory" in message or "shm_open" in message:
        reason = next((line for line in reversed(message.splitlines()) if "shared memory" in line), "")
        return _no_room(reason.rpartition(": ")[2])
    killed = re.search(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (?:is killed by signal: ([\w ]+)|exited)", message)
    if killed is None:
        return None
    if killed[1] in (None, "Killed"):
        how = "was killed, as the system does where memory runs out" if killed[1] else "ended unexpectedly"
        return HemfError(
            f"A loader process {how}.",
            "Take fewer `workers` or `workers=0`, a smaller `batch_size`, or give the container more memory.",
        )
    return HemfError(
        f"A loader process was ended by a signal: {killed[1]}.", "Go on with `workers=0`: what is wrong then shows."
    )


def _no_room(reason: str) -> MissingCapabilityError:
    because = f" ({reason.strip().rstrip('.')})" if reason.strip() else ""
    return MissingCapabilityError(
        f"Loader processes have no room in shared memory, {SHARED_MEMORY}{because}.", _WAY_OUT
    )
