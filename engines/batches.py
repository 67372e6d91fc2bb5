"""The batch sizes that an engine serves: an optimization profile's minimum, optimum and maximum."""

from __future__ import annotations

from dataclasses import dataclass

from hemf_export.files.errors import UsageError


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of one optimization profile.

    Raises:
        UsageError: not 1 ≤ minimum ≤ optimum ≤ maximum.
    """

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(f"Batch profile {self} is not 1 ≤ MIN ≤ OPT ≤ MAX.")

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """`MIN:OPT:MAX`, or `N` for N:N:N."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise UsageError(f"`batch` takes MIN:OPT:MAX or N, not {text!r}.")
        numbers = [int(part) for part in parts]
        return cls(*(numbers if len(numbers) == 3 else numbers * 3))
