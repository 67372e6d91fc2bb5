"""A model's input, and how an image becomes it: normalized, resized raw pixels, or raw images of one size.

One description for everything that feeds a model: proofs, calibration, benchmarks, predictions, golden images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.images import MAX_PIXELS, PixelArray, Preprocess, decode

_Value = TypeVar("_Value", bound=np.generic)
Layout = Literal["NCHW", "NHWC"]  # order of a batch's axes: images, channels, height, width
MAX_SIDE = 10_000  # of raw images: beyond it the resize matrices are larger than the network
_SHOWN = 5  # images in a message


@dataclass(frozen=True)
class SourceSize:
    """Size of the raw images that a model resizes itself, in pixels.

    Raises:
        UsageError: a side below 1 or beyond `MAX_SIDE`, or more pixels than are decoded.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        sides = self.height, self.width
        if min(sides) < 1 or max(sides) > MAX_SIDE or self.height * self.width > MAX_PIXELS:
            raise UsageError(
                f"A source size is 1 to {MAX_SIDE:,} pixels high and wide and {MAX_PIXELS:,} in all, not {self}."
            )

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> SourceSize:
        """Parse `HxW`, height first.

        Raises:
            UsageError: anything else.
        """
        match = re.fullmatch(r"([0-9]{1,9})[x×]([0-9]{1,9})", text.strip())
        if match is None:
            raise UsageError(f"A source size is HEIGHTxWIDTH in pixels, as 450x600, not {text!r}.")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_list(cls, values: Any) -> SourceSize | None:
        """Read [height, width], as metadata and manifests have it; None for None.

        Raises:
            ValueError: anything else.
        """
        if values is None:
            return None
        if not isinstance(values, list) or len(values) != 2 or not all(type(value) is int for value in values):
            raise ValueError(f"source_size is {values!r}")
        try:
            return cls(*values)
        except UsageError as error:
            raise ValueError(error.message.removesuffix(".")) from error


@dataclass(frozen=True)
class ModelInput:
    """Input of a model, and how an image becomes it.

    An image becomes pixels, (H, W, 3) uint8: the resized crop, or the whole image for a model that resizes itself. The
    network's input is those pixels, or for a model that doesn't take them raw, those pixels normalized.

    Args:
        preprocess: preprocessing of the model.
        raw: whether the model takes pixels, (N, H, W, 3) uint8, or normalized (N, 3, H, W) float32.
        source: size of the raw images that the model resizes itself; None where they are resized beforehand.
        layout: order of the axes, where it is another than that; None for that one.
    """

    preprocess: Preprocess
    raw: bool = False
    source: SourceSize | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.source is not None and not self.raw:
            raise UsageError("A file that resizes images itself takes raw pixels.", "Add `input='uint8'`.")

    @property
    def height(self) -> int:
        """Height of the pixels."""
        return self.preprocess.size if self.source is None else self.source.height

    @property
    def width(self) -> int:
        """Width of the pixels."""
        return self.preprocess.size if self.source is None else self.source.width

    @property
    def channels_last(self) -> bool:
        """Whether the network's input is (N, H, W, 3), not (N, 3, H, W)."""
        return self.raw if self.layout is None else self.layout == "NHWC"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image as the network takes it."""
        height, width = self.height, self.width
        return (height, width, 3) if self.channels_last else (3, height, width)

    @property
    def kept(self) -> tuple[Any, ...]:
        """Key of the pixels: equal where two inputs have the same pixels of every image."""
        own = self.preprocess
        return (own.size, own.mode, own.resize) if self.source is None else (self.source.height, self.source.width)

    def load(self, path: Path) -> PixelArray:
        """Decode an image file into its pixels.

        Raises:
            BadInputError: it doesn't decode, or has another size than the model takes.
        """
        image = decode(path)
        self.require_sizes({path: (image.height, image.width)})
        return self.pixels(image)

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether the model takes an image of this height and width."""
        return self.source is None or size == (self.source.height, self.source.width)

    def require_sizes(self, sizes: Mapping[Path, tuple[int, int]]) -> None:
        """Check that the model takes images of these sizes.

        Args:
            sizes: height and width of each image.

        Raises:
            BadInputError: some have another size; the message names them and the expected size.
        """
        wrong = [f"{path} is {size[0]}x{size[1]}" for path, size in sizes.items() if not self.takes(size)]
        if not wrong:
            return
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise BadInputError(
            f"The file takes images of {self.source} (height x width) alone: {'; '.join(wrong[:_SHOWN])}{more}.",
            f"Take images of {self.source}, or a file that was exported with their `source_size`; one without it takes "
            "any, resized beforehand.",
        )

    def pixels(self, image: Image.Image) -> PixelArray:
        """RGB image, of the right size if the model needs one → (H, W, 3) uint8."""
        return self.preprocess.pixels(image) if self.source is None else np.asarray(image)

    def network(self, pixels: PixelArray) -> NDArray[np.generic]:
        """Pixels (n, H, W, 3) uint8 → the network's input."""
        if self.raw:
            return self.arranged(pixels)
        values = self.preprocess.normalize(pixels)
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if self.channels_last else values

    def arranged(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Order the axes of values (n, H, W, 3) as the network takes them."""
        return values if self.channels_last else np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def resized(self, pixels: PixelArray) -> PixelArray:
        """Pixels (n, H, W, 3) uint8 → (n, size, size, 3): resized by Pillow where the model would do that itself."""
        if self.source is None:
            return pixels
        return np.stack([self.preprocess.pixels(Image.fromarray(one)) for one in pixels])

    def of_pixels(self, pixels: PixelArray, kept: ModelInput) -> NDArray[np.generic]:
        """Pixels made for another input → this network's input.

        Args:
            pixels: (n, H, W, 3) uint8.
            kept: the input that they were made for: of the same preprocessing, and as large as this or whole images.
        """
        assert self.source in (None, kept.source), "what is cut away can't be brought back"
        return self.network(pixels if self.source == kept.source else kept.resized(pixels))
