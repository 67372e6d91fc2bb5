"""Machine-wide locks on paths: one process at a time writes a file or a folder.

A lock belongs to a resolved path, and all commands share it. The lock file is in the cache folder, so that nothing is
left beside the user's files; an existing folder is also locked itself (flock), which other users, caches and containers
see. Both locks end with the process, however it ends, and are reentrant within a thread. Where locks aren't available
(a cache that can't be written, some network file systems) there is none: each file is still written atomically, see
`files.artifacts`.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_held: set[tuple[Path, int]] = set()  # locked paths, and the threads that hold them
_folders: dict[tuple[Path, int], int] = {}  # folders locked by flock, and their descriptors


class InUseError(BadInputError):
    """Another process, or another thread of this one, is writing that file or folder."""


@contextmanager
def owned(*paths: Path) -> Iterator[None]:
    """Hold the locks of these files or folders for the block, without waiting.

    Raises:
        InUseError: one is held elsewhere.
    """
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_locked(path, wait=False))
        yield


@contextmanager
def owned_folder(path: Path) -> Iterator[None]:
    """Make a folder if need be, and hold its lock; it is removed again if the block fails before anything is in it.

    Raises:
        InUseError: it is held elsewhere.
        BadInputError: it can't be made or written.
    """
    with owned(path), artifacts.new_folders(path), owned(path):  # by its name before it is made, and then itself
        yield


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path` for the block, waiting for it: for short work, such as moving a finished file and its
    manifest into place."""
    with _locked(path, wait=True):
        yield


def owning(
    paths: Callable[..., Iterable[Path]],
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a function so that it holds the locks of its outputs while it runs; see `owned`.

    Args:
        paths: maps the function's arguments to its outputs.
    """

    def decorated(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def alone(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
            with owned(*paths(*arguments, **named)):
                return function(*arguments, **named)

        return alone

    return decorated


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    own = path.resolve(), threading.get_ident()
    with ExitStack() as stack:
        if own not in _held:
            _lock_path(path, own, stack, wait=wait)
        if own not in _folders:  # it may have been made since
            _lock_folder(path, own, stack, wait=wait)
        yield


def _lock_path(path: Path, own: tuple[Path, int], stack: ExitStack, *, wait: bool) -> None:
    """Hold the lock in the cache folder until `stack` ends."""
    folder = artifacts.cache_folder() / "locks"
    name = artifacts.place_hash(path)
    holder = folder / f"{name}.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(FileLock(folder / f"{name}.lock").acquire(timeout=-1 if wait else 0))
    except Timeout:
        raise _in_use(path, holder) from None
    except OSError:
        pass  # see above
    else:
        with suppress(OSError):
            holder.write_text(str(os.getpid()), encoding="ascii")
    _held.add(own)
    stack.callback(_held.discard, own)


def _lock_folder(path: Path, own: tuple[Path, int], stack: ExitStack, *, wait: bool) -> None:
    """Hold the lock of a folder, where there is one, until `stack` ends."""
    if fcntl is None or not path.is_dir():
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    _folders[own] = descriptor
    stack.callback(os.close, descriptor)
    stack.callback(_folders.pop, own)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, None) from None
    except OSError:
        pass  # a file system without locks


def _in_use(path: Path, holder: Path | None) -> InUseError:
    pid = ""
    with suppress(OSError):
        pid = holder.read_text(encoding="ascii").strip() if holder is not None else ""
    who = f" (process {pid})" if pid.isdigit() else ""
    return InUseError(
        f"{path} is in use: another hemf-export{who} is at work there.",
        "Nothing was changed. Wait until it ends, or choose another place with `output`.",
    )


def _let_go() -> None:
    """Drop the locks in a forked child, which may outlive this process: they aren't its own."""
    for descriptor in _folders.values():
        with suppress(OSError):
            os.close(descriptor)
    _folders.clear()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
