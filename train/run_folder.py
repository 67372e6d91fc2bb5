"""A run's folder: its files, its metrics (one JSON line per epoch) and its checkpoints, `best.pt` and `last.pt`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.train.distributed import Group
from hemf_export.train.job import Job
from hemf_export.train.recipe import refuse_differences
from hemf_export.train.training_state import TrainingState


class RunFolder:
    """The folder of one training run: `best.pt`, `last.pt`, `metrics.jsonl` and the reports.

    Args:
        path: the folder; created if it doesn't exist.
        resume: go on with the run in it.

    Raises:
        BadInputError: it can't be written, or holds a run that would be overwritten.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.best = path / "best.pt"
        self.last = path / "last.pt"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.confusion = path / "confusion.png"
        self.curve = path / "curve.png"
        self.predictions = path / "predictions.npz"
        artifacts.check_folder(path)
        if not resume and (self.last.exists() or self.best.exists()):
            raise BadInputError(f"{path} already holds a run.", "Continue it with `resume`, or choose another folder.")

    @property
    def name(self) -> str:
        """The folder's own name, even if the path is "." or ".."."""
        return self.path.resolve().name or str(self.path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl, oldest first."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def read_summary(self) -> dict[str, Any] | None:
        """Read summary.json; None if the run hasn't ended.

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
                f"{self.summary} is not the summary of a run: {error}.",
                "Remove it: it will be written again from best.pt.",
            ) from error
        return dict(summary)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one epoch's line, atomically: the file is small, and rewritten each time.

        Earlier lines of this or later epochs are dropped: a killed run wrote them before its checkpoint. Values that
        are not finite become null, as JSON can't represent them.
        """
        line = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in line.items()}  # fmt: skip
        self._write([*(earlier for earlier in self.read_metrics() if earlier["epoch"] < line["epoch"]), line])

    def truncate_metrics(self, epochs: int) -> None:
        """Drop the lines after `epochs`, which a killed run wrote before its checkpoint."""
        self._write([line for line in self.read_metrics() if line["epoch"] <= epochs])

    def _write(self, lines: list[dict[str, Any]]) -> None:
        artifacts.write_bytes(self.metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())


class RunCheckpoints:
    """The checkpoints of one run. The first process writes and reads them for all.

    Args:
        job: the definition of the run.
        run: its folder.
        group: its processes.
    """

    def __init__(self, job: Job, run: RunFolder, group: Group) -> None:
        self.job, self.run, self.group = job, run, group

    def save(self, state: TrainingState, validation: dict[str, Any], line: dict[str, Any], *, better: bool) -> None:
        """Save an epoch: its line of metrics.jsonl, `best.pt` if it is `better`, then `last.pt`.

        The order matters: whatever a kill leaves behind, resuming reproduces the rest exactly.
        """
        self.run.append_metrics(line)
        saved = Checkpoint(
            config=self.job.config,
            classes=self.job.train.classes,
            preprocess=self.job.preprocess,
            state=state.weights(),
            metrics={"epoch": state.counters.next_epoch, "validation": validation},
            provenance=self.job.provenance(),
        )
        if better:
            checkpoint.save(saved, self.run.best)
        training = {"description": self.job.description(self.group.size), **state.to_dict()}
        checkpoint.save(dataclasses.replace(saved, training=training), self.run.last)

    def restore(self, state: TrainingState) -> None:
        """Restore `state` to the end of the last finished epoch.

        Raises:
            BadInputError: there is nothing to resume, or the run has another configuration.
        """
        saved = self.group.from_first(self._read_last)
        if saved is not None:
            assert saved.training is not None
            state.restore(saved.state, saved.training)

    def _read_last(self) -> Checkpoint | None:
        """Read last.pt; None if the run was killed between its first best.pt and its first last.pt, and starts over."""
        if not self.run.last.exists() and self._is_own_first_epoch():
            self.run.truncate_metrics(0)
            return None
        if not self.run.last.exists():
            raise BadInputError(f"Nothing to resume: {self.run.last} does not exist.", "Leave out `resume`.")
        saved = checkpoint.load(self.run.last, reading=self.job.reading)
        if saved.training is None:
            raise BadInputError(
                f"{self.run.last} doesn't hold what resuming needs.", "Resume from a run's own last.pt."
            )
        refuse_differences(saved.training["description"], self.job.description(self.group.size))
        self.run.truncate_metrics(saved.training["next_epoch"])
        return saved

    def _is_own_first_epoch(self) -> bool:
        if not self.run.best.exists():
            return False
        best, job = checkpoint.load(self.run.best, reading=self.job.reading), self.job
        own = job.provenance()
        same = all(best.provenance.get(name) == own.get(name) for name in ("recipe", "teacher", "init"))
        return same and (best.metrics.get("epoch"), best.config, best.classes) == (1, job.config, job.train.classes)
