"""How an image becomes what a file takes: normalized, raw and resized, or raw as it is, of one size.

One description for everything that feeds a file: proofs, calibration, benchmarks, predictions, golden images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.images import MAX_PIXELS, PixelArray, Preprocess, decode

MAX_SIDE = 10_000  # of raw images: beyond it the matrices of the resize outgrow the network
_SHOWN = 5  # images in a message


@dataclass(frozen=True)
class SourceSize:
    """The size of the raw images that a file resizes itself, in pixels.

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
        """`HxW`, height first.

        Raises:
            UsageError: anything else.
        """
        found = re.fullmatch(r"([0-9]{1,9})[x×]([0-9]{1,9})", text.strip())
        if found is None:
            raise UsageError(f"A source size is HEIGHTxWIDTH in pixels, as 450x600, not {text!r}.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def from_list(cls, values: Any) -> SourceSize | None:
        """[height, width], as metadata and manifests have it; None for None.

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
    """What a file takes, and how it is made of an image.

    Pixels, (H, W, 3) uint8, are what is kept of an image: the resized crop, or of a file that resizes itself the whole
    image. What the network is fed is those, or for a file that doesn't take them raw, those normalized.

    Args:
        preprocess: of the model.
        raw: whether the file takes pixels, (N, H, W, 3) uint8, or normalized (N, 3, H, W) float32.
        source: the size of the raw images that the file resizes itself; None where images come to it resized.
    """

    preprocess: Preprocess
    raw: bool = False
    source: SourceSize | None = None

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
    def kept(self) -> tuple[Any, ...]:
        """What the pixels depend on: alike where two descriptions keep the same of every image."""
        own = self.preprocess
        return (own.size, own.mode, own.resize) if self.source is None else (self.source.height, self.source.width)

    def load(self, path: Path) -> PixelArray:
        """The pixels of an image file.

        Raises:
            BadInputError: it doesn't decode, or is of another size than the file takes.
        """
        image = decode(path)
        self.require_sizes({path: (image.height, image.width)})
        return self.pixels(image)

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether the file takes an image of this height and width."""
        return self.source is None or size == (self.source.height, self.source.width)

    def require_sizes(self, sizes: Mapping[Path, tuple[int, int]]) -> None:
        """Refuse images that the file can't take.

        Args:
            sizes: height and width of each image.

        Raises:
            BadInputError: some are of another size; found and expected are told.
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
        """RGB image, of the right size if the file needs one → (H, W, 3) uint8."""
        return self.preprocess.pixels(image) if self.source is None else np.asarray(image)

    def network(self, pixels: PixelArray) -> NDArray[np.generic]:
        """Pixels (n, H, W, 3) uint8 → what the file is fed."""
        return pixels if self.raw else self.preprocess.normalize(pixels)

    def resized(self, pixels: PixelArray) -> PixelArray:
        """Pixels (n, H, W, 3) uint8 → (n, size, size, 3): resized by Pillow, where the file does that itself."""
        if self.source is None:
            return pixels
        return np.stack([self.preprocess.pixels(Image.fromarray(one)) for one in pixels])

    def of_pixels(self, pixels: PixelArray, kept: ModelInput) -> NDArray[np.generic]:
        """Pixels that another description kept of images → what this file is fed.

        Args:
            pixels: (n, H, W, 3) uint8.
            kept: of the same preprocessing, and as large as this or whole images.
        """
        assert self.source in (None, kept.source), "what is cut away can't be brought back"
        return self.network(pixels if self.source == kept.source else kept.resized(pixels))
