"""Heat maps as people look at them: an image, its map and both together; and sheets of many.

Knows nothing of networks: pixels and maps come in, matplotlib figures go out (`train.figures.encode` makes files).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemf_export.images.images import PixelArray
from hemf_export.train.figures import blank

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = "inferno"  # lightness rises evenly with the value: read the same in grey and by the colour-blind
SHEET_COLUMNS = 4
SHEET_SIZE = 20
_OPACITY = 0.65  # where the map is 1
_LONGEST_LINE = 30  # signs under a picture of a sheet


@dataclass(frozen=True)
class HeatMap:
    """A map of one image.

    Args:
        pixels: (H, W, 3), the crop that the network saw.
        values: (H, W), 0 to 1.
        name: of the image.
        caption: the class and its probability.
    """

    pixels: PixelArray
    values: NDArray[np.float32]
    name: str
    caption: str

    def overlay(self) -> PixelArray:
        """(H, W, 3): the image in grey under the colours of the map, the denser the larger its value."""
        import matplotlib

        colours = matplotlib.colormaps[COLOURS](self.values)[..., :3]
        grey = (self.pixels @ np.array([0.299, 0.587, 0.114]))[..., None] / 255  # ITU-R BT.601
        opacity = _OPACITY * self.values[..., None]
        mixed = (1 - opacity) * grey + opacity * colours
        return np.clip(mixed * 255, 0, 255).round().astype(np.uint8)


def panel(drawn: HeatMap) -> Figure:
    """The image, the map and both together, side by side, with a scale."""
    figure = blank(8.2, 3.1)
    axes = figure.subplots(1, 3)
    pictures: tuple[NDArray[Any], ...] = (drawn.pixels, drawn.values, drawn.overlay())
    shown = [_picture(place, picture) for place, picture in zip(axes, pictures, strict=True)]
    for place, title in zip(axes, ("image", "Grad-CAM++", "overlay"), strict=True):
        place.set_title(title, fontsize=9)
    bar = figure.colorbar(shown[1], ax=axes, fraction=0.02, pad=0.01, label="share of the largest value")
    bar.set_ticks([0, 0.5, 1])
    figure.suptitle(f"{_plain(drawn.name)}: {_plain(drawn.caption)}", fontsize=10, parse_math=False)
    return figure


def sheet(drawn: Sequence[HeatMap]) -> Figure:
    """Image and overlay of up to `SHEET_SIZE` maps, each with its name and caption."""
    columns = min(SHEET_COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = blank(3.5 * columns, 2.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, one in zip(axes.flat, drawn, strict=False):
        height = one.pixels.shape[0]
        gap = np.full((height, max(1, height // 40), 3), 255, np.uint8)
        _picture(place, np.concatenate([one.pixels, gap, one.overlay()], 1))
        lines = "\n".join(_line(text) for text in (one.name, one.caption))
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
    return "".join(sign if sign.isprintable() else "·" for sign in text)
