"""Translate failures of the environment into errors with advice: files and disks, memory, processes, native libraries.

Other modules handle the failures that they expect, and name the file or the step. All others are handled here, and
distinguished from defects of hemf-export.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator

from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError
from hemf_export.files.gpu_memory import is_out_of_memory

_OURS = ("hemf_export",)
# Error numbers of system calls that are about the machine, not about the call.
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EMFILE", "ENFILE", "ENXIO", "ENODEV", "ESTALE", "ETIMEDOUT",
        "ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "ECONNRESET", "ENETDOWN", "ETXTBSY", "EBUSY", "EACCES", "EPERM",
        "ENAMETOOLONG", "ELOOP", "EREMOTEIO", "ENOTCONN",
    )
    if hasattr(errno, name)
}  # fmt: skip
_NO_PROCESS = {errno.EAGAIN, errno.ENOMEM}
_LOADER = re.compile(
    r"cannot open shared object file|failed to map segment|undefined symbol|invalid ELF header|wrong ELF class|"
    r"DLL load failed|version `.*' not found|image not found|cannot allocate memory in static TLS"
)
_MEMORY = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|std::bad_alloc|bad allocation|out of memory|"
    r"Unable to allocate .* for an array|could not (?:create|execute) a (?:primitive|memory object)|mmap failed"
)


def translated(error: BaseException) -> HemfError | None:
    """Translate a failure of the environment into an error with advice; None for a defect of ours."""
    for each in _causes(error):
        if (translation := _one(each)) is not None:
            return translation
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__


def _one(error: BaseException) -> HemfError | None:
    text = str(error)
    if isinstance(error, HemfError):
        return error
    if is_out_of_memory(error):
        return HemfError(
            f"The GPU's memory is full: {_first_line(text)}.",
            "End other programs that use it, or take smaller batches.",
        )
    if isinstance(error, MemoryError) or (not isinstance(error, OSError) and _MEMORY.search(text)):
        return MissingCapabilityError(
            "This machine has too little memory for this" + (f": {_first_line(text)}." if text else "."),
            "Close other programs, or take smaller batches.",
        )
    if isinstance(error, RecursionError) and _is_of_json(error):
        return BadInputError("A JSON file is nested too deeply to be read.", "It is none that hemf-export writes.")
    if isinstance(error, ImportError):
        return _import(error, text)
    if isinstance(error, OSError):
        return _system(error, text)
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return _no_more("thread", text)
    return None


def _is_of_json(error: BaseException) -> bool:
    """Return whether an error was raised while reading JSON."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("json")


def _import(error: ImportError, text: str) -> HemfError | None:
    """Translate the failed import of a foreign package."""
    name = (error.name or "").split(".")[0]
    if name in _OURS:
        return None
    what = f"{name} can't be imported" if name else "A library can't be loaded"
    return MissingCapabilityError(
        f"{what} on this machine: {_first_line(text)}.",
        f"hemf-export doctor shows what is broken. Python here is {sys.executable}.",
    )


def _system(error: OSError, text: str) -> HemfError | None:
    """Translate a failed system call, about a file that it names or about the machine."""
    if _LOADER.search(text):
        return MissingCapabilityError(
            f"A library can't be loaded on this machine: {_first_line(text)}.",
            "hemf-export doctor shows what is broken.",
        )
    reason = error.strerror or _first_line(text) or type(error).__name__
    if reason.startswith("No usable temporary directory"):
        return BadInputError(
            "There is no folder for temporary files that can be written.", "Name one: TMPDIR=/some/folder."
        )
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if names and error.errno not in _NO_PROCESS:
        shown = " → ".join(name if isinstance(name, str) else repr(name) for name in names)
        return BadInputError(f"{shown}: {reason}.", "Look at the path, at its permissions and at the disk.")
    if error.errno in _NO_PROCESS:
        return _no_more("process", reason)
    if error.errno in _OF_THE_MACHINE:
        return BadInputError(f"The system refused: {reason}.", "Look at the disks, at their quotas and at permissions.")
    return None


def _no_more(what: str, reason: str) -> HemfError:
    return MissingCapabilityError(
        f"This machine can't start another {what}: {reason}.", "Look at its memory and its limits (ulimit -a)."
    )


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else ""
