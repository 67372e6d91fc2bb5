"""Grey levels: samples of other depths are scaled to 8 bits, and sets that use little of that range are noticed.

Cameras, detectors and scanners give 10, 12 or 14 bits, and files store 16. PNG's sBIT chunk and TIFF's MaxSampleValue
say how many are used (see `images.png` and `images.tiff`). Where a file says nothing, 12 bits in 16 come out almost
black, and a network learns from what is left. The C++ library decodes by the same rules.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PixelArray = NDArray[np.uint8]
Samples = NDArray[np.uint16]

BITS = "bits"  # in an image's `info`: how many bits its file stores a sample
_LEVELS = 255
_DARK = 32  # 8-bit images are noticed up to this highest level: an eighth of the range
_NARROW = 64  # images of more bits up to this many levels: a quarter, as they are rarely meant to be so dark


def eight_bits(samples: Samples, bits: Sequence[int]) -> PixelArray:
    """Scale samples (height, width, channels) of `bits` bits a channel to 8 bits, rounded. No value is halfway."""
    pixels = np.empty(samples.shape, np.uint8)
    for channel, count in enumerate(bits):
        white = (1 << count) - 1
        levels = (np.arange(white + 1, dtype=np.uint32) * 510 + white) // (2 * white)
        pixels[..., channel] = levels.astype(np.uint8)[samples[..., channel]]
    return pixels


class GreyLevels:
    """Lowest and highest level over a set of images, by the bits a sample of their files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[int, int, int]] = {}

    def look(self, image: Image.Image) -> None:
        """Add a decoded image; thread-safe."""
        extrema = [pair for pair in image.getextrema() if isinstance(pair, tuple)]
        low, high = int(min(pair[0] for pair in extrema)), int(max(pair[1] for pair in extrema))
        bits = int(image.info.get(BITS, 8))
        with self._lock:
            count, lowest, highest = self._seen.get(bits, (0, low, high))
            self._seen[bits] = count + 1, min(low, lowest), max(high, highest)

    @property
    def suspicious(self) -> bool:
        """Whether there is a note so far."""
        return bool(self.notes(""))

    def notes(self, where: str) -> list[str]:
        """Notes for the user: one for each depth whose images all use a small part of the range."""
        return [
            _note(where, bits, count, low, high)
            for bits, (count, low, high) in sorted(self._seen.items())
            if _small(bits, low, high)
        ]


def _small(bits: int, low: int, high: int) -> bool:
    return high <= _DARK if bits <= 8 else high - low <= _NARROW


def _note(where: str, bits: int, count: int, low: int, high: int) -> str:
    some, have = ("The image", "has") if count == 1 else (f"The {count} images", "have")
    levels = f"no higher grey level than {high}" if low == 0 else f"grey levels of {low} to {high} alone"
    step = ((1 << bits) - 1) // _LEVELS or 1  # of the file, for a level
    used = (max(high - low, 1) * step - step // 2).bit_length()
    return (
        f"{some} of {bits} bits a sample in {where} {have} {levels}, of 0 to {_LEVELS}. Probably {used} bits or so "
        f"were stored in {bits}, and the files don't say it (PNG does by sBIT, TIFF by MaxSampleValue): scale them to "
        "the whole range, unless they are meant to be like that."
    )
