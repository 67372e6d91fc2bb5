"""The training loop: float16 autocast with a gradient scaler on a GPU, float32 on a CPU.

Talks to its caller through a `Listener`; never prints.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hemf import artifacts, checkpoint, folders
from hemf.checkpoint import Checkpoint
from hemf.config import HemfConfig
from hemf.errors import BadInputError, HemfError
from hemf.folders import LabelledImages
from hemf.images import Preprocess
from hemf.initialization import build
from hemf.model import HEMF
from train import data, distillation, metrics
from train.distillation import Teacher
from train.recipe import Recipe, refuse_differences
from train.run_folder import RunFolder

MAX_SKIPPED_IN_A_ROW = 10  # steps with a non-finite loss or gradient before a run is given up


class Listener(Protocol):
    """What a run reports while it goes on."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, line: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Job:
    """One training run: what, with what, where.

    Args:
        config: the network, with the number of classes of the data.
        recipe: how.
        preprocess: images to input.
        train: training images.
        validation: images that choose the best epoch.
        device: "cpu" or "cuda".
        workers: loader processes.
        amp: float16 autocast; only on CUDA.
        teacher: a trained network whose probabilities are learned too.
    """

    config: HemfConfig
    recipe: Recipe
    preprocess: Preprocess
    train: LabelledImages
    validation: LabelledImages
    device: str = "cpu"
    workers: int = 0
    amp: bool = True
    teacher: Teacher | None = None

    def description(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed. Device and workers may change."""
        taught = {} if self.teacher is None else {"teacher": self.teacher.sha256}
        return {
            **{f"model.{name}": value for name, value in self.config.to_dict().items()},
            **self.recipe.to_dict(),
            **{f"preprocess.{name}": value for name, value in self.preprocess.to_dict().items()},
            "classes": list(self.train.classes),
            "training images": len(self.train),
            "validation images": len(self.validation),
            **taught,
        }


class Trainer:
    """A run in progress: the network, the optimizer, and what `last.pt` keeps of them.

    Args:
        job: what to train.
        run: the folder that receives checkpoints and metrics.
        resume: go on from `run`'s `last.pt`.

    Raises:
        BadInputError: nothing to resume, or a run of another configuration.
    """

    def __init__(self, job: Job, run: RunFolder, *, resume: bool) -> None:
        self.job, self.run = job, run
        self.device = torch.device(job.device)
        torch.manual_seed(job.recipe.seed)
        self.model: HEMF = build(job.config, seed=job.recipe.seed).to(self.device)
        decayed = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        plain = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": job.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=job.recipe.learning_rate, fused=self.device.type == "cuda")
        self.use_amp = job.amp and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.use_amp)
        self.steps = data.steps_per_epoch(len(job.train), job.recipe.batch_size)
        self.next_epoch, self.step_count, self.skipped_steps, self.best_accuracy, self.best_loss = 0, 0, 0, -1.0, 0.0
        if resume:
            self._restore()

    def fit(self, listener: Listener) -> None:
        """Train the remaining epochs; after each, `last.pt`, and `best.pt` where it is the best so far."""
        for epoch in range(self.next_epoch, self.job.recipe.epochs):
            started = time.monotonic()
            loss, correct, seen = self._train_epoch(epoch, listener)
            seconds = time.monotonic() - started
            logits = self.predict(self.job.validation)
            assert self.job.validation.labels is not None
            figures = metrics.summarize(self.job.validation.labels, logits, self.job.validation.classes)
            self.next_epoch = epoch + 1
            line = {
                "epoch": self.next_epoch,
                "loss": loss,
                "accuracy": correct,
                "val_loss": figures["loss"],
                "val_accuracy": figures["accuracy"],
                "val_balanced_accuracy": figures["balanced_accuracy"],
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "skipped_steps": self.skipped_steps,
                "images_per_second": seen / seconds,
                "seconds": time.monotonic() - started,
            }
            self._save(figures, line)
            listener.epoch(line)

    @torch.no_grad()
    def predict(self, images: LabelledImages) -> np.ndarray:
        """Logits (n, classes), float32, in evaluation mode."""
        self.model.eval()
        parts: list[np.ndarray] = []
        for pixels in folders.batches(images, self.job.preprocess, self.job.recipe.batch_size):
            batch = torch.from_numpy(self.job.preprocess.normalize(pixels)).to(self.device)
            with torch.autocast(self.device.type, torch.float16, enabled=self.use_amp):
                parts.append(self.model(batch.to(memory_format=torch.channels_last)).float().cpu().numpy())
        return np.concatenate(parts)

    def _train_epoch(self, epoch: int, listener: Listener) -> tuple[float, float, int]:
        """Mean loss, accuracy on the augmented images as they came, and how many they were."""
        recipe = self.job.recipe
        dataset = data.TrainingImages(self.job.train, self.job.preprocess, recipe, epoch=epoch)
        loader = data.training_batches(
            dataset, recipe.batch_size, workers=self.job.workers, pin_memory=self.device.type == "cuda"
        )
        self.model.train()
        totals = torch.zeros(3, dtype=torch.float64)  # loss, correct, seen
        skipped_in_a_row = 0
        for step, (images, labels) in enumerate(loader):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(self.step_count, self.steps)
            loss, correct = self._train_step(images, labels)
            self.step_count += 1
            if loss is None:
                self.skipped_steps += 1
                skipped_in_a_row += 1
                if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                    raise HemfError(
                        f"The loss was not finite in {skipped_in_a_row} steps in a row (epoch {epoch + 1}).",
                        f"{self.run.last} keeps the last good epoch. Try a lower learning rate.",
                    )
                continue
            skipped_in_a_row = 0
            totals += torch.tensor([loss * len(labels), correct, len(labels)], dtype=torch.float64)
            listener.step(epoch + 1, step + 1, self.steps, loss)
        seen = max(1.0, float(totals[2]))
        return float(totals[0]) / seen, float(totals[1]) / seen, int(totals[2])

    def _train_step(self, images: Tensor, labels: Tensor) -> tuple[float | None, int]:
        """One step; the loss, or None where it was not finite and nothing was changed."""
        images = images.to(self.device, non_blocking=True).to(memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with torch.autocast(self.device.type, torch.float16, enabled=self.use_amp):
                logits = self.model(images)
                loss = nn.functional.cross_entropy(logits, labels)
                if (teacher := self.job.teacher) is not None:
                    weight, temperature = self.job.recipe.distillation_weight, self.job.recipe.temperature
                    loss = distillation.blend(loss, logits, teacher(images), weight=weight, temperature=temperature)
            value = float(loss.detach())
            if not np.isfinite(value):
                return None, 0
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise HemfError(
                f"The GPU's memory doesn't hold a batch of {len(labels)} images.",
                f"Try --batch-size {max(2, len(labels) // 2)}.",
            ) from error
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # leaves out the step where a gradient overflowed
        self.scaler.update()  # and lowers the scale then
        self.skipped_steps += self.scaler.get_scale() < scale
        return value, int((logits.detach().argmax(1) == labels).sum())

    def _save(self, figures: dict[str, Any], line: dict[str, Any]) -> None:
        """The order matters: whatever a kill leaves behind, resuming makes the rest again, the same."""
        self.run.append_metrics(line)
        better = figures["accuracy"] > self.best_accuracy or (
            figures["accuracy"] == self.best_accuracy and figures["loss"] < self.best_loss
        )
        if better:
            self.best_accuracy, self.best_loss = figures["accuracy"], figures["loss"]
        saved = Checkpoint(
            config=self.job.config,
            classes=self.job.train.classes,
            preprocess=self.job.preprocess,
            state={name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()},
            metrics={"epoch": self.next_epoch, "validation": figures},
            provenance={"recipe": self.job.recipe.to_dict(), **self._taught(), "versions": artifacts.versions()},
        )
        if better:
            checkpoint.save(saved, self.run.best)
        training = {
            "description": self.job.description(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "next_epoch": self.next_epoch,
            "step_count": self.step_count,
            "skipped_steps": self.skipped_steps,
            "best_accuracy": self.best_accuracy,
            "best_loss": self.best_loss,
        }
        checkpoint.save(dataclasses.replace(saved, training=training), self.run.last)

    def _taught(self) -> dict[str, Any]:
        teacher = self.job.teacher
        return {} if teacher is None else {"teacher": {"model": teacher.name, "checkpoint_sha256": teacher.sha256}}

    def _restore(self) -> None:
        if not self.run.last.exists():
            raise BadInputError(f"Nothing to resume: {self.run.last} does not exist.", "Leave out --resume.")
        saved = checkpoint.load(self.run.last)
        if saved.training is None:
            raise BadInputError(
                f"{self.run.last} doesn't hold what resuming needs.", "Resume from a run's own last.pt."
            )
        refuse_differences(saved.training["description"], self.job.description())
        self.model.load_state_dict(saved.state)
        self.optimizer.load_state_dict(saved.training["optimizer"])
        self.scaler.load_state_dict(saved.training["scaler"])
        self.next_epoch = saved.training["next_epoch"]
        self.step_count = saved.training["step_count"]
        self.skipped_steps = saved.training["skipped_steps"]
        self.best_accuracy = saved.training["best_accuracy"]
        self.best_loss = saved.training["best_loss"]
        self.run.truncate_metrics(self.next_epoch)
