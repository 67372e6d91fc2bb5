"""Image folders as they come from hospitals, phones and unpacked archives.

A 16-bit scan that other programs clip to white, a photograph that lies on its side, a PSD that was renamed, a download
that stopped, a PNG of a few bytes that claims 60,000 × 60,000 pixels, a FIFO that would wait for ever. What can be read
right is read right, the same at every stage; the rest is refused by name, before the first epoch.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hemf_export.files.errors import BadInputError
from hemf_export.images import folders
from hemf_export.images.images import FORMATS, Preprocess, decode
from hemf_export.images.model_input import ModelInput
from tests.conftest import CLASSES, write_images
from tests.hostile.conftest import cut, train

GREY = np.array([[0, 40, 80], [120, 160, 255]], np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand; `rows` has a filter byte before each row."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey_as_rgb(values: list[list[int]]) -> list[list[list[int]]]:
    return [[[value] * 3 for value in row] for row in values]


# Decompression bombs

MEASURE = """
import resource, sys
from pathlib import Path
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(Path(sys.argv[1]))
except BadInputError as error:
    print(error.message)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(60_000, 60_000, 8, 2, b"\0" * 100), id="only-claimed"),
        pytest.param(png(12_000, 12_000, 1, 0, b"\0" * (1501 * 12_000)), id="really-there"),
        pytest.param(
            encoded(NOISE, "BMP").replace(struct.pack("<ii", 64, 48), struct.pack("<ii", 64_000, 48_000)), id="bmp"
        ),
    ],
)
def test_a_decompression_bomb_is_refused_with_bounded_memory(tmp_path: Path, data):
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    message, grown_mb = done.stdout.splitlines()
    assert str(path) in message
    assert "is too large" in message
    assert "pixels" in message
    # ru_maxrss counts kilobytes on Linux and bytes on macOS, where the bound is looser than it reads.
    assert int(grown_mb) < 60 * (1024 if sys.platform == "darwin" else 1)


# Truncated files


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_file_of_every_kind_is_refused(tmp_path: Path, kind, share):
    path = tmp_path / "cut.img"
    path.write_bytes(encoded(NOISE, kind))
    decode(path)
    with pytest.raises(BadInputError) as caught:
        decode(cut(path, share))
    assert caught.value.message.startswith(str(path))


def test_a_jpeg_one_byte_short_is_refused(tmp_path: Path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(NOISE, "JPEG")[:-1])
    with pytest.raises(BadInputError, match=r"cut\.jpg can't be decoded: .*truncated"):
        decode(path)


def test_all_truncated_files_are_named_before_the_first_epoch(tmp_path: Path, image_data: Path, refused):
    broken = [cut(image_data / "train" / name / f"{name}{index}.png") for name in CLASSES for index in (1, 5)]
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=broken[0])
    assert f"6 of 24 images below {image_data / 'train'} can't be read" in message
    assert all(str(path) in message for path in broken)
    assert "--skip-unreadable" in message
    assert not any((tmp_path / "run").iterdir())


def test_skipping_unreadable_files_is_counted_and_trains_on_the_rest(
    tmp_path: Path, image_data: Path, run_cli, trained_on
):
    cut(image_data / "train" / "dark" / "dark3.png")
    broken = [cut(image_data / "val" / "bright" / f"bright{index}.png") for index in (0, 2)]
    code, stdout, stderr = run_cli(*train(image_data, tmp_path / "run", "--skip-unreadable", "--json"))
    assert code == 0
    assert f"1 unreadable images left out below {image_data / 'train'}" in stderr
    assert f"2 unreadable images left out below {image_data / 'val'}" in stderr
    assert all(str(path) in stderr for path in broken)
    assert "23 training and 10 validation images" in stderr
    assert json.loads(stdout) == {"splits": {}}
    job = trained_on[0].trainer.job
    assert (len(job.train), len(job.validation)) == (23, 10)
    assert not {*job.train.paths, *job.validation.paths} & {*broken, image_data / "train" / "dark" / "dark3.png"}


