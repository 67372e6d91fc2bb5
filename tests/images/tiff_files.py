"""TIFF files of layouts that Pillow doesn't write: any number of bits, white as zero, planes, tiles, several pages."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SHORT, LONG, DOUBLE = 3, 4, 12
_FORMATS = {1: "B", SHORT: "H", LONG: "I", DOUBLE: "d", 13: "I", 16: "Q"}


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        samples: (height, width, channels) integers, negative ones too; (height, width) of grey.
        bits: stored of each.
        photometric: 0 for white as zero, 1 for black as zero, 2 for RGB; None to leave it out.
        kind: of numbers: 1 unsigned, 2 signed, 3 floating-point.
        deflate: compressed, or not.
        planes: colours stored one behind the other.
        rows: of a strip; None for all.
        tile: side of the tiles; None for strips.
        tags: further ones, (number, type, values).
    """

    samples: np.ndarray
    bits: int = 16
    photometric: int | None = 1
    kind: int = 1
    deflate: bool = False
    planes: bool = False
    rows: int | None = None
    tile: int | None = None
    tags: Sequence[tuple[int, int, Sequence[float]]] = field(default=())


def maximum(*values: int) -> tuple[int, int, Sequence[int]]:
    """The tag MaxSampleValue."""
    return 281, SHORT, values


def tiff(*pages: Page, order: str = "<", big: bool = False) -> bytes:
    """A file; `order` as `struct` has it, `big` for BigTIFF."""
    magic = {"<": b"II", ">": b"MM"}[order]
    data = bytearray(magic + (struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0)))
    pointer, link = ("Q", 8) if big else ("I", 4)
    for page in pages:
        tags = _page(data, page, order)
        entries = []
        for tag, kind, values in sorted(tags):
            content = struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values)
            room = 8 if big else 4
            if len(content) > room:
                content, place = b"", len(data) + len(data) % 2
                data += bytes(len(data) % 2) + struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values)
                content = struct.pack(order + pointer, place)
            entries.append(struct.pack(f"{order}HH{pointer}", tag, kind, len(values)) + content.ljust(room, b"\0"))
        data += bytes(len(data) % 2)
        struct.pack_into(order + pointer, data, link, len(data))
        data += struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries)
        link = len(data)
        data += bytes(8 if big else 4)
    return bytes(data)


def _page(data: bytearray, page: Page, order: str) -> list[tuple[int, int, Sequence[float]]]:
    samples = page.samples.reshape(*page.samples.shape[:2], -1)
    height, width, channels = samples.shape
    planes = [samples[..., [channel]] for channel in range(channels)] if page.planes else [samples]
    parts = []
    for plane in planes:
        if page.tile is None:
            step = page.rows or height
            pieces = [plane[start : start + step] for start in range(0, height, step)]
        else:
            side = page.tile
            padded = np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0)))
            pieces = [padded[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
        parts += [_packed(piece.reshape(len(piece), -1), page.bits, page.kind, order) for piece in pieces]
    if page.deflate:
        parts = [zlib.compress(part) for part in parts]
    places = []
    for part in parts:
        places.append(len(data))
        data += part + bytes(len(part) % 2)
    tags: list[tuple[int, int, Sequence[float]]] = [
        (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [page.bits] * channels),
        (259, SHORT, [8 if page.deflate else 1]), (277, SHORT, [channels]),
        (284, SHORT, [2 if page.planes else 1]), *page.tags,
    ]  # fmt: skip
    if page.photometric is not None:
        tags.append((262, SHORT, [page.photometric]))
    if page.kind != 1:
        tags.append((339, SHORT, [page.kind] * channels))
    counts = [len(part) for part in parts]
    if page.tile is None:
        tags += [(273, LONG, places), (278, LONG, [page.rows or height]), (279, LONG, counts)]
    else:
        tags += [(322, LONG, [page.tile]), (323, LONG, [page.tile]), (324, LONG, places), (325, LONG, counts)]
    return tags


def _packed(rows: np.ndarray, bits: int, kind: int, order: str) -> bytes:
    """Rows of numbers as a file holds them; those of other than whole bytes from the highest bit on."""
    if kind == 3:
        return rows.astype(f"{order}f{bits // 8}").tobytes()
    if bits % 8 == 0:
        return (rows.astype(np.int64) & ((1 << bits) - 1)).astype(f"{order}u{bits // 8}").tobytes()
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((rows[..., None] >> places & 1).astype(np.uint8).reshape(len(rows), -1), axis=1).tobytes()
