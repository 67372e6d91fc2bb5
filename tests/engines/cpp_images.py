"""Image files of every kind that the library decodes, and of the shapes that break a resize."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.images.tiff_files import Page, maximum, tiff

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
SHAPES = ((1, 1), (1, 5000), (5000, 1), (200, 61), (61, 61), (2, 3), (3, 700), (37, 41), (256, 256), (333, 250))


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Blocks, gradients and noise: edges and flat parts, every grey level."""
    random = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[0:height, 0:width]
    base = (x * 255 // max(1, width - 1) + (y // 7 % 2) * 90)[..., None] + random.integers(0, 60, (height, width, 3))
    rgb = Image.fromarray((base % 256).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65536, (height, width)).astype(np.uint16))
    if mode == "P":
        return rgb.quantize(min(200, max(2, width * height)))
    if mode in ("LA", "RGBA"):
        made = rgb.convert(mode)
        made.putalpha(Image.fromarray(random.integers(0, 256, (height, width)).astype(np.uint8)))
        return made
    return rgb.convert(mode)


def write_shapes(folder: Path) -> list[Path]:
    """PNG files of `SHAPES`."""
    paths = []
    for width, height in SHAPES:
        paths.append(folder / f"{width}x{height}.png")
        picture(width, height).save(paths[-1])
    return paths


def write_kinds(folder: Path) -> list[Path]:
    """PNG, JPEG and BMP files of every mode that they have."""
    paths: list[Path] = []

    def save(image: Image.Image, name: str, **options: object) -> None:
        paths.append(folder / name)
        image.save(paths[-1], **options)

    for mode in MODES:
        save(picture(83, 61, mode), f"{mode.replace(';', '')}.png")
    for colours in (2, 4, 16):  # 1, 2 and 4 bits a pixel
        save(picture(83, 61).quantize(colours), f"P{colours}.png")
    for mode in ("1", "L", "P", "RGB"):
        save(picture(83, 61, mode), f"{mode}.bmp")
    save(picture(83, 61).quantize(16), "P16.bmp")
    save(picture(83, 61, "RGBA"), "RGBA.bmp")
    for subsampling in (0, 1, 2):
        save(picture(83, 61), f"RGB{subsampling}.jpg", quality=80, subsampling=subsampling)
    save(picture(83, 61), "progressive.jpg", progressive=True, quality=60)
    save(picture(83, 61), "restart.jpg", restart_marker_rows=1)
    save(picture(83, 61), "components.jpg", keep_rgb=True)
    save(picture(83, 61, "L"), "L.jpg")
    save(picture(83, 61).convert("CMYK"), "CMYK.jpg")
    save(picture(83, 61, "P"), "transparent.png", transparency=3)
    return paths


