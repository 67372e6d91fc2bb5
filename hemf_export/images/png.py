"""Decode PNG files whose sBIT chunk says that samples use fewer bits than are stored.

By the PNG specification sBIT states the bits that samples had before they were scaled up to the depth of the file.
Images from DICOM files and scanners mostly aren't scaled: 12 bits are stored in 16 unchanged, a 16th as bright. The
samples themselves tell which it is:

- A sample needs more bits than are stated: they are scaled. The file is decoded as it would be without the chunk.
- None does, and a sample needs all of the stated bits, or has a bit set that scaling would have left zero: they are
  unscaled, and the largest number of the stated bits is white.
- Neither: a scaled picture that is almost black.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from hemf_export.images.grey_levels import PixelArray, Samples, eight_bits

_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; of a palette those of its colours
_PALETTE, _GREY_ALPHA = 3, 4
# 16-bit colours reach Pillow's modes as bytes: which layout gives the high bytes, and which the low ones.
_BYTES = {2: ("RGB;16B", "RGB;16L"), 6: ("RGBA;16B", "RGBA;16L")}


def decode(path: Path, image: Image.Image) -> Image.Image:
    """Decode an opened file with true grey levels, not rotated yet; palettes and alpha are as Pillow has them."""
    header = _header(path)
    image.load()
    if header is None:
        return image
    depth, colour, used = header
    samples = _samples(path, image, depth, colour)
    colours = 1 if colour in (0, _GREY_ALPHA) else 3
    if not _unscaled(samples[..., :colours], depth, used[:colours]):
        return image
    return _like(image, eight_bits(samples[..., :colours], used[:colours]))


def _header(path: Path) -> tuple[int, int, tuple[int, ...]] | None:
    """Read depth, colour type and the bits used by each channel; None unless sBIT says that they are fewer.

    An invalid chunk is ignored, as by libpng.
    """
    with open(path, "rb") as file:
        file.seek(8)
        depth = colour = 0
        while len(start := file.read(8)) == 8:
            (length,) = struct.unpack(">I", start[:4])
            if start[4:] in (b"IDAT", b"IEND"):
                return None
            if start[4:] == b"IHDR":
                depth, colour = struct.unpack_from("BB", file.read(length), 8)
                file.seek(4, 1)
            elif start[4:] == b"sBIT":
                if length != _CHANNELS.get(colour):
                    return None
                used = tuple(file.read(length))
                stored = 8 if colour == _PALETTE else depth
                known = len(used) == length and all(0 < bits <= stored for bits in used)
                return (stored, colour, used) if known and min(used) < stored else None
            else:
                file.seek(length + 4, 1)
    return None


def _samples(path: Path, image: Image.Image, depth: int, colour: int) -> Samples:
    """Read samples (height, width, channels) as they are in the file; for a palette, its colours."""
    if colour == _PALETTE:
        return np.asarray(image.convert("RGBA"))[..., :3].astype(np.uint16)
    if colour == 0:
        grey: Samples = np.asarray(image if depth == 16 else image.convert("L")).astype(np.uint16)[..., None]
        if depth < 8:
            grey //= np.uint16(255 // ((1 << depth) - 1))  # Pillow has scaled them up
        return grey
    if depth == 8:
        return np.asarray(image).astype(np.uint16)
    if colour == _GREY_ALPHA:  # grey and alpha of two bytes each lie as four bytes do
        four: Samples = _loaded(path, "RGBA").astype(np.uint16)
        return np.asarray(four[..., ::2] << 8 | four[..., 1::2], np.uint16)
    high, low = (_loaded(path, layout).astype(np.uint16) for layout in _BYTES[colour])
    return np.asarray(high << 8 | low, np.uint16)


def _loaded(path: Path, layout: str) -> PixelArray:
    """Read the file again with its samples reinterpreted as another layout of as many bytes."""
    with PngImagePlugin.PngImageFile(path) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        image.load()
        return np.asarray(image)


def _unscaled(samples: Samples, depth: int, used: Sequence[int]) -> bool:
    """Whether the samples are unscaled; see the module."""
    unscaled = False
    for channel, bits in enumerate(used):
        seen = int(np.bitwise_or.reduce(samples[..., channel], axis=None))
        if seen >> bits:
            return False
        empty = (1 << (depth - bits)) - 1
        unscaled |= bits < depth and bool(seen >> (bits - 1) or seen & empty)
    return unscaled


def _like(image: Image.Image, pixels: PixelArray) -> Image.Image:
    """Make an image of pixels (height, width, channels), with the orientation of `image`."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.info = image.info
    if orientation := image.getexif().get(0x0112):
        picture.getexif()[0x0112] = orientation
    return picture
