"""`best.pt` and `last.pt` of a run: written after an epoch, read to go on."""

from __future__ import annotations

import dataclasses
from typing import Any

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.files.errors import BadInputError
from hemf_export.train.distributed import Group
from hemf_export.train.job import Job
from hemf_export.train.recipe import refuse_differences
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.training_state import TrainingState


class RunCheckpoints:
    """The checkpoints of one run. The first process writes and reads them, for all.

    Args:
        job: what is trained.
        run: the folder.
        group: the processes.
    """

    def __init__(self, job: Job, run: RunFolder, group: Group) -> None:
        self.job, self.run, self.group = job, run, group

    def save(self, state: TrainingState, figures: dict[str, Any], line: dict[str, Any], *, better: bool) -> None:
        """Write an epoch down: its line of metrics.jsonl, `best.pt` if it is `better`, `last.pt`.

        The order matters: whatever a kill leaves behind, resuming makes the rest again, the same.
        """
        self.run.append_metrics(line)
        saved = Checkpoint(
            config=self.job.config,
            classes=self.job.train.classes,
            preprocess=self.job.preprocess,
            state=state.weights(),
            metrics={"epoch": state.progress.next_epoch, "validation": figures},
            provenance=self.job.provenance(),
        )
        if better:
            checkpoint.save(saved, self.run.best)
        training = {"description": self.job.description(self.group.size), **state.to_dict()}
        checkpoint.save(dataclasses.replace(saved, training=training), self.run.last)

    def restore(self, state: TrainingState) -> None:
        """Bring `state` to the end of the last finished epoch.

        Raises:
            BadInputError: nothing to resume, or a run of another configuration.
        """
        saved = self.group.from_first(self._read_last)
        if saved is not None:
            assert saved.training is not None
            state.restore(saved.state, saved.training)

    def _read_last(self) -> Checkpoint | None:
        """None where a run was killed between writing its first best.pt and its first last.pt: it begins anew."""
        if not self.run.last.exists() and self._is_own_first_epoch():
            self.run.truncate_metrics(0)
            return None
        if not self.run.last.exists():
            raise BadInputError(f"Nothing to resume: {self.run.last} does not exist.", "Leave out `resume`.")
        saved = checkpoint.load(self.run.last)
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
        best, job = checkpoint.load(self.run.best), self.job
        own = job.provenance()
        same = all(best.provenance.get(name) == own.get(name) for name in ("recipe", "teacher"))
        return same and (best.metrics.get("epoch"), best.config, best.classes) == (1, job.config, job.train.classes)