def test_skipping_does_not_go_as_far_as_losing_a_class(tmp_path: Path, image_data: Path, refused):
    for path in (image_data / "val" / "dark").iterdir():
        cut(path)
    (tmp_path / "run").mkdir()
    refused(*train(image_data, tmp_path / "run", "--skip-unreadable"), names=f"No image of dark below {image_data}")


# 16-bit greyscale

WIDE = np.array([[0, 128, 129], [257, 32768, 65535]], np.uint16)
WIDE_EXPECTED = grey_as_rgb([[0, 0, 1], [1, 128, 255]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, kind):
    path = tmp_path / "scan.png"
    path.write_bytes(encoded(WIDE, kind))
    assert np.asarray(decode(path)).tolist() == WIDE_EXPECTED


def test_32_bit_integers_that_hold_16_bit_values_are_scaled(tmp_path: Path):
    path = tmp_path / "scan.tif"
    path.write_bytes(encoded(WIDE.astype(np.int32), "TIFF"))
    assert np.asarray(decode(path)).tolist() == WIDE_EXPECTED


@pytest.mark.parametrize("values", [WIDE.astype(np.float32), WIDE.astype(np.int32) - 1, WIDE.astype(np.int32) + 1])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, values):
    path = tmp_path / "scan.tif"
    path.write_bytes(encoded(values, "TIFF"))
    with pytest.raises(BadInputError, match=r"scan\.tif has (float|int)32 pixels; 8-bit or 16-bit unsigned are needed"):
        decode(path)


# Modes


def with_palette(mode: str = "P") -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    return image.convert(mode) if mode != "P" else image


INK = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0]], [[0, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 155]]])
WHITE, BLACK, RED, GREEN, DEEP = [255] * 3, [0] * 3, [255, 0, 0], [0, 255, 0], [10, 20, 30]
INK_EXPECTED = [[WHITE, [0, 255, 255], [255, 0, 255]], [[255, 255, 0], BLACK, [100, 100, 100]]]
PALETTE_EXPECTED = [[RED, GREEN, DEEP], [DEEP, GREEN, RED]]
ALPHA = np.array([[255, 128, 0], [0, 1, 255]], np.uint8)
COLOURS = np.array([[[1, 2, 3], [40, 50, 60], [255, 0, 9]], [[7, 8, 9], [0, 0, 0], [90, 80, 70]]], np.uint8)


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        pytest.param(Image.fromarray(GREY), "PNG", {}, grey_as_rgb(GREY.tolist()), id="L"),
        pytest.param(Image.fromarray(GREY), "PNG", {"transparency": 40}, grey_as_rgb(GREY.tolist()), id="L-key"),
        pytest.param(
            Image.fromarray(np.stack([GREY, ALPHA], -1), "LA"), "PNG", {}, grey_as_rgb(GREY.tolist()), id="LA"
        ),
        pytest.param(Image.fromarray(np.dstack([COLOURS, ALPHA]), "RGBA"), "PNG", {}, COLOURS.tolist(), id="RGBA"),
        pytest.param(
            Image.fromarray(np.dstack([COLOURS, ALPHA]), "RGBA"), "TIFF", {}, COLOURS.tolist(), id="RGBA-tiff"
        ),
        pytest.param(with_palette(), "PNG", {}, PALETTE_EXPECTED, id="P"),
        pytest.param(with_palette(), "BMP", {}, PALETTE_EXPECTED, id="P-bmp"),
        pytest.param(with_palette(), "PNG", {"transparency": 1}, PALETTE_EXPECTED, id="P-key"),
        pytest.param(with_palette(), "PNG", {"transparency": b"\0\x80\xff"}, PALETTE_EXPECTED, id="P-alpha"),
        pytest.param(Image.fromarray(INK.astype(np.uint8), "CMYK"), "TIFF", {}, INK_EXPECTED, id="CMYK"),
        pytest.param(Image.fromarray(GREY > 100), "PNG", {}, [[BLACK] * 3, [WHITE] * 3], id="1"),
        pytest.param(Image.fromarray(GREY > 100), "TIFF", {}, [[BLACK] * 3, [WHITE] * 3], id="1-tiff"),
    ],
)
def test_every_mode_gives_its_expected_rgb(tmp_path: Path, image, kind, options, expected):
    path = tmp_path / "image.img"
    image.save(path, kind, **options)
    found = decode(path)
    assert found.mode == "RGB"
    assert np.asarray(found).tolist() == expected


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path):
    path = tmp_path / "print.jpg"
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255
    Image.fromarray(ink, "CMYK").save(path, quality=100)
    assert np.abs(np.asarray(decode(path)).astype(int) - [0, 255, 255]).max() <= 2


