"""Grey levels are what a file says they are: 10, 12 and 14 bits, white as zero, sBIT and MaxSampleValue."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemf_export.files.errors import BadInputError
from hemf_export.images.images import decode
from tests.images.tiff_files import Page, maximum, tiff

WIDTH, HEIGHT = 37, 21
SHARES = np.random.default_rng(3).random((HEIGHT, WIDTH, 3))  # of white
SHARES[0, :2] = [[0], [1]]


def levels(bits: int, channels: int = 1, shares: np.ndarray = SHARES) -> np.ndarray:
    """The picture in numbers of so many bits."""
    return np.round(shares[..., :channels] * ((1 << bits) - 1)).astype(np.int64)


def of_levels(values: np.ndarray, bits: int) -> np.ndarray:
    """What numbers of so many bits are in 8: RGB."""
    return np.broadcast_to(np.round(values * (255 / ((1 << bits) - 1))), (*values.shape[:2], 3)).astype(np.uint8)


def decoded(folder: Path, data: bytes) -> np.ndarray:
    path = folder / "scan.img"
    path.write_bytes(data)
    return np.asarray(decode(path))


# TIFF

LAYOUTS = [{}, {"deflate": True}, {"rows": 4}, {"tile": 16}, {"tile": 16, "deflate": True}, {"planes": True}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 4, 6, 8, 9, 10, 12, 14, 16])
def test_grey_of_any_bits_is_the_same_picture_whichever_end_is_zero(tmp_path: Path, bits, order, layout):
    black = levels(bits)
    white = ((1 << bits) - 1) - black
    expected = of_levels(black, bits)
    for page in (Page(black, bits, 1, **layout), Page(white, bits, 0, **layout)):
        np.testing.assert_array_equal(decoded(tmp_path, tiff(page, order=order)), expected)


@pytest.mark.parametrize("largest", [31, 63, 127])
def test_the_largest_sample_value_of_8_bits_is_that_of_a_dark_picture(tmp_path: Path, largest):
    values = levels(8) * largest // 255
    found = decoded(tmp_path, tiff(Page(values, 8, 1, tags=[maximum(largest)])))
    np.testing.assert_array_equal(found, np.repeat(values, 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_picture_is_upright_however_its_pixels_are_stored(tmp_path: Path, mode, compression):
    """What Pillow maps into memory, it forgets to turn."""
    grey = Image.fromarray(np.arange(1500, dtype=np.uint8).reshape(30, 50))
    picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    picture.save(tmp_path / "turned.tif", tiffinfo={274: 6}, compression=compression)
    assert decode(tmp_path / "turned.tif").size == (30, 50)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(("bits", "stored"), [(10, 16), (14, 16), (15, 16), (9, 12), (12, 32)])
def test_the_largest_sample_value_is_white(tmp_path: Path, bits, stored, photometric, big):
    values = levels(bits)
    expected = of_levels(values, bits)
    page = Page(values, stored, photometric, tags=[maximum((1 << bits) - 1)])
    found = decoded(tmp_path, tiff(page, big=big))
    np.testing.assert_array_equal(found, expected if photometric else 255 - expected)


def test_the_largest_sample_value_may_be_said_in_the_other_tag(tmp_path: Path):
    page = Page(levels(11), tags=[(341, 12, [2047.0])])
    np.testing.assert_array_equal(decoded(tmp_path, tiff(page)), of_levels(levels(11), 11))


@pytest.mark.parametrize("largest", [40_000, 3000, 65535])
def test_a_largest_value_that_is_a_statistic_changes_nothing(tmp_path: Path, largest):
    """By TIFF 6.0 it must not affect how the picture looks; by pictures, one would be brighter than the other."""
    values = np.minimum(levels(16), largest)
    plain, told = (decoded(tmp_path, tiff(Page(values, tags=tags))) for tags in ((), [maximum(largest)]))
    np.testing.assert_array_equal(told, plain)


def test_a_largest_value_that_samples_exceed_is_not_believed(tmp_path: Path):
    np.testing.assert_array_equal(
        decoded(tmp_path, tiff(Page(levels(16), tags=[maximum(4095)]))), of_levels(levels(16), 16)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{}, {"deflate": True}, {"tile": 16}], ids=str)
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colours_of_more_than_8_bits(tmp_path: Path, bits, layout, order):
    values = levels(bits, 3)
    packed = decoded(tmp_path, tiff(Page(values, bits, 2, **layout), order=order))
    np.testing.assert_array_equal(packed, of_levels(values, bits))
    largest = maximum(*[(1 << bits) - 1] * 3)
    stored = decoded(tmp_path, tiff(Page(values, 16, 2, tags=[largest], **layout), order=order))
    np.testing.assert_array_equal(stored, of_levels(values, bits))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_colours_in_planes_of_16_bits_are_not_noise(tmp_path: Path, deflate, order):
    """As scientific programs write them; Pillow by itself takes each for twice as many columns of 8 bits."""
    values = levels(16, 3)
    found = decoded(tmp_path, tiff(Page(values, 16, 2, planes=True, deflate=deflate), order=order))
    np.testing.assert_array_equal(found, values >> 8)


@pytest.mark.parametrize("turned", range(1, 9))
def test_12_bits_are_turned_upright(tmp_path: Path, turned):
    values = levels(12)
    tagged = decoded(tmp_path, tiff(Page(values, 12, tags=[(274, 3, [turned])])))
    packet = f'<x tiff:Orientation="{turned}"/>'.encode()
    by_xmp = decoded(tmp_path, tiff(Page(values, 12, tags=[(700, 1, list(packet))])))
    path = tmp_path / "plain.png"
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(of_levels(values, 12)).save(path, exif=exif)
    for found in (tagged, by_xmp):
        np.testing.assert_array_equal(found, np.asarray(decode(path)))


REFUSED = [
    (Page(levels(7), 8, kind=2), "int8"),
    (Page(levels(15), 16, kind=2), "int16"),
    (Page(-levels(10), 16, kind=2, tags=[maximum(1023)]), "int16"),
    (Page(levels(16) + 1, 32, kind=2), "int32"),
    (Page(levels(20), 32), "uint32"),
    (Page(SHARES[..., 0], 16, kind=3), "float16"),
    (Page(SHARES[..., 0], 32, 0, kind=3), "float32"),
    (Page(SHARES[..., 0], 64, kind=3), "float64"),
    (Page(SHARES, 32, 2, kind=3), "float32"),
    (Page(levels(10, 3), 16, 2, kind=2), "int16"),
]


@pytest.mark.parametrize(
    ("page", "named"), REFUSED, ids=[f"{name}-{number}" for number, (_, name) in enumerate(REFUSED)]
)
def test_samples_without_a_known_black_and_white_are_refused_in_one_way(tmp_path: Path, page, named):
    with pytest.raises(
        BadInputError, match=f"scan.img has {named} pixels; 8-bit or 16-bit unsigned are needed"
    ) as told:
        decoded(tmp_path, tiff(page))
    assert "Save it" in str(told.value.hint)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (Page(levels(12), 12, tags=[(317, 3, [2])], deflate=True), "12 bits a sample and a predictor"),
        (Page(levels(10), 10, tags=[(266, 3, [2])]), "10 bits a sample and a predictor, or its bits in reverse"),
        (Page(levels(10, 3), 10, 2, planes=True), "10 bits a sample and colours in planes"),
        (Page(levels(12), 16, photometric=None), "whether black or white is zero"),
        (Page(levels(16, 2), 16, tags=[(338, 3, [2])]), r"unknown pixel mode \(photometric 1, 2 samples of 16 bits\)"),
    ],
    ids=["predictor", "reverse", "planes", "polarity", "alpha"],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, page, told):
    with pytest.raises(BadInputError, match=told):
        decoded(tmp_path, tiff(page))


def test_12_bits_that_are_stored_in_two_bytes_against_what_the_file_says_are_refused(tmp_path: Path):
    data = bytearray(tiff(Page(levels(12), 16)))
    at = data.index(struct.pack("<HHI", 258, 3, 1))
    struct.pack_into("<H", data, at + 8, 12)
    with pytest.raises(BadInputError, match="12 bits a sample and two bytes for each"):
        decoded(tmp_path, bytes(data))


# Pages

PICTURE, PREVIEW = levels(16), levels(16)[::4, ::4]


def marked(samples: np.ndarray, kind: int, tag: int = 254, **options: object) -> Page:
    return Page(samples, tags=[(tag, 4, [kind])], **options)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "pages",
    [
        (Page(PICTURE), marked(PREVIEW, 1)),
        (marked(PREVIEW, 1), Page(PICTURE)),
        (marked(PREVIEW, 2, tag=255), Page(PICTURE), marked(PREVIEW, 1)),
        (Page(PICTURE, deflate=True), marked(levels(1), 4, bits=1)),
        (marked(PREVIEW, 1), Page(65535 - PICTURE, photometric=0)),
        (marked(PICTURE, 1),),
        (marked(PICTURE, 2),),
    ],
    ids=["behind", "in front", "both", "mask", "white", "alone", "page 1"],
)
def test_the_page_that_is_no_preview_is_the_picture(tmp_path: Path, pages, order, big):
    data = tiff(*pages, order=order, big=big)
    if big and order == ">":
        with pytest.raises(BadInputError, match="BigTIFF file with the highest byte first"):
            decoded(tmp_path, data)
        return
    np.testing.assert_array_equal(decoded(tmp_path, data), of_levels(PICTURE, 16))


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ((Page(PICTURE), Page(PICTURE)), "holds 2 frames"),
        ((marked(PICTURE, 2), marked(PICTURE, 2), marked(PREVIEW, 1), marked(PICTURE, 2)), "holds 3 frames"),
        ((marked(PREVIEW, 1), marked(PREVIEW, 1)), "holds 2 frames"),
        ((Page(PREVIEW, tags=[(254, 4, [1]), (330, 4, [8])]),), "shows a preview"),
    ],
    ids=["two", "three", "previews", "below"],
)
def test_several_pictures_and_none_are_refused(tmp_path: Path, pages, told):
    with pytest.raises(BadInputError, match=told):
        decoded(tmp_path, tiff(*pages))


# PNG


def png(samples: np.ndarray, depth: int, colour: int, used: Sequence[int] | None) -> bytes:
    """A PNG file with an sBIT chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1).astype(">u2" if depth == 16 else np.uint8)
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    stated = b"" if used is None else chunk(b"sBIT", bytes(used))
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + start + stated + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_alpha(values: np.ndarray, depth: int) -> np.ndarray:
    return np.concatenate([values, np.full_like(values[..., :1], (1 << depth) - 1)], axis=-1)


