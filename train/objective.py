"""What training lowers: the loss of a network on one micro-batch, a teacher's part included. The one place where it is
made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from hemf_export.train import distillation, losses, mixing
from hemf_export.train.distillation import Teacher
from hemf_export.train.recipe import Recipe


class Judgement(NamedTuple):
    """The mean loss of a micro-batch, and how many of its images got their class; both on the network's device."""

    loss: Tensor
    correct: Tensor


class Objective:
    """The recipe's loss, on images mixed as the recipe says.

    Args:
        recipe: loss, mixing and distillation.
        class_counts: training images of each class.
        teacher: sees the same images, mixed; None for the recipe's loss alone.
    """

    def __init__(self, recipe: Recipe, class_counts: Sequence[int], teacher: Teacher | None = None) -> None:
        self.teacher = teacher
        self.recipe, self.classes = recipe, len(class_counts)
        self.loss = losses.make(recipe, class_counts)
        self.mixes = recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, drawing: Sequence[int]) -> Judgement:
        """Run the network and judge it.

        Args:
            network: images → logits, in training mode.
            images: (n, 3, size, size), normalized.
            labels: (n,) int64.
            drawing: numbers that make this micro-batch's random draws its own: epoch, step, piece.
        """
        targets = labels
        if self.mixes:
            rng = np.random.default_rng([self.recipe.seed, *drawing])
            images, targets = mixing.mix(
                images, labels, self.classes, rng,
                mixup_alpha=self.recipe.mixup_alpha, cutmix_alpha=self.recipe.cutmix_alpha,
            )  # fmt: skip
        logits = network(images)
        loss = self.loss(logits, targets)
        if self.teacher is not None:
            weight, temperature = self.recipe.distillation_weight, self.recipe.temperature
            loss = distillation.blend(loss, logits, self.teacher(images), weight=weight, temperature=temperature)
        return Judgement(loss, (logits.detach().argmax(1) == labels).sum())