def test_a_16_bit_png_in_colour_keeps_its_high_bytes(tmp_path: Path):
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 65535, 0x1234, 0, 0x8000, 0x00FF, 0xFF00)))
    assert np.asarray(decode(path)).tolist() == [[[255, 0x12, 0], [0x80, 0, 255]]]


# EXIF orientations

# How to turn an upright picture so that a reader that heeds the orientation turns it back: the inverse operations.
LYING: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


def write_lying(path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(encoded(np.ascontiguousarray(LYING[orientation](NOISE)), kind, exif=exif, **lossless))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientations_give_the_same_tensor(tmp_path: Path, orientation, kind):
    path = tmp_path / "photo.img"
    write_lying(path, orientation, kind)
    assert np.array_equal(np.asarray(decode(path)), NOISE)
    preprocess = Preprocess.for_size(32)
    assert np.array_equal(preprocess.load(path), preprocess.pixels(Image.fromarray(NOISE)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_lies_on_no_side_for_training_and_for_proofs(tmp_path: Path, orientation):
    from hemf_export.export.parity import Samples
    from hemf_export.train.data import TrainingImages
    from hemf_export.train.recipe import Recipe

    preprocess, upright = Preprocess.for_size(32), Image.new("RGB", (64, 48), "white")
    upright.paste("black", (0, 0, 32, 24))  # 8-pixel blocks of one colour: JPEG keeps them
    for name, turned in (("upright", 1), ("turned", orientation)):
        folder = tmp_path / name / "class"
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = turned
        lying = np.ascontiguousarray(LYING[turned](np.asarray(upright)))
        Image.fromarray(lying).save(folder / "a.jpg", quality=100, subsampling=0, exif=exif)
    first, second = (folders.class_folders(tmp_path / name) for name in ("upright", "turned"))
    proofs = [next(Samples(ModelInput(preprocess), images, 1).pixels((1,))) for images in (first, second)]
    assert np.abs(proofs[0].astype(int) - proofs[1]).max() <= 2
    tensors = [TrainingImages(images, preprocess, Recipe())[0, 0][0] for images in (first, second)]
    assert float((tensors[0] - tensors[1]).abs().max()) < 0.03


# Other formats under an image's name

PSD = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + b"\0" * 14 + b"\1" * 48


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PSD, id="PSD"),
        pytest.param(encoded(NOISE, "EPS"), id="EPS"),
        pytest.param(encoded(NOISE, "GIF"), id="GIF"),
        pytest.param(encoded(NOISE, "ICO"), id="ICO"),
        pytest.param(encoded(NOISE, "PDF"), id="PDF"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="SVG"),
        pytest.param(b"<html>Not found</html>", id="HTML"),
    ],
)
def test_another_format_under_the_name_of_a_png_is_refused(tmp_path: Path, data):
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=r"image\.png is not an image of a known kind \(JPEG, PNG, TIFF"):
        decode(path)