KINDS = {"grey": (0, 1), "colours": (2, 3), "grey and alpha": (4, 1), "colours and alpha": (6, 3)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "depth"), [(10, 16), (12, 16), (14, 16), (6, 8)])
def test_samples_that_a_png_stores_as_the_sensor_gave_them(tmp_path: Path, bits, depth, kind):
    colour, channels = KINDS[kind]
    values = levels(bits, channels)
    used = [bits] * channels + [depth] * (colour > 3)
    samples = with_alpha(values, depth) if colour > 3 else values
    np.testing.assert_array_equal(decoded(tmp_path, png(samples, depth, colour, used)), of_levels(values, bits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dark", [1.0, 0.02])
@pytest.mark.parametrize("way", ["shifted", "replicated", "rounded"])
@pytest.mark.parametrize(("bits", "depth"), [(10, 16), (12, 16), (14, 16), (6, 8)])
def test_samples_that_a_png_has_scaled_up_stay_so(tmp_path: Path, bits, depth, way, dark, kind):
    """As the specification wants it. Of a picture that is almost black, too, though all fit into the stated bits."""
    colour, channels = KINDS[kind]
    values = levels(bits, channels, SHARES * dark)
    room = depth - bits
    scaled = {
        "shifted": values << room,
        "replicated": values << room | values >> (bits - room),
        "rounded": np.round(values * ((1 << depth) - 1) / ((1 << bits) - 1)).astype(np.int64),
    }[way]
    used = [bits] * channels + [depth] * (colour > 3)
    samples = with_alpha(scaled, depth) if colour > 3 else scaled
    plain, told = (decoded(tmp_path, png(samples, depth, colour, stated)) for stated in (None, used))
    np.testing.assert_array_equal(told, plain)


@pytest.mark.parametrize("used", [[0], [17], [12, 12], [16], []], ids=str)
def test_a_chunk_that_can_not_be_true_counts_as_none(tmp_path: Path, used):
    plain, told = (decoded(tmp_path, png(levels(12), 16, 0, stated)) for stated in (None, used))
    np.testing.assert_array_equal(told, plain)


def test_channels_of_different_bits_are_each_scaled_by_their_own(tmp_path: Path):
    values = np.concatenate([levels(5), levels(6), levels(5)], axis=-1)
    expected = np.concatenate([of_levels(levels(bits), bits)[..., :1] for bits in (5, 6, 5)], axis=-1)
    np.testing.assert_array_equal(decoded(tmp_path, png(values, 8, 2, [5, 6, 5])), expected)


def test_a_png_of_12_bits_is_turned_upright(tmp_path: Path):
    values, exif = levels(12), Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()[6:]
    data = png(values, 16, 0, [12])
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    at = data.index(b"IDAT") - 4
    expected = np.rot90(of_levels(values, 12), -1)
    np.testing.assert_array_equal(decoded(tmp_path, data[:at] + chunk + data[at:]), expected)
