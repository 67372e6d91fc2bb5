"""Decode TIFF files: find the page that is the picture, and scale its samples by the depth that the file states.

Pillow and its libtiff unpack what they support. What Pillow doesn't read, or reads wrongly, is done here: samples of 3
to 15 bits (scanners and detectors give 10, 12 and 14), white as zero in 16 bits, colours in planes of 16 bits, and
MaxSampleValue.

MaxSampleValue is, by TIFF 6.0, the largest value in use, "not to be used to affect the visual appearance": a statistic,
by which each picture of a scanner would be brightened by another factor. Where it is the largest number of some bits
(1023, 4095, 16383) it is read as a depth, and ignored elsewhere, as MinSampleValue is.

Signed and floating-point samples, whose black and white no file states, are refused, and so are more than 16 bits.
Exceptions: 32-bit integers with 16-bit values, as NumPy often writes, are read as such, and signed samples with a
MaxSampleValue and nothing below zero as that depth.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin

from hemf_export.files.errors import BadInputError
from hemf_export.images.grey_levels import PixelArray, eight_bits

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG_BIG_ENDIAN = MAGIC[3]  # which Pillow doesn't recognize as BigTIFF
MOST_BITS = 16
LARGEST_FILE = 1 << 30  # bytes
_MOST_PAGES = 10_000

# Tags of an image file directory.
_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = (
    254, 255, 256, 257, 258, 259, 262, 266,
)  # fmt: skip
_ORIENTATION, _SAMPLES, _STRIP_BYTES, _MAXIMUM, _PLANAR, _PREDICTOR, _TILE_WIDTH, _SUB_DIRECTORIES = (
    274, 277, 279, 281, 284, 317, 322, 330,
)  # fmt: skip
_EXTRA, _FORMAT, _NAMED_MAXIMUM, _XMP = 338, 339, 341, 700

_REDUCED, _MASK = 1, 4  # bits of the kind of a page
_OLD_REDUCED = 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2
_ASSOCIATED = 1  # alpha that the colours are multiplied by
_UNSIGNED, _SIGNED = 1, 2
_FORMATS = {1: "uint", 2: "int", 3: "float", 5: "complex int", 6: "complex"}
_GREY_BITS, _COLOUR_BITS = (1, 2, 4, 8, 16), (8, 16)  # that Pillow unpacks
_AS_BYTES = {_BITS: 8, _PHOTOMETRIC: _BLACK_IS_ZERO, _SAMPLES: 1, _FORMAT: _UNSIGNED}
# None, LZW, Deflate under two numbers, PackBits, LZMA and Zstandard work on bytes, whatever the bits a sample.
_OF_BYTES = (1, 5, 8, 32946, 32773, 34925, 50000)
_WITHOUT_PREDICTOR = (1, 32773)
_JPEG = (6, 7)
HINT = "Save it as TIFF or PNG of 8 or 16 bits a sample, black as zero."


@dataclass(frozen=True)
class Page:
    """The page of a TIFF file that is its picture.

    Args:
        path: the file.
        offset: offset of its directory.
        first: whether it is the first page.
        tags: tags of its directory, by number.
    """

    path: Path
    offset: int
    first: bool
    tags: TiffImagePlugin.ImageFileDirectory_v2

    @property
    def width(self) -> int:
        """Width in pixels, before rotation."""
        return self._number(_WIDTH, 0)

    @property
    def height(self) -> int:
        """Height in pixels, before rotation."""
        return self._number(_HEIGHT, 0)

    @property
    def bits(self) -> int:
        """Bits of the first sample; Pillow refuses files of several depths."""
        return self._numbers(_BITS, 1)[0]

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return self._number(_SAMPLES, 1)

    @property
    def photometric(self) -> int:
        """Photometric interpretation, as TIFF numbers it."""
        return self._number(_PHOTOMETRIC, _WHITE_IS_ZERO)

    @property
    def grey(self) -> bool:
        """Whether a pixel is one grey sample."""
        return self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and self.samples == 1

    @property
    def planes(self) -> bool:
        """Whether each colour is stored in a plane of its own."""
        return self._number(_PLANAR, 1) == _SEPARATE and self.samples > 1

    @property
    def stated(self) -> int | None:
        """Number of bits in use, where the file states fewer than it stores; None for all. Of 8 bits all are in use."""
        if self.bits <= 8:
            return None  # the largest level of a dark picture, not a depth
        for tag in (_MAXIMUM, _NAMED_MAXIMUM):
            values = {float(value) for value in _tuple(self.tags.get(tag, ()))}
            if len(values) == 1:
                largest = values.pop()
                count = int(largest + 1).bit_length() - 1 if 1 <= largest < 1 << MOST_BITS else 0
                return count if 0 < count < self.bits and largest == (1 << count) - 1 else None
        return None

    @property
    def signed(self) -> bool:
        """Whether the samples are signed integers."""
        return self._numbers(_FORMAT, _UNSIGNED)[0] == _SIGNED

    def decode(self) -> Image.Image:
        """Decode the page, rotated, in an 8-bit mode of Pillow's.

        Raises:
            BadInputError: samples whose grey levels aren't known.
        """
        self._refuse_unknown()
        if self.grey or (self.photometric == _RGB and self.samples >= 3):
            if self.signed or self.bits not in (_GREY_BITS if self.grey else _COLOUR_BITS):
                return self._unpacked()
            if self.stated is not None or (self.grey and self.bits == 16):
                return self._by_samples()
        try:
            opened = self._opened()
        except SyntaxError as error:
            if "unknown pixel mode" not in str(error):
                raise
            what = f"photometric {self.photometric}, {self.samples} samples of {self.bits} bits"
            raise BadInputError(f"{self.path} can't be decoded: unknown pixel mode ({what}).", HINT) from error
        with opened as image:
            if self.bits == 16 and self.planes:
                _by_libtiff(image, f"{image.mode};16N")  # which Pillow by itself takes for planes of 8 bits
            image.load()
            return image

    def _refuse_unknown(self) -> None:
        if _PHOTOMETRIC not in self.tags and self._number(_COMPRESSION, 1) not in _JPEG:
            raise BadInputError(f"{self.path} doesn't say whether black or white is zero.", HINT)
        formats = set(self._numbers(_FORMAT, _UNSIGNED))
        integers = formats == {_UNSIGNED} or (formats == {_SIGNED} and self.grey and self.bits in (8, 16, 32))
        if not integers or (self.bits > MOST_BITS and not (self.grey and self.bits == 32)):
            self._refuse_pixels()
        if self.signed and self.bits <= MOST_BITS and self.stated is None:
            self._refuse_pixels()

    def _refuse_pixels(self) -> None:
        name = _FORMATS.get(max(self._numbers(_FORMAT, _UNSIGNED)), "unknown")
        raise BadInputError(f"{self.path} has {name}{self.bits} pixels; 8-bit or 16-bit unsigned are needed.", HINT)

    def _refuse(self, what: str) -> None:
        raise BadInputError(f"{self.path} has {self.bits} bits a sample and {what}: that is not read.", HINT)

    def _opened(self, changes: dict[int, int] | None = None) -> TiffImagePlugin.TiffImageFile:
        """Open the page in Pillow, with some tags changed."""
        changes = {**(changes or {})}
        if self.samples == 1 and self._number(_PLANAR, 1) == _SEPARATE:
            changes[_PLANAR] = 1  # equivalent for one sample, where Pillow ignores bits and polarity
        if self.path.stat().st_size > LARGEST_FILE:
            raise BadInputError(f"{self.path} is too large: at most 1 GiB is read.", "Scale it down.")
        data = self.path.read_bytes()
        if not self.first or changes:
            data = _alone(data, self.offset, changes)
        # Not by its path: an uncompressed file would be mapped into memory, and Pillow doesn't rotate what it maps.
        return TiffImagePlugin.TiffImageFile(io.BytesIO(data))

    def _by_samples(self) -> Image.Image:
        """Decode a layout that Pillow unpacks, by the values of its samples."""
        associated = _ASSOCIATED in self._numbers(_EXTRA, 0)[:1]
        if not self.grey and (associated or (self.bits == 16 and self.planes)):
            self._refuse("a MaxSampleValue, with colours in planes or multiplied by alpha")
        # Pillow knows 16 bits with white as zero from some files only, and inverts them in none.
        changes = {_PHOTOMETRIC: _BLACK_IS_ZERO} if self.photometric == _WHITE_IS_ZERO else {}
        if not self.grey and self.bits == 16:
            parts = []
            for order in ("N", "B" if sys.byteorder == "little" else "L"):  # the high bytes, then the low ones
                with self._opened() as image:
                    rawmode = _tuple(image.tile[0].args)[0]
                    _by_libtiff(image, f"{rawmode.partition(';')[0]};16{order}")
                    image.load()
                    parts.append(np.asarray(image)[..., :3].astype(np.uint16))
            return self._scaled(parts[0] << 8 | parts[1])
        with self._opened(changes) as image:
            image.load()
            loaded = image if self.bits == 16 else image.convert("L" if self.grey else "RGB")
            values = np.asarray(loaded).astype(np.uint16)
        if self.bits < 8:
            values //= 255 // ((1 << self.bits) - 1)  # Pillow has scaled them up
        return self._scaled(values.reshape(*values.shape[:2], -1))

    def _unpacked(self) -> Image.Image:
        """Decode samples of a depth that Pillow doesn't support, which it decompresses as a picture of bytes."""
        compression, places = self._number(_COMPRESSION, 1), self.width * self.samples
        row = (places * self.bits + 7) // 8
        held = sum(self._numbers(_STRIP_BYTES, 0)) if compression == 1 and 8 < self.bits < 16 else 0
        if not self.grey and (self.samples > 3 or self.planes):
            self._refuse("colours in planes or with alpha")
        if compression not in _OF_BYTES:
            self._refuse("JPEG compression" if compression in _JPEG else f"the compression {compression}")
        predictor = 1 if compression in _WITHOUT_PREDICTOR else self._number(_PREDICTOR, 1)
        if predictor != 1 or self._number(_FILL_ORDER, 1) != 1:
            self._refuse("a predictor, or its bits in reverse order")
        if held == places * self.height * 2 and held > row * self.height:
            self._refuse("two bytes for each")
        changes = {_WIDTH: row, **_AS_BYTES, _ORIENTATION: 1, _XMP: 0}
        if _TILE_WIDTH in self.tags:
            line = self._number(_TILE_WIDTH, 0) * self.samples * self.bits
            if line % 8:
                self._refuse("tiles that end within a byte")
            changes[_TILE_WIDTH] = line // 8
        with self._opened(changes) as image:
            image.load()
            packed = np.asarray(image)
        if self.bits < 16 and not self.signed:
            values: NDArray[Any] = _unpack(packed, self.bits, places)
        else:
            order = "<" if self.tags.prefix == b"II" else ">"
            kind: np.dtype[Any] = np.dtype(f"{order}u{self.bits // 8}")
            values = np.ascontiguousarray(packed).view(kind)
        upright = self._scaled(values.reshape(self.height, self.width, self.samples))
        upright.getexif()[_ORIENTATION] = self._orientation()
        return ImageOps.exif_transpose(upright)

    def _orientation(self) -> int:
        """Orientation by the tag, else by XMP, as Pillow reads it."""
        with self._opened(_AS_BYTES) as image:
            return int(image.getexif().get(_ORIENTATION, 1))

    def _scaled(self, values: NDArray[np.integer[Any]]) -> Image.Image:
        """Samples (height, width, channels) as in the file, negative ones as large unsigned ones → 8 bits."""
        channels, largest = values.shape[-1], int(values.max())
        stated = self.stated is not None and not largest >> self.stated  # else the stated depth is wrong
        used = self.stated if stated and self.stated else min(self.bits, MOST_BITS)
        if largest >> used or (self.signed and self.bits <= MOST_BITS and not stated):
            self._refuse_pixels()
        if used == MOST_BITS and channels > 1:
            pixels: PixelArray = (values >> 8).astype(np.uint8)  # as Pillow takes colours of 16 bits
        else:
            pixels = eight_bits(values.astype(np.uint16), [used] * channels)
        if self.photometric == _WHITE_IS_ZERO:
            pixels = 255 - pixels
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)

    def _number(self, tag: int, default: int) -> int:
        return self._numbers(tag, default)[0]

    def _numbers(self, tag: int, default: int) -> tuple[int, ...]:
        return tuple(int(value) for value in _tuple(self.tags.get(tag, default))) or (default,)


