"""The training objective: the recipe's loss of a micro-batch, with MixUp or CutMix and distillation if they are on.

Losses shape the training alone: the exported network and every comparison use the logits as they are. Each loss takes
logits (n, classes) and either labels (n,) int64 or target probabilities (n, classes), as MixUp and CutMix make them,
and returns the mean over the n images, in float32. Where the source defines a loss for labels only, probabilities
weight the sum over the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError
from hemf_export.train import augmentation, distillation
from hemf_export.train.distillation import Teacher
from hemf_export.train.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


def make(recipe: Recipe, class_counts: Sequence[int]) -> Loss:
    """Make the loss function of a recipe.

    Args:
        recipe: its `loss`, `label_smoothing` and the parameter of that loss are used.
        class_counts: training images of each class, in the order of the logits.

    Returns:
        A function (logits, labels or probabilities) → scalar, on the device of the logits.

    Raises:
        BadInputError: a class has no images, for a loss that divides by their number.
    """
    smoothing = recipe.label_smoothing
    if recipe.loss == "cross-entropy":
        return partial(cross_entropy, smoothing=smoothing)
    if recipe.loss == "focal":
        return partial(focal, gamma=recipe.focal_gamma, smoothing=smoothing)
    if min(class_counts) < 1:
        raise BadInputError(f"Class number {list(class_counts).index(0)} has no training image to balance it by.")
    if recipe.loss == "class-balanced":
        return partial(
            class_balanced, weights=effective_weights(class_counts, recipe.class_balanced_beta), smoothing=smoothing
        )
    shift = recipe.logit_adjustment * log_priors(class_counts)
    return partial(logit_adjusted, shift=shift, smoothing=smoothing)


def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """-Σ t log softmax(logits), the targets smoothed (Szegedy et al. 2016, section 7): t (1 - ε) + ε / classes."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def effective_weights(class_counts: Sequence[int], beta: float) -> Tensor:
    """Class weights (1 - β) / (1 - β^n), scaled to sum to the number of classes.

    All are 1 for β = 0, and they approach 1 / n, up to scale, as β goes to 1. Cui et al. 2019, "Class-Balanced Loss
    Based on Effective Number of Samples", equation 8.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = (1 - beta) / (1 - beta**counts)
    return (weights * len(weights) / weights.sum()).float()


def class_balanced(logits: Tensor, targets: Tensor, *, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with class weights, divided by the number of images as in Cui et al. 2019, not by their weights."""
    soft = probabilities(targets, logits.shape[1])
    return F.cross_entropy(logits.float(), soft, weight=weights.to(logits.device), label_smoothing=smoothing)


def focal(logits: Tensor, targets: Tensor, *, gamma: float, smoothing: float = 0.0) -> Tensor:
    """-Σ t (1 - p)^γ log p, p = softmax(logits): less weight on images that are already classified well.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, without their α: other options balance the
    classes here.
    """
    soft = probabilities(targets, logits.shape[1])
    soft = soft * (1 - smoothing) + smoothing / logits.shape[1]
    logs = torch.log_softmax(logits.float(), 1)
    # 1 - p, without cancellation; clamped above 0, where the gradient of the power may be infinite.
    wrong = (-torch.expm1(logs)).clamp_min(torch.finfo(logs.dtype).tiny)
    return -(soft * wrong**gamma * logs).sum(1).mean()


def log_priors(class_counts: Sequence[int]) -> Tensor:
    """Logarithm of each class's share of the training images, (classes,) float32."""
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return (counts / counts.sum()).log().float()


def logit_adjusted(logits: Tensor, targets: Tensor, *, shift: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits + τ log(prior), so that the logits alone optimize the balanced accuracy.

    Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10; `shift` is τ log(prior).
    """
    return F.cross_entropy(logits.float() + shift.to(logits.device), targets, label_smoothing=smoothing)


def probabilities(targets: Tensor, classes: int) -> Tensor:
    """Convert labels (n,) to one-hot float32 (n, classes); return probabilities unchanged."""
    return targets if targets.ndim == 2 else F.one_hot(targets, classes).float()


class MicroBatchLoss(NamedTuple):
    """The mean loss of a micro-batch and the number of its correct predictions, as scalars on the network's device."""

    loss: Tensor
    correct: Tensor


class Objective:
    """The function that training minimizes: the recipe's loss on mixed images, blended with distillation.

    Args:
        recipe: loss, mixing and distillation.
        class_counts: training images of each class.
        teacher: gets the same mixed images; None for no distillation.
    """

    def __init__(self, recipe: Recipe, class_counts: Sequence[int], teacher: Teacher | None = None) -> None:
        self.teacher = teacher
        self.recipe, self.classes = recipe, len(class_counts)
        self.loss = make(recipe, class_counts)
        self.mixes = recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, drawing: Sequence[int]) -> MicroBatchLoss:
        """Run the network on a micro-batch and compute its loss.

        Args:
            network: images → logits, in training mode, or a tuple of the logits of several classifiers: the loss is the
                mean over them, the prediction their sum.
            images: (n, 3, size, size), normalized.
            labels: (n,) int64.
            drawing: seeds this micro-batch's random draws, beside the recipe's seed: epoch, step, piece.
        """
        targets = labels
        if self.mixes:
            rng = np.random.default_rng([self.recipe.seed, *drawing])
            images, targets = augmentation.mix(
                images, labels, self.classes, rng,
                mixup_alpha=self.recipe.mixup_alpha, cutmix_alpha=self.recipe.cutmix_alpha,
            )  # fmt: skip
        output: Tensor | tuple[Tensor, ...] = network(images)
        heads = output if isinstance(output, tuple) else (output,)
        losses = [self.loss(logits, targets) for logits in heads]
        if self.teacher is not None:
            taught = self.teacher(images)
            weight, temperature = self.recipe.distillation_weight, self.recipe.temperature
            losses = [
                distillation.blend(loss, logits, taught, weight=weight, temperature=temperature)
                for loss, logits in zip(losses, heads, strict=True)
            ]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        logits = sum(heads[1:], heads[0]).detach()
        return MicroBatchLoss(loss, (logits.argmax(1) == labels).sum())
