"""What a shipment tells while it works. Knows nothing of terminals."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from calibration.job import Listener


class ShipListener(Protocol):
    """Hears of steps, and of the progress within one."""

    def begin(self, name: str, number: int, total: int) -> None:
        """A checkpoint begins."""

    def doing(self, step: str) -> None:
        """A step begins."""

    def cached(self, step: str) -> None:
        """A step was done before, of the same."""

    def note(self, text: str) -> None:
        """What a user should know."""

    def spinner(self, text: str) -> AbstractContextManager[None]:
        """A part of a step that tells no progress."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """The progress of a part of a step."""

    def calibration(self) -> Listener:
        """Who hears of a calibration."""

    def close(self) -> None:
        """A step has ended, well or not."""
