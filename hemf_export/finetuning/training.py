"""The training loop of quantization-aware fine-tuning: weights are trained with the quantization in place.

Training starts from the calibrated network and minimizes cross-entropy with the labels and the divergence from the
float network's logits, so that the result stays close to what was validated. BatchNorms are folded already, so their
statistics are frozen.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.files import gpu_memory
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.finetuning.recipe import FineTuning
from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import Preprocess
from hemf_export.metrics.comparison import compare
from hemf_export.train import data, distillation, loader_processes
from hemf_export.train.float32 import exact_float32
from hemf_export.train.recipe import Recipe
from hemf_export.train.sampling import Division


@dataclass(frozen=True)
class TunedEpoch:
    """Event: an epoch of fine-tuning has ended.

    Args:
        number: the epoch, counted from 1; 0 is the calibrated network before training.
        epochs: epochs of the whole run.
        metrics: mean training loss (from epoch 1), and loss, accuracy and agreement on the validation images.
        images: number of validation images.
    """

    number: int
    epochs: int
    metrics: dict[str, Any]
    images: int


@dataclass(frozen=True)
class FineTuned:
    """The result of fine-tuning; the network has the weights of the best epoch.

    Args:
        epoch: the best epoch, counted from 1; 0 is the calibrated network before training.
        lines: metrics of every epoch, starting with epoch 0.
        reference: the float network's logits (n, classes) on the validation images.
        before: the calibrated network's logits, likewise.
        logits: the logits at the best epoch, likewise.
    """

    epoch: int
    lines: tuple[dict[str, Any], ...]
    reference: NDArray[np.float32]
    before: NDArray[np.float32]
    logits: NDArray[np.float32]


@exact_float32()
@loader_processes.translated()
def finetune(
    network: nn.Module,
    teacher: Callable[[Tensor], Tensor],
    training: LabelledImages,
    validation: LabelledImages,
    preprocess: Preprocess,
    recipe: FineTuning,
    progress: Progress = SILENT,
    device: str = "cpu",
    workers: int = 0,
) -> FineTuned:
    """Train `network` in place, and keep the epoch with the best validation accuracy (at a tie, the lowest loss).

    Args:
        network: maps normalized images (n, 3, size, size) to logits (n, classes).
        teacher: the float network likewise, without gradients.
        training: labelled images to train on.
        validation: other labelled images, which select the epoch.
        preprocess: how images become input tensors.
        recipe: hyperparameters.
        progress: receives the progress, and each `TunedEpoch` as an event.
        device: device of network and teacher.
        workers: loader processes.

    Raises:
        BadInputError: there are fewer than two training images.
        CheckFailedError: a loss, a gradient or logits are not finite, before or during training.
        HemfError: the GPU's memory doesn't hold a batch.
    """
    division = Division(len(training), recipe.batch_size)
    if not division.steps:
        raise BadInputError(f"{training.root} has {len(training)} image to train on; at least 2 are needed.")
    dataset = data.TrainingImages(training, preprocess, Recipe(seed=recipe.seed))  # the authors' augmentation
    loader = data.TrainingLoader(dataset, division, workers=workers, pin_memory=device != "cpu")
    validator = _Validation(validation, preprocess, recipe, device, workers)
    with progress.task("Evaluating both networks"):
        reference = validator.logits(teacher, "of the float network")
        logits = before = validator.logits(network, "of the quantized network")
    lines = [{"epoch": 0, **validator.metrics(before, reference)}]
    progress.event(TunedEpoch(0, recipe.epochs, lines[0], len(validation)))
    best, kept, kept_logits = 0, copy.deepcopy(network.state_dict()), before
    tuning = _Tuning(network, teacher, recipe, division.steps, progress, device)
    try:
        with progress.task("Fine-tuning", recipe.epochs, "epochs") as task:
            for epoch in range(recipe.epochs):
                started = time.monotonic()
                loss = tuning.epoch(epoch, loader)
                logits = validator.logits(network, f"after epoch {epoch + 1}")
                metrics = validator.metrics(logits, reference)
                lines.append({"epoch": epoch + 1, "loss": loss, **metrics, "seconds": time.monotonic() - started})
                if _rank(lines[-1]) > _rank(lines[best]):
                    best, kept, kept_logits = epoch + 1, copy.deepcopy(network.state_dict()), logits
                progress.event(TunedEpoch(epoch + 1, recipe.epochs, lines[-1], len(validation)))
                task.advance()
    finally:
        loader.close()
    network.load_state_dict(kept)
    return FineTuned(best, tuple(lines), reference, before, kept_logits)


class _Tuning:
    """Adam on a network, with the learning rates of the recipe."""

    def __init__(
        self, network: nn.Module, teacher: Callable[[Tensor], Tensor], recipe: FineTuning, steps: int,
        progress: Progress, device: str,
    ) -> None:  # fmt: skip
        self.network, self.teacher, self.recipe, self.steps = network, teacher, recipe, steps
        self.progress, self.device = progress, device
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=recipe.learning_rate)

    def epoch(self, epoch: int, loader: data.TrainingLoader) -> float:
        """Train one epoch and return the mean loss of its steps."""
        losses = []
        with self.progress.task(f"Epoch {epoch + 1}/{self.recipe.epochs}", self.steps, "steps") as task:
            for step, ((images, labels),) in enumerate(loader.epoch(epoch)):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.recipe.rate(epoch * self.steps + step, self.recipe.epochs * self.steps)
                with _batch_in_memory(len(labels)):
                    loss, norm = self._step(images.to(self.device), labels.to(self.device))
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise CheckFailedError(
                        f"The loss or its gradient was not finite in epoch {epoch + 1}, step {step + 1}; "
                        "nothing was kept.",
                        "Try a lower `learning_rate`.",
                    )
                losses.append(loss)
                task.advance()
        return float(np.mean(losses))

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Take one step; return its loss and the norm of its gradients, which the caller checks to be finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = _loss(self.network(images), self.teacher(images), labels, self.recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        self.optimizer.step()
        return float(loss.detach()), float(norm)


def _batch_in_memory(images: int) -> AbstractContextManager[None]:
    return gpu_memory.needed(f"a batch of {images} images", f"Try `batch_size={max(2, images // 2)}`.")


def _loss(logits: Tensor, teacher: Tensor, labels: Tensor, recipe: FineTuning) -> Tensor:
    task = F.cross_entropy(logits, labels)
    return distillation.blend(task, logits, teacher, weight=recipe.distillation_weight, temperature=recipe.temperature)


def _rank(line: dict[str, Any]) -> tuple[float, float]:
    return float(line["val_accuracy"]), -float(line["val_loss"])


@dataclass(frozen=True)
class _Validation:
    """Evaluates networks on the validation images."""

    images: LabelledImages
    preprocess: Preprocess
    recipe: FineTuning
    device: str
    workers: int

    @torch.no_grad()
    def logits(self, network: Callable[[Tensor], Tensor], whose: str) -> NDArray[np.float32]:
        """Compute the logits (n, classes) of all validation images.

        Raises:
            CheckFailedError: some are not finite; the message names `whose`.
            HemfError: the GPU's memory doesn't hold a batch.
        """
        parts = []
        for batch in data.evaluation_batches(
            self.images, self.preprocess, self.recipe.batch_size, workers=self.workers, pin_memory=self.device != "cpu"
        ):
            with _batch_in_memory(len(batch)):
                parts.append(network(batch.to(self.device)).float().cpu().numpy())
        logits = np.concatenate(parts)
        if bad := int((~np.isfinite(logits).all(1)).sum()):
            hint = "Try a lower `learning_rate`." if whose.startswith("after") else "Its activations overflow."
            raise CheckFailedError(
                f"The logits {whose} of {bad} of {len(logits)} validation images are not finite; nothing was kept.",
                hint,
            )
        return logits

    def metrics(self, logits: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
        """Compute loss, accuracy and agreement, the share of images with the float network's class."""
        labels = np.asarray(self.images.labels)
        own, teacher = torch.from_numpy(logits), torch.from_numpy(reference)
        loss = _loss(own, teacher, torch.from_numpy(labels), self.recipe)
        compared = compare(logits, reference, labels)
        assert compared.accuracy is not None, "the images have labels"
        return {
            "val_loss": float(loss),
            "val_accuracy": compared.accuracy,
            "val_agreement": compared.agreement,
        }
