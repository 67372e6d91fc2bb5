"""Grad-CAM++ (Chattopadhay et al., WACV 2018, arXiv 1710.11063): where in an image the score of a class comes from.

Of the last fused feature map, as in the paper's Figure 6. Tensors in, tensors out: knows nothing of files or pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hemf_export.networks.model import StageFeatures


class Explainable(Protocol):
    """A network in two steps: to feature maps, and from the last fused one to logits. Sees one image at a time."""

    def features(self, images: Tensor) -> StageFeatures: ...

    def classify(self, fused: Tensor) -> Tensor: ...


class HeatMaps(NamedTuple):
    """What was found for n images.

    Args:
        maps: (n, H, W) of the images' size, 0 to 1, each scaled to its own maximum; all zero where nothing speaks for
            the class.
        logits: (n, classes).
        classes: (n,) the class that each map is of.
        cells: height and width of the feature map, which the maps are no finer than.
    """

    maps: Tensor
    logits: Tensor
    classes: Tensor
    cells: tuple[int, int]


def grad_cam_plus_plus(model: Explainable, images: Tensor, classes: Sequence[int] | None = None) -> HeatMaps:
    """Heat maps of the class scores (logits) of images.

    Args:
        model: in evaluation mode, so that no image has a part in another's logits.
        images: (n, 3, H, W), normalized.
        classes: one an image; by default the predicted ones.

    Returns:
        Maps relu(Σ_k w_k A_k) of the feature map's channels A_k, bilinearly enlarged to the images' size. Logits that
        are not finite give maps that are not.
    """
    with torch.no_grad():
        fused = model.features(images).fused[-1]
    with torch.enable_grad():
        fused = fused.detach().requires_grad_()
        logits = model.classify(fused)
        chosen = logits.argmax(1) if classes is None else torch.tensor(classes, device=logits.device)
        scores = logits.gather(1, chosen[:, None])
        (gradients,) = torch.autograd.grad(scores.sum(), fused)
    fused = fused.detach()
    weights = channel_weights(fused, gradients)
    coarse = torch.einsum("nkhw,nk->nhw", fused, weights).relu()
    maps = F.interpolate(coarse[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    peaks = maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return HeatMaps(maps / peaks, logits.detach(), chosen, (fused.shape[2], fused.shape[3]))


def channel_weights(features: Tensor, gradients: Tensor) -> Tensor:
    """w_k = Σ_ij α_ij relu(g_ij), α_ij = g_ij² / (2 g_ij² + g_ij³ Σ_ab A_ab): equations 7 and 19 of Grad-CAM++.

    Equation 19 is equation 10 for Y = exp(S) of a score S that is linear in A around the image: the second and third
    derivatives of Y are then exp(S) g² and exp(S) g³, and exp(S) cancels. The factor exp(S) of relu(∂Y/∂A) is the
    same for all channels and left out, as maps are scaled to their maximum. Only g > 0 counts: α = 1 / (2 + g ΣA).

    The method is made for maps that a ReLU left without negative values. The fused map has some, so a sum below 0 is
    taken for 0: α stays within 0 … 1/2, where the formula would have a pole.

    As HEMF averages the map before its classifier, g is the same at every position, and the weights come close to
    those of Grad-CAM with its positive gradients alone (Lerma and Lucas 2022, arXiv 2205.10838).

    Args:
        features: A, (n, k, H, W).
        gradients: g = ∂S/∂A, of the same shape.

    Returns:
        (n, k), none below 0.
    """
    sums = features.sum((2, 3), keepdim=True).clamp_min(0)
    positive = gradients.relu()
    return (positive / (2 + positive * sums)).sum((2, 3))
