"""Losses of a batch, by the recipe's names. At a proof or in a product the logits are taken as they are: a loss shapes
the training alone.

Each takes logits (n, classes) and either labels (n,) int64 or target probabilities (n, classes), as MixUp and CutMix
make them, and gives the mean over the n images, in float32. What is defined for labels in its source is extended to
probabilities by the sum over the classes, weighted by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError
from hemf_export.train.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


def make(recipe: Recipe, class_counts: Sequence[int]) -> Loss:
    """The loss of a recipe.

    Args:
        recipe: `loss`, `label_smoothing` and the loss's own parameter.
        class_counts: training images of each class, in the order of the logits.

    Returns:
        (logits, labels or probabilities) → scalar, on the device of the logits.

    Raises:
        BadInputError: a class without an image, for a loss that divides by its number.
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
    """(1 - β) / (1 - β^n) of each class, scaled to a sum of the number of classes: 1 for all where β is 0, and near
    to 1 / n as β goes to 1. Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", equation 8.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = (1 - beta) / (1 - beta**counts)
    return (weights * len(weights) / weights.sum()).float()


def class_balanced(logits: Tensor, targets: Tensor, *, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with a weight for each class; divided by the images, as Cui et al. 2019, not by their weights."""
    soft = probabilities(targets, logits.shape[1])
    return F.cross_entropy(logits.float(), soft, weight=weights.to(logits.device), label_smoothing=smoothing)


def focal(logits: Tensor, targets: Tensor, *, gamma: float, smoothing: float = 0.0) -> Tensor:
    """-Σ t (1 - p)^γ log p, p = softmax(logits): less weight on images that are right already.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, without their α: classes are balanced by
    other means here.
    """
    soft = probabilities(targets, logits.shape[1])
    soft = soft * (1 - smoothing) + smoothing / logits.shape[1]
    logs = torch.log_softmax(logits.float(), 1)
    # 1 - p, without cancellation; kept from 0, where the power's slope may be infinite.
    wrong = (-torch.expm1(logs)).clamp_min(torch.finfo(logs.dtype).tiny)
    return -(soft * wrong**gamma * logs).sum(1).mean()


def log_priors(class_counts: Sequence[int]) -> Tensor:
    """Logarithm of each class's share of the training images."""
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return (counts / counts.sum()).log().float()


def logit_adjusted(logits: Tensor, targets: Tensor, *, shift: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits + τ log(prior): the logits alone then aim at the balanced accuracy.

    Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10; `shift` is τ log(prior).
    """
    return F.cross_entropy(logits.float() + shift.to(logits.device), targets, label_smoothing=smoothing)


def probabilities(targets: Tensor, classes: int) -> Tensor:
    """Labels (n,) as float32 probabilities (n, classes); probabilities as they are."""
    return targets if targets.ndim == 2 else F.one_hot(targets, classes).float()
