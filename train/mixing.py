"""MixUp and CutMix: pairs of a batch's images and of their labels, mixed in the same proportion."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def mix(
    images: Tensor, labels: Tensor, classes: int, rng: np.random.Generator, *, mixup_alpha: float, cutmix_alpha: float
) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with another one of it, or with itself.

    MixUp (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"): λ x + (1 - λ) x'. CutMix (Yun et al. 2019,
    "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"): a box of x' in x, λ then
    the share of x that is left. λ is drawn from Beta(α, α), once a batch.

    Args:
        images: (n, 3, h, w), on any device; left as they are.
        labels: (n,) int64.
        classes: their number.
        rng: of this batch.
        mixup_alpha: α of MixUp; 0 for none.
        cutmix_alpha: α of CutMix; 0 for none. With both, one of the two is drawn.

    Returns:
        Images, and targets (n, classes) float32 whose rows sum to 1.
    """
    targets = F.one_hot(labels, classes).float()
    if not mixup_alpha and not cutmix_alpha:
        return images, targets
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or rng.random() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if cut:
        left, top, right, bottom = box(images.shape[3], images.shape[2], share, rng)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        # The box may reach over the edge: the labels go by what was pasted.
        share = 1 - (right - left) * (bottom - top) / (images.shape[2] * images.shape[3])
    else:
        mixed = images * share + images[partner] * (1 - share)
    return mixed, targets * share + targets[partner] * (1 - share)


def box(width: int, height: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of 1 - `share` of the area, its middle anywhere, cut at the edges."""
    side = math.sqrt(1 - share)
    half_width, half_height = round(width * side) // 2, round(height * side) // 2
    column, row = int(rng.integers(width)), int(rng.integers(height))
    return (
        max(column - half_width, 0),
        max(row - half_height, 0),
        min(column + half_width, width),
        min(row + half_height, height),
    )
