"""Errors for the user, each with the exit code of a command that ends with it.

Any other exception that escapes a command is a bug (exit code 70).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class HemfError(Exception):
    """Base class: a failure that the user can act on.

    Args:
        message: what failed: the file or value, and what is wrong with it.
        hint: how to mend it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class BadInputError(HemfError):
    """A file or value is missing, damaged or unsuitable."""

    exit_code = 1


class UsageError(HemfError):
    """Invalid use: an option, or a combination of options, that makes no sense."""

    exit_code = 2


class CheckFailedError(HemfError):
    """A check ran, and a bound was exceeded.

    Args:
        message: see `HemfError`.
        hint: see `HemfError`.
        report: results of the check, in plain types, for a report beside the message.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str | None = None, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.report = report


class MissingCapabilityError(HemfError):
    """This machine lacks something: a GPU, TensorRT, an optional package."""

    exit_code = 4


class FailedElsewhereError(HemfError):
    """Another process of a run of several failed, and has reported the error itself."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Hint that names the most similar known value, or else all of them."""
    known = sorted(known)
    nearest = difflib.get_close_matches(value, known, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
