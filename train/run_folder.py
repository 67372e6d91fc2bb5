"""A run's folder: which files it has, and its metrics, one JSON line an epoch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError


class RunFolder:
    """`best.pt`, `last.pt`, `metrics.jsonl` and the reports of one training run.

    Args:
        path: made if it isn't there.
        resume: whether earlier results in it are to be gone on with.

    Raises:
        BadInputError: can't be written, or holds a run that would be overwritten.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.best = path / "best.pt"
        self.last = path / "last.pt"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.confusion = path / "confusion.png"
        self.curve = path / "curve.png"
        artifacts.check_folder(path)
        if not resume and (self.last.exists() or self.best.exists()):
            raise BadInputError(
                f"{path} already holds a run.", "Go on with it with `resume`, or choose another folder."
            )

    @property
    def name(self) -> str:
        """The folder's own name, also where it was given as "." or ".."."""
        return self.path.resolve().name or str(self.path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines so far, oldest first."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json; None where the run hasn't ended.

        Raises:
            BadInputError: it can't be read.
        """
        if not self.summary.exists():
            return None
        try:
            summary = json.loads(self.summary.read_bytes())
            summary["checkpoint_sha256"], summary["splits"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{self.summary} is not the summary of a run: {error}.", "Remove it: it is made again from best.pt."
            ) from error
        return dict(summary)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one epoch's line, atomically: the file is small, so it is written anew.

        Lines from that epoch on are of a start that was killed before its checkpoint, and go. What is not finite is
        null: JSON has no other word for it.
        """
        line = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in line.items()}  # fmt: skip
        self._write([*(earlier for earlier in self.read_metrics() if earlier["epoch"] < line["epoch"]), line])

    def truncate_metrics(self, epochs: int) -> None:
        """Drop lines after `epochs`, which a killed run wrote before its checkpoint."""
        self._write([line for line in self.read_metrics() if line["epoch"] <= epochs])

    def _write(self, lines: list[dict[str, Any]]) -> None:
        artifacts.write_bytes(self.metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())
