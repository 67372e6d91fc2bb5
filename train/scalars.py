"""A run's metrics for TensorBoard, an optional package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hemf_export.files.errors import MissingCapabilityError


def check() -> None:
    """Check that TensorBoard is installed.

    Raises:
        MissingCapabilityError: it isn't.
    """
    if find_spec("tensorboard") is None:
        raise MissingCapabilityError(
            "TensorBoard is not installed.",
            "pip install tensorboard, or leave out `tensorboard`: metrics.jsonl has the same metrics.",
        )


class Scalars:
    """An event file for TensorBoard, written by its own writer; a kill may lose the last entries.

    Args:
        folder: the folder of the event file.
        start: the first step that will be added; TensorBoard hides later steps of an earlier, interrupted run.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=start)

    def add(self, line: Mapping[str, Any], step: int) -> None:
        """Add one epoch's metrics, each under its name; values that are not numbers are left out."""
        for name, value in line.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write pending entries and close the file."""
        self._writer.close()


def writer(folder: Path, start: int = 1) -> Scalars:
    """Open the event file of a run in `folder`.

    Raises:
        MissingCapabilityError: TensorBoard isn't installed.
    """
    check()
    return Scalars(folder, start)