def picture(path: Path) -> Page:
    """Find the page that is the picture of a file: the only one that isn't a reduced copy or a mask of another.

    Raises:
        BadInputError: several pages are pictures, or the picture is in a subdirectory of the page.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        if head[:4] == _BIG_BIG_ENDIAN:
            raise BadInputError(f"{path} is a BigTIFF file with the highest byte first: that is not read.", HINT)
        pages = _pages(file, head)
        chosen = [offset for offset, copy in pages if not copy] or [offset for offset, _ in pages]
        if len(chosen) != 1:
            raise BadInputError(f"{path} holds {len(chosen)} frames.", "Save the one that is meant as an image.")
        tags = TiffImagePlugin.ImageFileDirectory_v2(head if head[:4] in MAGIC[2:] else head[:8])
        file.seek(chosen[0])
        tags.load(file)
    if all(copy for _, copy in pages) and _SUB_DIRECTORIES in tags:
        raise BadInputError(f"{path} shows a preview; its picture is in a directory below, which is not read.", HINT)
    return Page(path, chosen[0], chosen[0] == pages[0][0], tags)


def _pages(file: BinaryIO, head: bytes) -> list[tuple[int, bool]]:
    """List the offset of each page's directory, and whether it is a reduced copy or a mask of another."""
    order, big = "<" if head[:2] == b"II" else ">", head[:4] in MAGIC[2:]
    count, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    (place,) = struct.unpack_from(order + pointer, head, 8 if big else 4)
    size = os.fstat(file.fileno()).st_size
    pages: dict[int, bool] = {}
    while place and place not in pages:
        if len(pages) == _MOST_PAGES:
            raise ValueError(f"more than {_MOST_PAGES} pages")
        file.seek(min(place, size))
        start = file.read(struct.calcsize(count))
        (entries,) = struct.unpack(order + count, start.ljust(struct.calcsize(count), b"\xff"))
        if place + len(start) + entries * entry > size:
            raise EOFError("image file is truncated")
        content = file.read(entries * entry)
        pages[place] = any(_copy(order, content[at : at + entry]) for at in range(0, len(content), entry))
        (place,) = struct.unpack(order + pointer, file.read(struct.calcsize(pointer)))
    return list(pages.items())


