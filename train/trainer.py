"""The epochs of a run: training, validation, checkpoints. Reports through `Progress`; never prints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemf_export.files.errors import CheckFailedError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import LabelledImages
from hemf_export.metrics import classification
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.initialization import build
from hemf_export.networks.model import HEMF
from hemf_export.train import data, distributed, inference, loader_processes, synchronized_norm
from hemf_export.train.batches import Division
from hemf_export.train.job import Job
from hemf_export.train.objective import Objective
from hemf_export.train.run_checkpoints import RunCheckpoints
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.step import MicroBatch, Step
from hemf_export.train.training_state import TrainingState, seed_of
from hemf_export.train.weight_average import WeightAverage

MAX_SKIPPED_IN_A_ROW = 10  # steps with a non-finite gradient before a run is given up
_CURVE = (
    "loss", "accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "mcc", "kappa", "auc", "ece", "brier",
    "recall",
)  # fmt: skip


class DivergedError(CheckFailedError):
    """A training whose numbers are not finite: that is no result."""


@dataclass(frozen=True)
class Epoch:
    """What is known at the end of an epoch.

    Args:
        number: counted from 1.
        epochs: of the whole run.
        figures: its line of metrics.jsonl.
        training_images: that it saw, augmented.
        validation_images: that it was judged on.
    """

    number: int
    epochs: int
    figures: dict[str, Any]
    training_images: int
    validation_images: int


class Trainer:
    """A run in progress, of this process or of those that it has joined (see `train.distributed`).

    Args:
        job: what to train.
        run: the folder that receives checkpoints and metrics; the first process alone writes.
        resume: go on from `run`'s `last.pt`.
        objective: what is lowered; by default the recipe's loss.

    Raises:
        BadInputError: nothing to resume, or a run of another configuration.
        UsageError: a batch that can't be divided as asked for.
    """

    def __init__(self, job: Job, run: RunFolder, *, resume: bool, objective: Objective | None = None) -> None:
        self.job, self.run, self.group = job, run, distributed.current()
        recipe, hardware = job.recipe, job.hardware
        self.division = Division(len(job.train), recipe.batch_size, recipe.accumulation_steps, self.group.size)
        self.device = torch.device(hardware.device)
        torch.manual_seed(recipe.seed)
        self.model: HEMF = build(job.config, seed=recipe.seed).to(self.device)
        self.model.to(memory_format=hardware.memory_format)  # type: ignore[call-overload]
        set_drop_path(self.model, recipe.drop_path)
        if recipe.sync_batch_norm and self.group.size > 1:
            synchronized_norm.synchronize(self.model, self.device)
        self.state = TrainingState(
            self.model,
            _optimizer(self.model, recipe.learning_rate, recipe.weight_decay),
            hardware.scaler(),
            WeightAverage(self.model, recipe.ema_decay) if recipe.ema_decay else None,
        )
        self.checkpoints = RunCheckpoints(job, run, self.group)
        if resume:
            self.checkpoints.restore(self.state)
        self.step = Step(
            self.model, self._forward(), objective or Objective(recipe, job.class_counts(), job.teacher), recipe,
            self.state.optimizer, self.state.scaler, hardware, self.group,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.division.steps

    @property
    def next_epoch(self) -> int:
        """Counted from 0."""
        return self.state.progress.next_epoch

    @loader_processes.translated()
    def fit(self, progress: Progress = SILENT) -> None:
        """Train the remaining epochs; after each, `last.pt`, and `best.pt` where it is the best so far.

        Args:
            progress: receives how far it is, and each `Epoch` as an event.

        Raises:
            DivergedError: the gradients are not finite, step after step; or the run ends with an epoch that came to
                nothing. What was kept before stays, and no epoch that isn't finite is kept as `best.pt`.
            CheckFailedError: the teacher's logits are not finite.
            HemfError: a batch is too large for the GPU; or see `train.loader_processes`.
        """
        loader = data.TrainingLoader(
            data.TrainingImages(self.job.train, self.job.preprocess, self.job.recipe), self.division,
            rank=self.group.rank, workers=self.job.workers, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        try:
            epochs = self.job.recipe.epochs
            with progress.task("Training", epochs, "epochs") as task:
                task.advance(self.next_epoch)
                for epoch in range(self.next_epoch, epochs):
                    self._epoch(epoch, loader, progress)
                    task.advance()
        finally:
            loader.close()
        if lost := self.state.progress.lost_epochs:
            last = "its last epoch" if lost == 1 else f"each of its last {lost} epochs"
            raise self._diverged(f"{last} had no finite step, or left a network whose validation logits are not finite")

    @loader_processes.translated()
    def predict(self, images: LabelledImages) -> NDArray[np.float32]:
        """Logits (n, classes), float32, in evaluation mode, of the network's own weights."""
        pieces = self.division.micro_batches * self.group.size
        return inference.logits(
            self.model, images, self.job.preprocess, self.job.hardware, self.group,
            batch_size=max(1, self.job.recipe.batch_size // pieces), workers=self.job.workers,
        )  # fmt: skip

    def _epoch(self, epoch: int, loader: data.TrainingLoader, progress: Progress) -> None:
        started = time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = self.state.progress.steps_taken
        totals, waited = self._train(epoch, loader, progress)
        seconds = time.monotonic() - started
        self._agree_on_statistics()
        figures = self._validate()
        counters = self.state.progress
        counters.next_epoch = epoch + 1
        judged = figures["loss"] is not None
        counters.lost_epochs = 0 if judged and counters.steps_taken > taken else counters.lost_epochs + 1
        loss, correct, seen = np.sum(self.group.gather(totals), axis=0).tolist()
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": loss / seen if seen else None,
            "accuracy": correct / seen if seen else None,
            **{f"val_{name}": figures[name] for name in _CURVE},
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            "skipped_steps": counters.skipped_steps,
            "images_per_second": seen / seconds,
            "loader_share": waited / seconds,
            "seconds": time.monotonic() - started,
        }
        if self.device.type == "cuda":
            line["gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        ended = Epoch(epoch + 1, self.job.recipe.epochs, line, len(self.job.train), len(self.job.validation))
        if not judged and not self.state.finite():
            if self.group.first:
                self.run.append_metrics(line)
            progress.event(ended)
            raise self._diverged(f"weights or BatchNorm's statistics are not finite after epoch {epoch + 1}")
        # A network that no step has changed is no result of training either.
        better = judged and counters.steps_taken > 0 and counters.take(figures["accuracy"], figures["loss"])
        if self.group.first:
            self.checkpoints.save(self.state, figures, line, better=better)
        progress.event(ended)

    def _diverged(self, how: str) -> DivergedError:
        best = self.run.best if self.state.progress.best_accuracy >= 0 else None
        kept = f"{best} keeps the best epoch before." if best else "No epoch had a finite result: there is no best.pt."
        precision = "" if self.job.hardware.amp == "off" else ", or train without AMP (`amp='off'`)"
        return DivergedError(
            f"The training diverged: {how}.",
            f"{kept} Start anew with a lower `learning_rate` or more `warmup_epochs`{precision}.",
            {"diverged": True, "best": None if best is None else str(best)},
        )

    def _train(self, epoch: int, loader: data.TrainingLoader, progress: Progress) -> tuple[NDArray[np.float64], float]:
        """Sums over this process's images: loss, correct (on the augmented images as they came) and their number; and
        the seconds that were spent waiting for the loader."""
        torch.manual_seed(seed_of(self.job.recipe.seed, epoch, self.group.rank))
        self.model.train()
        totals, counters = np.zeros(3), self.state.progress
        batches = _Waiting(loader.epoch(epoch))
        with progress.task(f"Epoch {epoch + 1}/{self.job.recipe.epochs}", self.steps, "steps") as task:
            for step, batch in enumerate(batches):
                rate = self.job.recipe.rate(counters.step_count, self.steps)
                done = self.step(batch, self.division.size(step), rate=rate, drawing=(epoch, step))
                counters.count_step(finite=done.finite)
                task.advance()
                if counters.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                    skipped = counters.skipped_in_a_row
                    raise self._diverged(
                        f"the loss or its gradient was not finite in {skipped} steps in a row, the last of them in "
                        f"epoch {epoch + 1}"
                    )
                if not done.finite:
                    continue
                if self.state.average is not None:
                    self.state.average.update(self.model)
                totals += (done.loss, done.correct, done.images)
        return totals, batches.seconds

    def _validate(self) -> dict[str, Any]:
        images, average = self.job.validation, self.state.average
        assert images.labels is not None
        if average is None:
            found = self.predict(images)
        else:
            with average.applied_to(self.model):
                found = self.predict(images)
        return classification.summarize(images.labels, found, images.classes)

    def _agree_on_statistics(self) -> None:
        """Each process has seen other images: the mean of their BatchNorm statistics is what is evaluated and kept."""
        names = [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]
        statistics = {f"{name}.{each}" for name in names for each in ("running_mean", "running_var")}
        self.group.average_([value for name, value in self.model.state_dict().items() if name in statistics])
        if self.state.average is not None:
            self.group.average_([value for name, value in self.state.average.weights.items() if name in statistics])

    def _forward(self) -> nn.Module:
        """The network as training calls it."""
        forward: nn.Module = self.model
        if self.group.size > 1:
            forward = distributed.with_averaged_gradients(forward, self.group)
        return torch.compile(forward) if self.job.hardware.compile else forward  # type: ignore[return-value]


class _Waiting:
    """Batches, and the seconds that were waited for them."""

    def __init__(self, batches: Iterator[list[MicroBatch]]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        return self

    def __next__(self) -> list[MicroBatch]:
        started = time.monotonic()
        batch = next(self.batches)
        self.seconds += time.monotonic() - started
        return batch


def _optimizer(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; weight decay is not for biases, norms and other 1-dimensional parameters."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=next(model.parameters()).is_cuda)
