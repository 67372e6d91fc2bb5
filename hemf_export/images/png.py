"""PNG files → RGB, with samples whose sBIT chunk says that fewer bits are used than are stored.

By the PNG specification sBIT says how many bits the samples had before they were scaled up to the depth of the file.
What comes out of DICOM files and of scanners mostly isn't scaled: 12 bits lie in 16 as they are, a 16th as bright. The
samples themselves tell which it is:

- One needs more bits than are stated: they are scaled up. The file is decoded as it would be without the chunk.
- None does, and one needs all of the stated bits, or has a bit set that scaling up would have left empty: they are as
  the sensor gave them, and the largest number of the stated bits is white.
- None of that: a picture that is almost black, scaled up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from hemf_export.images.sample_depth import PixelArray, Samples, eight_bits

_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; of a palette those of its colours
_PALETTE, _GREY_ALPHA = 3, 4
# 16-bit colours reach Pillow's modes as bytes: which layout gives the high bytes, and which the low ones.
_BYTES = {2: ("RGB;16B", "RGB;16L"), 6: ("RGBA;16B", "RGBA;16L")}


def decode(path: Path, image: Image.Image) -> Image.Image:
    """The picture of an opened file, not upright yet, with true grey levels; of palettes and alpha as Pillow has it."""
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
    """Depth, colour type and the bits used of each channel, where sBIT says that they are fewer; else None.

    A chunk that can't be true counts as none, as libpng has it.
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
    """Samples (height, width, channels) as the file has them; of a palette its colours."""
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
    """The file once more, with its samples taken for another layout of as many bytes."""
    with PngImagePlugin.PngImageFile(path) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        image.load()
        return np.asarray(image)


def _unscaled(samples: Samples, depth: int, used: Sequence[int]) -> bool:
    """Whether the samples of all channels are as the sensor gave them; see above."""
    found = False
    for channel, bits in enumerate(used):
        seen = int(np.bitwise_or.reduce(samples[..., channel], axis=None))
        if seen >> bits:
            return False
        empty = (1 << (depth - bits)) - 1
        found |= bits < depth and bool(seen >> (bits - 1) or seen & empty)
    return found


def _like(image: Image.Image, pixels: PixelArray) -> Image.Image:
    """Pixels (height, width, channels) with what `image` knows of its orientation."""
    made = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    made.info = image.info
    if orientation := image.getexif().get(0x0112):
        made.getexif()[0x0112] = orientation
    return made