# Several frames


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_several_frames_are_refused_and_counted(tmp_path: Path, kind):
    path = tmp_path / "frames.png"
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE), Image.fromarray(NOISE // 2)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(BadInputError, match=r"frames\.png holds 3 frames"):
        decode(path)


@pytest.mark.parametrize("turned", [1, 6, 8])
@pytest.mark.parametrize("behind", [1, 3])
def test_the_first_picture_of_a_photograph_with_a_preview_is_the_picture(tmp_path: Path, turned, behind):
    """Phones and dermatoscopes write MPO files called .jpg: the picture, and previews or gain maps behind it."""
    path, alone, photograph = tmp_path / "phone.jpg", tmp_path / "alone.jpg", Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = turned
    others = [photograph.resize((200, 100)).rotate(90 * number) for number in range(behind)]
    photograph.save(path, "MPO", save_all=True, append_images=others, exif=exif, quality=90)
    photograph.save(alone, quality=90, exif=exif)
    assert decode(path).size == ((64, 48) if turned == 1 else (48, 64))
    assert np.array_equal(np.asarray(decode(path)), np.asarray(decode(alone)))


@pytest.mark.parametrize("index", [b"MPF\0", b"MPF\0MM\0*\0\0\0\x08\0\1", b"MPF\0" + b"\xff" * 40])
def test_a_photograph_whose_index_of_pictures_is_broken_is_read(tmp_path: Path, index):
    path, jpeg = tmp_path / "phone.jpg", encoded(NOISE, "JPEG")
    path.write_bytes(jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index + jpeg[2:])
    assert decode(path).size == (64, 48)


def test_a_jpeg_of_12_bits_is_refused_with_a_way_out(tmp_path: Path):
    path, jpeg = tmp_path / "scan.jpg", bytearray(encoded(GREY, "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(jpeg)
    with pytest.raises(BadInputError, match=r"scan\.jpg is a JPEG file of other than 8 bits a sample") as caught:
        decode(path)
    assert "16 bits" in str(caught.value.hint)


def test_an_animated_gif_is_refused(tmp_path: Path):
    path = tmp_path / "frames.png"
    Image.fromarray(NOISE).save(path, "GIF", save_all=True, append_images=[Image.fromarray(255 - NOISE)])
    with pytest.raises(BadInputError, match="not an image of a known kind"):
        decode(path)


# What is no file


def make_folder(path: Path) -> None:
    path.mkdir()


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere.jpg")


def make_circle(path: Path) -> None:
    path.symlink_to(path.name)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


STRANGE = [
    (make_folder, "a folder"),
    (make_dangling_link, "a broken link"),
    (make_circle, "a broken link"),
    pytest.param(
        make_fifo,
        "not a regular file",
        marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs"),
    ),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("make", "told"), STRANGE)
def test_what_is_no_file_is_named_and_hangs_nothing(tmp_path: Path, image_data: Path, refused, make, told):
    strange = image_data / "train" / "dark" / "x.jpg"
    make(strange)
    with pytest.raises(BadInputError, match=r"x\.jpg"):
        decode(strange)
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=strange)
    assert f"{strange} ({told})" in message


def test_what_is_no_image_by_its_name_is_named(tmp_path: Path, image_data: Path, refused):
    strange = [image_data / "train" / "dark" / name for name in ("notes.txt", "x.dcm", "no-extension")]
    for path in strange:
        path.touch()
    (tmp_path / "run").mkdir()
    message = refused(*train(image_data, tmp_path / "run"), names=strange[0])
    assert "3 of the entries of" in message
    assert all(str(path) in message for path in strange)


# Odd names and extensions


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("A.JPEG", "JPEG"),
        ("a.Jpg", "JPEG"),
        ("a.tif", "TIFF"),
        ("a.TIFF", "TIFF"),
        ("a.bmp", "BMP"),
        ("a.webp", "WEBP"),
        ("jpeg-inside.png", "JPEG"),
        ("png-inside.jpg", "PNG"),
        ("Blutbild Müller 白血球 🩸.png", "PNG"),
        ("two\nlines\tand a tab.png", "PNG"),
        ("a.b.c.png", "PNG"),
        ("-o.png", "PNG"),
        ("[red]%s{0}.png", "PNG"),
    ],
)
def test_odd_names_are_accepted(tmp_path: Path, name, kind):
    for other in CLASSES[1:]:
        write_images(tmp_path / other, 1, other)
    folder = tmp_path / CLASSES[0]
    folder.mkdir()
    (folder / name).write_bytes(encoded(NOISE, kind))
    images = folders.class_folders(tmp_path)
    assert images.paths[0] == folder / name
    assert not folders.unreadable(images)


