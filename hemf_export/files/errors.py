"""The errors that a user may see, each with the exit code of the command that ends with it.

Anything else that escapes a command is a defect of ours (exit code 70).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class HemfError(Exception):
    """A failure that the user can act on.

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
    """A file or value that the user can mend."""

    exit_code = 1


class UsageError(HemfError):
    """A wrong call: options that make no sense, alone or together."""

    exit_code = 2


class CheckFailedError(HemfError):
    """A check ran and found a difference beyond its bound.

    Args:
        message: see `HemfError`.
        hint: the same.
        report: what the check found, in plain types, for reports beside the message.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str | None = None, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.report = report


class MissingCapabilityError(HemfError):
    """This machine lacks something: a GPU, TensorRT, an optional package."""

    exit_code = 4


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known value, or else all of them."""
    known = sorted(known)
    nearest = difflib.get_close_matches(value, known, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