def _copy(order: str, entry: bytes) -> bool:
    """Whether a directory entry marks the page as a reduced copy or a mask of another."""
    tag, kind = struct.unpack_from(order + "HH", entry)
    if tag not in (_SUBFILE, _OLD_SUBFILE) or kind not in (3, 4):
        return False
    (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), entry, 12 if len(entry) == 20 else 8)
    return bool(value & (_REDUCED | _MASK)) if tag == _SUBFILE else value == _OLD_REDUCED


def _alone(content: bytes, offset: int, changes: dict[int, int]) -> bytes:
    """Make a file with the page at `offset` as its only one, with some tags changed."""
    data = bytearray(content)
    order, big = "<" if data[:2] == b"II" else ">", bytes(data[:4]) in MAGIC[2:]
    count, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    struct.pack_into(order + pointer, data, 8 if big else 4, offset)
    (entries,) = struct.unpack_from(order + count, data, offset)
    start = offset + struct.calcsize(count)
    for at in range(start, start + entries * entry, entry):
        (tag,) = struct.unpack_from(order + "H", data, at)
        if tag in changes:
            struct.pack_into(order + ("HHQI4x" if big else "HHII"), data, at, tag, 4, 1, changes[tag])
    struct.pack_into(order + pointer, data, start + entries * entry, 0)
    return bytes(data)


def _by_libtiff(image: TiffImagePlugin.TiffImageFile, rawmode: str) -> None:
    """Have the samples of an opened page unpacked by libtiff, compressed or not, in the byte order of `rawmode`."""
    image.tile = [image.tile[0]._replace(
        codec_name="libtiff", extents=(0, 0, *image._tile_size), offset=0, args=(rawmode, False, image.tag_v2.offset)
    )]  # fmt: skip
    image.use_load_libtiff = True


def _unpack(packed: PixelArray, bits: int, count: int) -> NDArray[np.uint16]:
    """Unpack rows of bytes into rows of `count` numbers, most significant bit first."""
    values = np.empty((len(packed), count), np.uint16)
    padded = np.pad(packed, ((0, 0), (0, 2)))
    first = np.arange(count) * bits
    place, shift = first // 8, (24 - bits - first % 8).astype(np.uint32)
    step = max(1, (1 << 22) // max(1, count))  # rows at a time, to limit the temporary memory
    for start in range(0, len(packed), step):
        rows = padded[start : start + step].astype(np.uint32)
        three = rows[:, place] << 16 | rows[:, place + 1] << 8 | rows[:, place + 2]
        values[start : start + step] = three >> shift & ((1 << bits) - 1)
    return values


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