@pytest.mark.parametrize("name", [".DS_Store", "._photo.jpg", "Thumbs.db", "desktop.ini"])
def test_files_of_the_system_are_passed_over(tmp_path: Path, name):
    write_images(tmp_path, 2, "dark")
    (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert [path.name for path in folders.image_files(tmp_path)] == ["dark0.png", "dark1.png"]


def test_odd_names_and_extensions_are_trained_on(tmp_path: Path, image_data: Path, run_cli, trained_on):
    train_folder = image_data / "train" / "dark"
    (train_folder / "dark0.png").rename(train_folder / "zwei\nZeilen [bold]ü.png")
    (train_folder / "A.JPEG").write_bytes(encoded(NOISE, "JPEG"))
    (train_folder / "b.png").write_bytes(encoded(NOISE, "JPEG"))
    (train_folder / ".DS_Store").touch()
    code, _, stderr = run_cli(*train(image_data, tmp_path / "run", "--json"))
    assert code == 0
    assert "26 training and 12 validation images" in stderr
    assert trained_on[0].trainer.job.train.labels.count(CLASSES.index("dark")) == 10


def test_a_broken_file_of_an_odd_name_is_named_as_it_is_in_json_and_on_one_line_for_people(
    tmp_path: Path, image_data: Path, run_cli
):
    path = image_data / "val" / "dark" / "zwei\nZeilen [bold]ü.png"
    path.write_bytes(b"no image")
    code, out, err = run_cli(*train(image_data, tmp_path / "run"), "--json")
    assert code == 1
    assert str(path) in json.loads(out)["error"]
    assert r"zwei\nZeilen [bold]ü.png" in err


# Whatever bytes

JPEG_WITH_EXIF = encoded(NOISE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
SEEDS = {
    "JPEG": JPEG_WITH_EXIF,
    "PNG": encoded(NOISE, "PNG"),
    "TIFF": encoded(NOISE, "TIFF"),
    "BMP": encoded(NOISE, "BMP"),
    "WEBP": encoded(NOISE, "WEBP"),
    "1-bit TIFF": encoded(GREY > 100, "TIFF"),
}


def decodes_or_is_refused(folder: Path, data: bytes) -> None:
    path = folder / "any.jpg"
    path.write_bytes(data)
    try:
        image = decode(path)
    except BadInputError as error:
        message = error.message
    else:
        assert image.mode == "RGB"
        assert min(image.size) > 0
        return
    assert str(path) in message


@given(data=st.binary(max_size=400))
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_random_bytes_decode_or_are_refused(tmp_path: Path, data):
    decodes_or_is_refused(tmp_path, data)


@given(
    start=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"MM\0*", b"BM", b"RIFF\0\0\0\0WEBP"]
    ),
    data=st.binary(max_size=200),
)
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_random_bytes_behind_a_true_beginning_decode_or_are_refused(tmp_path: Path, start, data):
    decodes_or_is_refused(tmp_path, start + data)


@given(
    kind=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(1, 10**6),
)
@settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_a_mutated_image_decodes_or_is_refused(tmp_path: Path, kind, changes, length):
    data = bytearray(SEEDS[kind])
    for index, (position, value) in enumerate(changes):
        # Half of the changes fall on the header, where they do most.
        data[position % (len(data) if index % 2 else min(200, len(data)))] = value
    decodes_or_is_refused(tmp_path, bytes(data[:length]))


def test_a_tiff_with_an_empty_second_page_is_refused(tmp_path: Path):
    """Pillow raises a plain TypeError when it counts the pages."""
    path = tmp_path / "pages.tif"
    data = bytearray(SEEDS["TIFF"])
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, len(data))
    path.write_bytes(data + b"\0" * 6)
    with pytest.raises(BadInputError, match=r"pages\.tif"):
        decode(path)


def test_thousands_of_flipped_bytes_in_a_jpeg_raise_nothing_else(tmp_path: Path):
    draw = random.Random(0)
    for _ in range(300):
        data = bytearray(JPEG_WITH_EXIF)
        for _ in range(10):
            data[draw.randrange(len(data))] = draw.randrange(256)
        decodes_or_is_refused(tmp_path, bytes(data))
