"""How much of their range the images of a set use: little, where files hold fewer bits than they have room for.

12 bits stored in 16 without a word come out almost black, and a network learns from what is left.
"""

from __future__ import annotations

import threading

from PIL import Image

BITS = "bits"  # in an image's `info`: how many bits its file stores a sample
_LEVELS = 255
_DARK = 32  # the highest level, at most, of 8-bit pictures that are told of: an eighth of the range
_NARROW = 64  # levels used, at most, of those of more bits: a quarter, as there pictures are rarely meant to be so dark


class GreyLevels:
    """The lowest and the highest level of the images that were looked at, by the bits of their files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[int, tuple[int, int, int]] = {}

    def look(self, image: Image.Image) -> None:
        """Take in a decoded image; from any thread."""
        extrema = [pair for pair in image.getextrema() if isinstance(pair, tuple)]
        low, high = int(min(pair[0] for pair in extrema)), int(max(pair[1] for pair in extrema))
        bits = int(image.info.get(BITS, 8))
        with self._lock:
            count, lowest, highest = self._found.get(bits, (0, low, high))
            self._found[bits] = count + 1, min(low, lowest), max(high, highest)

    @property
    def suspicious(self) -> bool:
        """Whether there is a note, so far."""
        return bool(self.notes(""))

    def notes(self, where: str) -> list[str]:
        """What the user should know: a note for each depth whose images all stay in a small part of the range."""
        return [
            _note(where, bits, *found)
            for bits, found in sorted(self._found.items())
            if _small(bits, found[1], found[2])
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
