"""Keep what libraries print off standard output, which is for results.

ONNX Runtime's Python prints there when it gives up on a provider, and native code writes to file descriptor 1 itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

_STDOUT, _STDERR = 1, 2


@contextmanager
def off_stdout() -> Iterator[None]:
    """Send to standard error what is printed to standard output meanwhile, by Python or by native code.

    It holds for the whole process: other threads' output goes there too.
    """
    with suppress(OSError, ValueError, AttributeError):  # what was printed before belongs to stdout
        sys.stdout.flush()
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # closed: nothing can be printed there
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        with suppress(OSError):  # stderr is closed
            os.dup2(_STDERR, _STDOUT)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush_native()
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _flush_native() -> None:
    """Flush the C library's streams: it keeps what is printed into a pipe or file until its buffer is full."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows a library must be named
        ctypes.CDLL(None).fflush(None)
