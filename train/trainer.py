"""The training loop: epochs of training, validation and checkpoints. Reports through `Progress`; never prints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemf_export.files import gpu_memory
from hemf_export.files.errors import CheckFailedError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import LabelledImages
from hemf_export.metrics import classification
from hemf_export.networks import network
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.registry import build, family_of
from hemf_export.train import data, distributed, loader_processes
from hemf_export.train.float32 import exact_float32
from hemf_export.train.hardware import has_bfloat16
from hemf_export.train.job import Job
from hemf_export.train.losses import Objective
from hemf_export.train.run_folder import RunCheckpoints, RunFolder
from hemf_export.train.sampling import Division
from hemf_export.train.step import MicroBatch, Step
from hemf_export.train.training_state import TrainingState, seed_of
from hemf_export.train.weight_average import WeightAverage

MAX_SKIPPED_IN_A_ROW = 10  # steps with a non-finite gradient before a run is aborted
# More of them with float16, where each halves the gradient scale: first it may have to come down from 65,536 to 1.
_HALVINGS = 16
_CURVE = (
    "loss", "accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "mcc", "kappa", "auc", "ece", "brier",
    "recall",
)  # fmt: skip


class DivergedError(CheckFailedError):
    """The training diverged: its loss, gradients or weights are not finite."""


@dataclass(frozen=True)
class Epoch:
    """Event: an epoch has ended.

    Args:
        number: the epoch, counted from 1.
        epochs: epochs of the whole run.
        metrics: as in metrics.jsonl.
        training_images: number of training images.
        validation_images: number of validation images.
    """

    number: int
    epochs: int
    metrics: dict[str, Any]
    training_images: int
    validation_images: int


class Trainer:
    """A run in progress, in this process or in the group that it has joined (see `train.distributed`).

    Args:
        job: the definition of the run.
        run: the folder for checkpoints and metrics; only the first process writes.
        resume: go on from `run`'s `last.pt`.
        objective: the function to minimize; by default the recipe's loss.

    Raises:
        BadInputError: there is nothing to resume, or the run has another configuration.
        UsageError: a batch can't be divided into the micro-batches and processes.
    """

    def __init__(self, job: Job, run: RunFolder, *, resume: bool, objective: Objective | None = None) -> None:
        self.run, self.group = run, distributed.current()
        recipe = job.recipe
        self.division = Division(len(job.train), recipe.batch_size, recipe.accumulation_steps, self.group.size)
        self.device = torch.device(job.hardware.device)
        torch.manual_seed(recipe.seed)
        self.model = build(job.config, seed=recipe.seed).to(self.device)
        if network.memory_format(self.model) != torch.channels_last:
            job = dataclasses.replace(job, hardware=dataclasses.replace(job.hardware, channels_last=False))
        self.job, hardware = job, job.hardware
        self.model.to(memory_format=hardware.memory_format)  # type: ignore[call-overload]
        if job.initial is not None:
            job.initial.apply(self.model)
        set_drop_path(self.model, recipe.drop_path)
        if recipe.sync_batch_norm and self.group.size > 1:
            distributed.synchronize_batch_norm(self.model, self.device)
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
        """Number of steps per epoch."""
        return self.division.steps

    @property
    def next_epoch(self) -> int:
        """The next epoch to train, counted from 0."""
        return self.state.counters.next_epoch

    @exact_float32()
    @loader_processes.translated()
    def fit(self, progress: Progress = SILENT) -> None:
        """Train the remaining epochs; after each, save `last.pt`, and `best.pt` if it is the best so far.

        Args:
            progress: receives the progress, and each `Epoch` as an event.

        Raises:
            DivergedError: the gradients are not finite in many consecutive steps, or the last epoch has no finite
                step or validation. Earlier checkpoints stay, and `best.pt` is always of a finite epoch.
            CheckFailedError: the teacher's logits are not finite.
            HemfError: a batch is too large for the GPU, or torch.compile fails; or see `train.loader_processes`.
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
        if lost := self.state.counters.lost_epochs:
            last = "its last epoch" if lost == 1 else f"each of its last {lost} epochs"
            raise self._diverged(f"{last} had no finite step, or left a network whose validation logits are not finite")

    @exact_float32()
    @loader_processes.translated()
    @torch.no_grad()
    def predict(self, images: LabelledImages) -> NDArray[np.float32]:
        """Compute logits (n, classes), float32, with the network's own weights in evaluation mode.

        Each of n processes computes every n-th image, and all get the whole result. The network stays in evaluation
        mode.

        Raises:
            HemfError: a batch is too large for the GPU; or see `train.loader_processes`.
        """
        self.model.eval()
        rank, processes, hardware = self.group.rank, self.group.size, self.job.hardware
        own = images.select(range(rank, len(images), processes)) if processes > 1 else images
        batch_size = max(1, self.job.recipe.batch_size // (self.division.micro_batches * processes))
        parts: list[NDArray[np.float32]] = []
        for batch in data.evaluation_batches(
            own, self.job.preprocess, batch_size, workers=self.job.workers, pin_memory=self.device.type == "cuda"
        ):
            with (
                gpu_memory.needed(f"a batch of {len(batch)} images", "Try a smaller `batch_size`."),
                hardware.autocast(),
            ):
                batch = batch.to(self.device, non_blocking=True).to(memory_format=hardware.memory_format)
                parts.append(self.model(batch).float().cpu().numpy())
        shares = self.group.gather(np.concatenate(parts) if parts else None)
        if processes == 1:
            return np.concatenate(parts)
        classes = next(share for share in shares if share is not None).shape[1]
        logits = np.empty((len(images), classes), np.float32)
        for first, share in enumerate(shares):
            if share is not None:
                logits[first::processes] = share
        return logits

    def _epoch(self, epoch: int, loader: data.TrainingLoader, progress: Progress) -> None:
        started = time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        steps_before = self.state.counters.steps_taken
        totals, waited = self._train(epoch, loader, progress)
        seconds = time.monotonic() - started
        self._agree_on_statistics()
        metrics = self._validate()
        counters = self.state.counters
        counters.next_epoch = epoch + 1
        finite = metrics["loss"] is not None
        counters.lost_epochs = 0 if finite and counters.steps_taken > steps_before else counters.lost_epochs + 1
        loss, correct, seen = np.sum(self.group.gather(totals), axis=0).tolist()
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": loss / seen if seen else None,
            "accuracy": correct / seen if seen else None,
            **{f"val_{name}": metrics[name] for name in _CURVE},
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            "skipped_steps": counters.skipped_steps,
            "images_per_second": seen / seconds,
            "loader_share": waited / seconds,
            "seconds": time.monotonic() - started,
        }
        if self.device.type == "cuda":
            line["gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        ended = Epoch(epoch + 1, self.job.recipe.epochs, line, len(self.job.train), len(self.job.validation))
        if not finite and not self.state.finite():
            if self.group.first:
                self.run.append_metrics(line)
            progress.event(ended)
            raise self._diverged(f"weights or BatchNorm's statistics are not finite after epoch {epoch + 1}")
        # Initial weights, which no step has changed, don't count as a result.
        better = finite and counters.steps_taken > 0 and counters.update_best(metrics["accuracy"], metrics["loss"])
        if self.group.first:
            self.checkpoints.save(self.state, metrics, line, better=better)
        progress.event(ended)

    def _require_progress(self, epoch: int) -> None:
        """Raise DivergedError if too many steps in a row were skipped."""
        skipped, scaler = self.state.counters.skipped_in_a_row, self.state.scaler
        if skipped < MAX_SKIPPED_IN_A_ROW + _HALVINGS * scaler.is_enabled():
            return
        scaled = f", though float16's gradient scale came down to {scaler.get_scale():.3g}"
        raise self._diverged(
            f"the loss or its gradient was not finite in {skipped} steps in a row, the last of them in epoch "
            f"{epoch + 1}{scaled if scaler.is_enabled() else ''}"
        )

    def _diverged(self, how: str) -> DivergedError:
        best = self.run.best if self.state.counters.best_accuracy >= 0 else None
        kept = f"{best} keeps the best epoch before." if best else "No epoch had a finite result: there is no best.pt."
        return DivergedError(
            f"The training diverged: {how}.",
            f"{kept} {self._remedy()}",
            {"diverged": True, "best": None if best is None else str(best)},
        )

    def _remedy(self) -> str:
        hardware = self.job.hardware
        calmer = "a lower `learning_rate` or more `warmup_epochs`"
        if hardware.amp == "float16":
            wider = "in bfloat16 (`amp='bfloat16'`) or " if has_bfloat16(hardware.device) else ""
            return (
                f"float16 ends at 65,504: train again {wider}without AMP (`amp='off'`), and if it diverges there too, "
                f"with {calmer}."
            )
        exactly = "" if hardware.amp == "off" else ", or without AMP (`amp='off'`)"
        return f"Train again with {calmer}{exactly}."

    def _train(self, epoch: int, loader: data.TrainingLoader, progress: Progress) -> tuple[NDArray[np.float64], float]:
        """Train one epoch.

        Returns:
            Sums over this process's images: loss, correct predictions on the augmented images, and number of images;
            and the seconds spent waiting for the loader.
        """
        torch.manual_seed(seed_of(self.job.recipe.seed, epoch, self.group.rank))
        self.model.train()
        totals, counters = np.zeros(3), self.state.counters
        batches = _TimedBatches(loader.epoch(epoch))
        with progress.task(f"Epoch {epoch + 1}/{self.job.recipe.epochs}", self.steps, "steps") as task:
            for step, batch in enumerate(batches):
                rate = self.job.recipe.rate(counters.step_count, self.steps)
                result = self.step(batch, self.division.size(step), rate=rate, drawing=(epoch, step))
                counters.count_step(finite=result.finite)
                task.advance()
                self._require_progress(epoch)
                if not result.finite:
                    continue
                if self.state.average is not None:
                    self.state.average.update(self.model)
                totals += (result.loss, result.correct, result.images)
        return totals, batches.seconds

    def _validate(self) -> dict[str, Any]:
        images, average = self.job.validation, self.state.average
        assert images.labels is not None
        if average is None:
            logits = self.predict(images)
        else:
            with average.applied_to(self.model):
                logits = self.predict(images)
        return classification.summarize(images.labels, logits, images.classes)

    def _agree_on_statistics(self) -> None:
        """Average BatchNorm's statistics over the processes, which have seen different images."""
        names = [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]
        statistics = {f"{name}.{each}" for name in names for each in ("running_mean", "running_var")}
        self.group.average_([value for name, value in self.model.state_dict().items() if name in statistics])
        if self.state.average is not None:
            self.group.average_([value for name, value in self.state.average.weights.items() if name in statistics])

    def _forward(self) -> nn.Module:
        """The network as training calls it: distributed over processes and compiled, if asked for."""
        forward: nn.Module = self.model
        if self.group.size > 1:
            skips = family_of(self.job.config).skips_parameters(self.job.config)
            forward = distributed.with_averaged_gradients(forward, self.group, skips=skips)
        return torch.compile(forward) if self.job.hardware.compile else forward  # type: ignore[return-value]


class _TimedBatches:
    """An iterator over batches that measures the seconds spent waiting for them."""

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
    """AdamW, with weight decay on the parameters that the network names."""
    decayed, plain = network.decayed(model)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=next(model.parameters()).is_cuda)
