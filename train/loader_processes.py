"""Batches out of a loader's processes, and what those processes die of, in our words.

They hand over images in shared memory, which containers often have little of, and end with a signal where it is full.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from hemf.errors import HemfError, MissingCapabilityError

T = TypeVar("T")

_TRACEBACK = "Original Traceback"  # what torch puts before an error of another process
_DEATH = re.compile(
    r"DataLoader worker \(pid|shared memory|unable to (?:mmap|write to|open|resize)|torch_shm_manager|ancdata|"
    r"Too many open files|No space left on device|Function not implemented|can't allocate memory|Cannot allocate memory"
)
_SHARED_MEMORY = "/dev/shm"


def from_processes(loader: Iterable[T]) -> Iterator[T]:
    """The batches of a loader.

    Raises:
        HemfError: as it was raised in another process.
        MissingCapabilityError: a process died, or there is too little shared memory for what it hands over.
    """
    batches: Iterator[T] | None = None
    while True:
        try:
            batches = iter(loader) if batches is None else batches
            batch = next(batches)
        except StopIteration:
            return
        except HemfError as error:
            raise _as_it_was(error) from error
        except (RuntimeError, OSError) as error:
            reason = _last_line(str(error))
            if not _DEATH.search(reason):
                raise
            raise _death(reason) from error
        yield batch


def _as_it_was(error: HemfError) -> HemfError:
    """An error without the traceback that torch puts into the message of one from another process."""
    if _TRACEBACK not in error.message:
        return error
    return type(error)(error.message.rpartition(f"{type(error).__name__}: ")[2].strip())


def _last_line(text: str) -> str:
    """What happened: of an error out of another process, what stands below the traceback."""
    lines = text.strip().splitlines() or [""]
    return lines[-1].partition("Error: ")[2] or lines[-1] if _TRACEBACK in text else lines[0]


def _death(reason: str) -> HemfError:
    room = ""
    with suppress(OSError):
        room = f" ({_SHARED_MEMORY} has {shutil.disk_usage(_SHARED_MEMORY).total / 1e6:.0f} MB)"
    return MissingCapabilityError(
        f"A process that loads images ended before its work was done: {reason.rstrip('.')}.",
        f"Load without such processes (0 workers), or give them more shared memory{room}: a container's --shm-size. "
        "Where memory is short, fewer workers or smaller batches help.",
    )
