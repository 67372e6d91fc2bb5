"""Samples as files store them → 8 bits, where a file says that it uses fewer bits than it stores.

Cameras, detectors and scanners give 10, 12 or 14 bits, and files store 16. PNG's sBIT chunk and TIFF's MaxSampleValue
say how many are used (see `images.png` and `images.tiff`). The C++ library decodes by the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PixelArray = NDArray[np.uint8]
Samples = NDArray[np.uint16]


def eight_bits(samples: Samples, bits: Sequence[int]) -> PixelArray:
    """Samples (height, width, channels) of `bits` bits a channel → 8 bits, rounded. No value lies halfway."""
    pixels = np.empty(samples.shape, np.uint8)
    for channel, count in enumerate(bits):
        white = (1 << count) - 1
        levels = (np.arange(white + 1, dtype=np.uint32) * 510 + white) // (2 * white)
        pixels[..., channel] = levels.astype(np.uint8)[samples[..., channel]]
    return pixels