def write_raw_pngs(folder: Path) -> list[Path]:
    """PNG files of kinds that Pillow reads and doesn't write: 16-bit colours, 2 and 4 bits of grey, interlaced."""
    paths = []
    random = np.random.default_rng(5)
    kinds = {"rgb16": (16, 2, 6), "la16": (16, 4, 4), "rgba16": (16, 6, 8), "grey16": (16, 0, 2), "rgb8": (8, 2, 3)}
    for name, (bits, colour, pixel_bytes) in kinds.items():
        rows = random.integers(0, 256, (23, 19 * pixel_bytes)).astype(np.uint8)
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(_png(19, 23, bits, colour, [row.tobytes() for row in rows]))
    for bits in (1, 2, 4):
        rows = random.integers(0, 256, (23, (19 * bits + 7) // 8)).astype(np.uint8)
        paths.append(folder / f"grey{bits}.png")
        paths[-1].write_bytes(_png(19, 23, bits, 0, [row.tobytes() for row in rows]))
    paths.append(folder / "short-palette.png")  # indices beyond the palette's end
    rows = random.integers(0, 256, (23, 19)).astype(np.uint8)
    paths[-1].write_bytes(_png(19, 23, 8, 3, [row.tobytes() for row in rows], palette=bytes(range(90))))
    paths.append(folder / "interlaced.png")
    paths[-1].write_bytes(_interlaced(random.integers(0, 256, (23, 19, 3)).astype(np.uint8)))
    return paths


def write_stated_pngs(folder: Path) -> list[Path]:
    """PNG files that say how many bits of a sample are used: scaled up or not, almost black, and untrue ones."""
    paths = []
    random = np.random.default_rng(6)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}
    kinds = [(16, colour, bits) for colour in channels for bits in (10, 12, 14)]
    kinds += [(8, colour, bits) for colour in channels for bits in (5, 7)]
    for depth, colour, bits in kinds:
        for way in ("as-given", "shifted", "replicated", "dark", "dark-as-given", "untrue"):
            values = random.integers(0, 1 << bits, (11, 13, channels[colour]))
            values = values >> bits // 2 + 1 if way.startswith("dark") else values
            if way in ("shifted", "dark"):
                values = values << (depth - bits)
            elif way == "replicated":
                values = values << (depth - bits) | values >> max(0, 2 * bits - depth)
            used = bytes([bits] * channels[colour]) if way != "untrue" else bytes([depth + 1] * channels[colour])
            rows = [row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in values]
            paths.append(folder / f"{depth}-{colour}-{bits}-{way}.png")
            paths[-1].write_bytes(_png(13, 11, depth, colour, rows, used=used))
    palette = bytes((np.arange(48) % 64).astype(np.uint8))  # of 6 bits, as the first graphics cards had them
    rows = [row.tobytes() for row in random.integers(0, 16, (11, 13)).astype(np.uint8)]
    paths.append(folder / "palette.png")
    paths[-1].write_bytes(_png(13, 11, 8, 3, rows, palette=palette, used=bytes([6] * 3)))
    return paths


def write_photographs(folder: Path) -> list[Path]:
    """JPEG files of several pictures, of which the first is the picture, upright and turned."""
    paths = []
    for turned in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = turned
        for behind in (1, 2):
            paths.append(folder / f"{turned}-{behind}.jpg")
            others = [picture(20, 10, seed=seed) for seed in range(behind)]
            picture(40, 24).save(paths[-1], "MPO", save_all=True, append_images=others, exif=exif)
    return paths


def write_tiff_depths(folder: Path) -> list[Path]:
    """TIFF files of many numbers of bits, polarities, orders, layouts and largest values, and with previews."""
    random = np.random.default_rng(7)
    paths = []

    def save(*pages: Page, order: str = "<", big: bool = False) -> None:
        paths.append(folder / f"{len(paths)}.tif")
        paths[-1].write_bytes(tiff(*pages, order=order, big=big))

    layouts: list[dict[str, Any]] = [
        {},
        {"rows": 5},
        {"tile": 16, "deflate": True},
        {"planes": True},
        {"deflate": True},
    ]
    number = 0
    for bits in (1, 2, 3, 5, 8, 10, 12, 14, 16, 32):
        for photometric in (0, 1, 2):
            for stated in (None, min(bits, 16) - 1):
                for order in "<>":
                    channels = 3 if photometric == 2 else 1
                    values = random.integers(0, 1 << min(stated or bits, 16), (21, 37, channels))
                    tags = [maximum(*[(1 << stated) - 1] * channels)] if stated else []
                    kind = 2 if bits >= 8 and number % 5 == 0 else 1
                    save(Page(values, bits, photometric, kind, tags=tags, **layouts[number % 5]), order=order,
                         big=number % 7 == 0)  # fmt: skip
                    number += 1
    grey = random.integers(0, 65536, (21, 37))
    small = Page(grey[::3, ::3], tags=[(254, 4, [1])])
    for pages in ((Page(grey), small), (small, Page(grey, photometric=0)), (small, small), (Page(grey), Page(grey)),
                  (Page(grey[::3, ::3], tags=[(255, 3, [2])]), Page(grey >> 4, 12)), (small,),
                  (Page(grey), Page(grey & 1, 1, tags=[(254, 4, [4])]))):  # fmt: skip
        save(*pages)
        save(*pages, order=">", big=True)
    save(Page(grey, photometric=None))
    save(Page(grey / 65535, 32, kind=3))
    for turned in (3, 6):
        save(Page(grey >> 4, 12, tags=[(274, 3, [turned])]))
    return paths


def write_others(folder: Path) -> list[Path]:
    """TIFF and WebP files, which the library reads where it finds libtiff and libwebp."""
    paths: list[Path] = []

    def save(image: Image.Image, name: str, **options: object) -> None:
        paths.append(folder / name)
        image.save(paths[-1], **options)

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        image = picture(83, 61).convert(mode) if mode == "CMYK" else picture(83, 61, mode)
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate"):
            save(image, f"{mode.replace(';', '')}-{compression}.tif", compression=compression)
    save(picture(83, 61, "1"), "fax.tif", compression="group4")
    save(picture(83, 61), "jpeg.tif", compression="jpeg")
    save(picture(83, 61, "L"), "grey-jpeg.tif", compression="jpeg")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(picture(40, 24), f"turned{orientation}.tif", exif=exif)
        save(picture(40, 24), f"turned{orientation}.webp", exif=exif)
    for big in (False, True):
        paths.append(folder / f"tiled-{big}.tif")
        paths[-1].write_bytes(_tiled(np.asarray(picture(40, 36)), big))
    for mode in ("RGB", "RGBA", "L"):
        save(picture(83, 61, mode), f"{mode}.webp", quality=70)
        save(picture(83, 61, mode), f"{mode}-lossless.webp", lossless=True)
    return paths


def write_orientations(folder: Path) -> list[Path]:
    """One image by each EXIF orientation, as JPEG and PNG, and by XMP."""
    paths = []
    image = picture(40, 24)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for ending in ("jpg", "png"):
            paths.append(folder / f"exif{orientation}.{ending}")
            image.save(paths[-1], exif=exif)
        paths.append(folder / f"xmp{orientation}.jpg")
        image.save(paths[-1], xmp=f'<x tiff:Orientation="{orientation}"/>'.encode())
    return paths


def jpeg_bytes(image: Image.Image, **options: object) -> bytes:
    """A JPEG file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, with its length and sum."""
    import zlib

    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _png(
    width: int,
    height: int,
    bits: int,
    colour: int,
    rows: list[bytes],
    palette: bytes = b"",
    interlace: int = 0,
    used: bytes = b"",
) -> bytes:
    import zlib

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((bits, colour, 0, 0, interlace))
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    before = [(kind, data) for kind, data in ((b"sBIT", used), (b"PLTE", palette)) if data]
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def _tiled(pixels: np.ndarray, big: bool) -> bytes:
    """A TIFF file of tiles, which Pillow doesn't write; `big` is the order of its bytes."""
    order = "big" if big else "little"
    height, width, _ = pixels.shape
    across, down = -(-width // 16), -(-height // 16)
    padded = np.zeros((down * 16, across * 16, 3), np.uint8)
    padded[:height, :width] = pixels
    tiles = [padded[y * 16 :, x * 16 :][:16, :16].tobytes() for y in range(down) for x in range(across)]
    count, size = len(tiles), len(tiles[0])
    offsets = [8 + size * index for index in range(count)]
    lists = 8 + size * count  # where the lists of bits, offsets and lengths begin
    tags = (
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, lists), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (322, 3, 1, 16), (323, 3, 1, 16), (324, 4, count, lists + 6), (325, 4, count, lists + 6 + 4 * count),
    )  # fmt: skip

    def entry(tag: int, kind: int, number: int, value: int) -> bytes:
        inline = value.to_bytes(2, order) + b"\0\0" if kind == 3 and number == 1 else value.to_bytes(4, order)
        return tag.to_bytes(2, order) + kind.to_bytes(2, order) + number.to_bytes(4, order) + inline

    listed = b"".join(bits.to_bytes(2, order) for bits in (8, 8, 8))
    listed += b"".join(value.to_bytes(4, order) for value in (*offsets, *[size] * count))
    directory = len(tags).to_bytes(2, order) + b"".join(entry(*tag) for tag in tags) + bytes(4)
    start = (b"MM\0*" if big else b"II*\0") + (lists + len(listed)).to_bytes(4, order)
    return start + b"".join(tiles) + listed + directory


def _interlaced(pixels: np.ndarray) -> bytes:
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row.tobytes() for y, x, down, across in passes for row in pixels[y::down, x::across]]
    height, width = pixels.shape[:2]
    return _png(width, height, 8, 2, [row for row in rows if row], interlace=1)
