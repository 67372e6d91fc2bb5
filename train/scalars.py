"""A run's figures for TensorBoard, which is not among our dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hemf_export.files.errors import MissingCapabilityError


def check() -> None:
    """Tell before any work that TensorBoard is not there.

    Raises:
        MissingCapabilityError: it isn't installed.
    """
    if find_spec("tensorboard") is None:
        raise MissingCapabilityError(
            "TensorBoard is not installed.",
            "pip install tensorboard, or leave out `tensorboard`: metrics.jsonl has all.",
        )


class Scalars:
    """An event file that TensorBoard reads; its own writer appends to it, so a kill may cost its last lines.

    Args:
        folder: that it lies in.
        start: the first step that will be added; steps of an earlier, interrupted run from there on are hidden.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=start)

    def add(self, line: Mapping[str, Any], step: int) -> None:
        """One epoch's figures, each under its name; what is not a number is left out."""
        for name, value in line.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def writer(folder: Path, start: int = 1) -> Scalars:
    """The event file of a run, in `folder`.

    Raises:
        MissingCapabilityError: TensorBoard isn't installed.
    """
    check()
    return Scalars(folder, start)
