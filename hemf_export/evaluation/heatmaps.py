"""Heatmaps of which image regions a class score depends on: computed with Grad-CAM++, and drawn.

Grad-CAM++ (Chattopadhay et al., WACV 2018, arXiv 1710.11063) is applied to the last feature map before the classifier,
in HEMF the last fused one, as in the paper's Figure 6. `train.figures.encode` turns the figures into files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError
from hemf_export.images.images import PixelArray
from hemf_export.networks.features import FeatureLayer
from hemf_export.train.figures import blank


class ClassActivationMaps(NamedTuple):
    """Grad-CAM++ maps of n images.

    Args:
        maps: (n, H, W) of the images' size, 0 to 1, each scaled to its own maximum; all zero if nothing supports the
            class.
        logits: (n, classes).
        classes: (n,) the class that each map explains.
        cells: height and width of the feature map, which is the resolution of the maps.
    """

    maps: Tensor
    logits: Tensor
    classes: Tensor
    cells: tuple[int, int]


def grad_cam_plus_plus(
    model: nn.Module, layer: FeatureLayer, images: Tensor, classes: Sequence[int] | None = None
) -> ClassActivationMaps:  # fmt: skip
    """Compute heatmaps of the class scores (logits) of images.

    Args:
        model: in evaluation mode, so that no image affects another's logits.
        layer: its layer whose output is the feature map.
        images: (n, 3, H, W), normalized.
        classes: one per image; by default the predicted classes.

    Returns:
        Maps relu(Σ_k w_k A_k) of the feature map's channels A_k, bilinearly enlarged to the images' size. Logits that
        are not finite give maps that are not.

    Raises:
        BadInputError: the layer's output is no feature map, or the logits don't depend on it.
    """
    outputs: list[Tensor] = []

    def cut(module: nn.Module, inputs: object, output: object) -> Tensor:
        """Let gradients begin at this layer's output."""
        outputs.append(layer.require_tensor(output).detach().requires_grad_())
        return outputs[-1]

    with torch.enable_grad():
        hook = model.get_submodule(layer.name).register_forward_hook(cut)
        try:
            logits = model(images)
        finally:
            hook.remove()
        if len(outputs) != 1:
            raise BadInputError(f"The layer {layer.name} ran {len(outputs)} times.", "Name another feature layer.")
        explained = logits.argmax(1) if classes is None else torch.tensor(classes, device=logits.device)
        scores = logits.gather(1, explained[:, None])
        (slopes,) = torch.autograd.grad(scores.sum(), outputs, allow_unused=True)
    if slopes is None:
        raise BadInputError(f"No logit depends on the layer {layer.name}.", "Name another feature layer.")
    features, gradients = layer.view(outputs[0].detach()), layer.view(slopes)
    weights = channel_weights(features, gradients)
    coarse = torch.einsum("nkhw,nk->nhw", features, weights).relu()
    maps = F.interpolate(coarse[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    peaks = maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return ClassActivationMaps(maps / peaks, logits.detach(), explained, (features.shape[2], features.shape[3]))


def channel_weights(features: Tensor, gradients: Tensor) -> Tensor:
    """w_k = Σ_ij α_ij relu(g_ij), α_ij = g_ij² / (2 g_ij² + g_ij³ Σ_ab A_ab): equations 7 and 19 of Grad-CAM++.

    Equation 19 is equation 10 for Y = exp(S) of a score S that is linear in A around the image: the second and third
    derivatives of Y are then exp(S) g² and exp(S) g³, and exp(S) cancels. The factor exp(S) of relu(∂Y/∂A) is the
    same for all channels and left out, as maps are scaled to their maximum. Only g > 0 counts: α = 1 / (2 + g ΣA).

    The method assumes maps without negative values, as a ReLU leaves them. A fused map of HEMF has some, so a negative
    sum is clamped to 0: α stays within 0 … 1/2, where the formula would have a pole.

    Where a network averages the map before its classifier, as HEMF does, g is the same at every position, and the
    weights come close to those of Grad-CAM with its positive gradients alone (Lerma and Lucas 2022, arXiv 2205.10838).

    Args:
        features: A, (n, k, H, W).
        gradients: g = ∂S/∂A, of the same shape.

    Returns:
        (n, k), none below 0.
    """
    sums = features.sum((2, 3), keepdim=True).clamp_min(0)
    positive = gradients.relu()
    return (positive / (2 + positive * sums)).sum((2, 3))


if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = "inferno"  # perceptually uniform: readable in grey and by colour-blind readers
SHEET_COLUMNS = 4
SHEET_SIZE = 20
_OPACITY = 0.65  # where the map is 1
_LONGEST_LINE = 30  # characters above a picture of a sheet


@dataclass(frozen=True)
class HeatMap:
    """An image and its heatmap, ready to be drawn.

    Args:
        pixels: (H, W, 3), the crop that the network saw.
        values: (H, W), 0 to 1.
        name: name of the image.
        caption: the class and its probability.
    """

    pixels: PixelArray
    values: NDArray[np.float32]
    name: str
    caption: str

    def overlay(self) -> PixelArray:
        """Blend the image in grey with the colours of the map, more opaque where it is larger: (H, W, 3)."""
        import matplotlib

        colours = matplotlib.colormaps[COLOURS](self.values)[..., :3]
        grey = (self.pixels @ np.array([0.299, 0.587, 0.114]))[..., None] / 255  # ITU-R BT.601
        opacity = _OPACITY * self.values[..., None]
        mixed = (1 - opacity) * grey + opacity * colours
        return np.clip(mixed * 255, 0, 255).round().astype(np.uint8)


def panel(heatmap: HeatMap) -> Figure:
    """Draw the image, the map and the overlay side by side, with a colour bar."""
    figure = blank(8.2, 3.1)
    axes = figure.subplots(1, 3)
    pictures: tuple[NDArray[Any], ...] = (heatmap.pixels, heatmap.values, heatmap.overlay())
    shown = [_picture(place, picture) for place, picture in zip(axes, pictures, strict=True)]
    for place, title in zip(axes, ("image", "Grad-CAM++", "overlay"), strict=True):
        place.set_title(title, fontsize=9)
    bar = figure.colorbar(shown[1], ax=axes, fraction=0.02, pad=0.01, label="share of the largest value")
    bar.set_ticks([0, 0.5, 1])
    figure.suptitle(f"{_plain(heatmap.name)}: {_plain(heatmap.caption)}", fontsize=10, parse_math=False)
    return figure


def sheet(heatmaps: Sequence[HeatMap]) -> Figure:
    """Draw image and overlay of up to `SHEET_SIZE` heatmaps, each with its name and caption."""
    columns = min(SHEET_COLUMNS, len(heatmaps))
    rows = -(-len(heatmaps) // columns)
    figure = blank(3.5 * columns, 2.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, heatmap in zip(axes.flat, heatmaps, strict=False):
        height = heatmap.pixels.shape[0]
        gap = np.full((height, max(1, height // 40), 3), 255, np.uint8)
        _picture(place, np.concatenate([heatmap.pixels, gap, heatmap.overlay()], 1))
        lines = "\n".join(_line(text) for text in (heatmap.name, heatmap.caption))
        place.set_title(lines, fontsize=8, parse_math=False)
    return figure


def _picture(axes: Axes, values: NDArray[Any]) -> AxesImage:
    shown = axes.imshow(values, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
    axes.axis("off")
    return shown


def _line(text: str) -> str:
    plain = _plain(text)
    half = (_LONGEST_LINE - 1) // 2
    return plain if len(plain) <= _LONGEST_LINE else f"{plain[:half]}…{plain[-half:]}"


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in text)
