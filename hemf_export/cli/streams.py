"""Robust standard output and error: for any encoding, a full disk, closed streams or pipes.

Characters that an encoding lacks are replaced by plain ones. If results can't be written, that is one clear error;
messages on standard error that can't be written are dropped.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from hemf_export.files.errors import HemfError
from hemf_export.files.printable import printable_lines

_ERRORS = "hemf-plain-signs"
_PLAIN = {
    "…": "...", "–": "-", "—": "-", "−": "-", "→": "->", "▶": ">", "×": "x", "·": ".", "•": "*", "✓": "ok", "✗": "[x]",
    "±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "µ": "u", "μ": "u", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'",
    "█": "#", "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|", "²": "2", "³": "3", "°": " deg", "τ": "tau",
    "β": "beta",
}  # fmt: skip


class OutputError(HemfError):
    """Raised if results can't be written to standard output: a full disk, or a closed stream."""


class ReaderGoneError(Exception):
    """Raised if the reader of standard output has closed the pipe: the command ends silently."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by plain ones: a letter without its accent, or else an escape."""
    assert isinstance(error, UnicodeEncodeError)
    sign = error.object[error.start]
    plain = _PLAIN.get(sign)
    if plain is None:
        plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() if sign.isprintable() else ""
    return plain or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_ERRORS, _replace)


class _Results(io.TextIOBase):
    """Standard output while a command runs."""

    def __init__(self, stream: TextIO) -> None:
        # click would choose another encoding if the stream had a buffer; this has none.
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here
        """Encoding of the stream."""
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override] # read-only here
        """Error handler, with which no character fails."""
        return _ERRORS

    def writable(self) -> bool:
        """Return True: failures are reported on writing."""
        return True

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write a text, with replacements for characters that the encoding lacks."""
        shown = text.encode(self.encoding, _ERRORS).decode(self.encoding)
        with self._guarded():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._guarded():
            self._stream.flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            raise OutputError(
                f"Can't write to standard output: {error.strerror or error}.",
                "What the command was to show is lost; files that it wrote are there.",
            ) from error


class _Talk(_Results):
    """Standard error while a command runs: text that can't be written is dropped."""

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with suppress(OSError):
            yield


@contextmanager
def guarded() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` by streams that only raise `OutputError` and `ReaderGoneError`.

    Raises:
        OutputError, ReaderGoneError: also at the end, if the last results can't be written.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Results(before[0]), _Talk(before[1])
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def reopen_closed() -> None:
    """Replace closed standard streams, before a file of ours gets their file descriptors.

    The replacements can't be written to: lost results are an error, as for other programs.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY)
            assert opened == number, "the lowest free file descriptor"
            if number:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - to the end


def forget(stream: TextIO) -> None:
    """Discard a stream's unwritten output, which would fail when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say_error(message: str, hint: str | None = None) -> None:
    """Print an error message and its hint to stderr."""
    text = f"error: {message}" + (f"\n  {hint}" if hint else "")
    sys.stderr.write(printable_lines(text) + "\n")


def json_text(values: Any, *, indent: int | None = 2, allow_nan: bool = True) -> str:
    """Return JSON in ASCII, which any terminal can show and which has no control sequences."""
    return json.dumps(values, indent=indent, allow_nan=allow_nan)
