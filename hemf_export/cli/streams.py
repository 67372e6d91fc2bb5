"""Standard output and error as they are: in any encoding, full, closed, or with nobody who reads.

Signs that an encoding lacks are replaced by plain ones. What results can't be written to is one clear error; talk on
standard error that nobody can see stops no work.
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
    """Results that can't be written to standard output: a full disk, or a closed stream."""


class ReaderGoneError(Exception):
    """Whoever read standard output has closed it: there is nothing left to do, and nothing to say."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Give plain signs for those that an encoding lacks; the letter without its accent, or else an escape."""
    assert isinstance(error, UnicodeEncodeError)
    sign = error.object[error.start]
    plain = _PLAIN.get(sign)
    if plain is None:
        plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() if sign.isprintable() else ""
    return plain or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_ERRORS, _replace)


class _Results(io.TextIOBase):
    """Standard output for as long as a command runs."""

    def __init__(self, stream: TextIO) -> None:
        # click takes another encoding than the stream's where it knows the stream's buffer; this has none.
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here
        """The stream's own."""
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override] # read-only here
        """Nothing that is written can fail for its signs."""
        return _ERRORS

    def writable(self) -> bool:
        """Always: what fails, fails where it is written."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's own."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write what the encoding can show of a text."""
        shown = text.encode(self.encoding, _ERRORS).decode(self.encoding)
        with self._guarded():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Hand everything on."""
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
    """Standard error for as long as a command runs: what can't be said is dropped."""

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with suppress(OSError):
            yield


@contextmanager
def guarded() -> Iterator[None]:
    """Make `sys.stdout` and `sys.stderr` streams that know no error but `OutputError` and `ReaderGoneError`.

    Raises:
        OutputError, ReaderGoneError: at the end too, where the last of the results can't be written.
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
    """Put something into the place of standard streams that are closed, before a file of ours takes their numbers.

    What is put there can't be written to: results that go nowhere are an error, as they are for other programs.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY)
            assert opened == number, "the lowest number that is free"
            if number:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - to the end


def forget(stream: TextIO) -> None:
    """Let nothing that is still to be written to a stream fail when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say_error(message: str, hint: str | None = None) -> None:
    """The message of a command that failed, and how to mend it, on stderr."""
    text = f"error: {message}" + (f"\n  {hint}" if hint else "")
    sys.stderr.write(printable_lines(text) + "\n")


def json_text(values: Any, *, indent: int | None = 2, allow_nan: bool = True) -> str:
    """JSON for standard output, in ASCII: whatever shows it can show it, and nothing in it steers a terminal."""
    return json.dumps(values, indent=indent, allow_nan=allow_nan)
