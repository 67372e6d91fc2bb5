"""Quantization-aware fine-tuning: the weights of a quantized network are trained where the quantization stands.

Small steps from the network that was calibrated, towards the labels and the logits of the float network that it came
from, so that it stays close to what was validated. BatchNorms are folded by then: their statistics are frozen.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hemf.errors import CheckFailedError
from hemf.folders import LabelledImages
from hemf.images import Preprocess
from train import data, distillation
from train.batches import Division
from train.finetuning_recipe import FineTuning
from train.recipe import Recipe


class Listener(Protocol):
    """What fine-tuning reports while it goes on."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, line: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class FineTuned:
    """What came of it; the network has the weights of the best epoch.

    Args:
        epoch: the best, counted from 1; 0 is the network as it came.
        lines: figures of every epoch, that of epoch 0 first.
        reference: logits (n, classes) of the validation images by the float network.
        before: the same of the network as it came.
        logits: the same at the best epoch.
    """

    epoch: int
    lines: tuple[dict[str, Any], ...]
    reference: NDArray[np.float32]
    before: NDArray[np.float32]
    logits: NDArray[np.float32]


def finetune(
    network: nn.Module,
    teacher: Callable[[Tensor], Tensor],
    training: LabelledImages,
    validation: LabelledImages,
    preprocess: Preprocess,
    recipe: FineTuning,
    listener: Listener,
    device: str = "cpu",
    workers: int = 0,
) -> FineTuned:
    """Train `network` in place; of all epochs the one of the best validation accuracy, then of the least loss, is kept.

    Args:
        network: images to logits.
        teacher: the same of the float network, without gradients.
        training: labelled images.
        validation: others, which choose the epoch.
        preprocess: images to input.
        recipe: how.
        listener: hears of progress.
        device: of network and teacher.
        workers: loader processes.

    Raises:
        CheckFailedError: a loss that is not finite.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate)
    division = Division(len(training), recipe.batch_size)
    steps = division.steps
    dataset = data.TrainingImages(training, preprocess, Recipe(seed=recipe.seed))  # the authors' augmentation
    loader = data.TrainingLoader(dataset, division, workers=workers, pin_memory=device != "cpu")
    judge = _Judge(validation, preprocess, recipe, device, workers)
    reference = judge.logits(teacher)
    best_logits = before = judge.logits(network)
    lines = [{"epoch": 0, **judge.figures(before, reference)}]
    best, best_state = 0, copy.deepcopy(network.state_dict())
    listener.epoch(lines[0])
    for epoch in range(recipe.epochs):
        started = time.monotonic()
        losses = []
        for step, ((images, labels),) in enumerate(loader.epoch(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch * steps + step, recipe.epochs * steps)
            optimizer.zero_grad(set_to_none=True)
            images, labels = images.to(device), labels.to(device)
            logits = network(images)
            loss = _loss(logits, teacher(images), labels, recipe)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise CheckFailedError(
                    f"The loss was not finite in epoch {epoch + 1}, step {step + 1}; nothing was kept.",
                    "Try a lower --learning-rate.",
                )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimizer.step()
            listener.step(epoch + 1, step + 1, steps, losses[-1])
        logits_now = judge.logits(network)
        line = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            **judge.figures(logits_now, reference),
            "seconds": time.monotonic() - started,
        }
        lines.append(line)
        if _rank(line) > _rank(lines[best]):
            best, best_state, best_logits = epoch + 1, copy.deepcopy(network.state_dict()), logits_now
        listener.epoch(line)
    network.load_state_dict(best_state)
    return FineTuned(best, tuple(lines), reference, before, best_logits)


def _loss(logits: Tensor, teacher: Tensor, labels: Tensor, recipe: FineTuning) -> Tensor:
    task = F.cross_entropy(logits, labels)
    return distillation.blend(task, logits, teacher, weight=recipe.distillation_weight, temperature=recipe.temperature)


def _rank(line: dict[str, Any]) -> tuple[float, float]:
    loss = float(line["val_loss"])
    return float(line["val_accuracy"]), -loss if math.isfinite(loss) else -math.inf


@dataclass(frozen=True)
class _Judge:
    """Validation images, and what a network makes of them."""

    images: LabelledImages
    preprocess: Preprocess
    recipe: FineTuning
    device: str
    workers: int

    @torch.no_grad()
    def logits(self, network: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        """(n, classes), of all the images."""
        parts = []
        for batch in data.evaluation_batches(
            self.images, self.preprocess, self.recipe.batch_size, workers=self.workers, pin_memory=self.device != "cpu"
        ):
            parts.append(network(batch.to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)

    def figures(self, logits: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
        """Loss, accuracy, and the share of the images that keep the class of the float network."""
        labels = np.asarray(self.images.labels)
        loss = _loss(*(torch.from_numpy(each) for each in (logits, reference, labels)), self.recipe)
        return {
            "val_loss": float(loss),
            "val_accuracy": float((logits.argmax(1) == labels).mean()),
            "val_agreement": float((logits.argmax(1) == reference.argmax(1)).mean()),
        }
