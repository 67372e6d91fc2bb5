"""The C++ library decodes and preprocesses as Python does: bit for bit, whatever the file and its shape."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hemf_export.files.errors import BadInputError
from hemf_export.images.folders import EXTENSIONS
from hemf_export.images.images import MAX_RESIZED_PIXELS, Preprocess, decode
from tests.engines import cpp_images
from tests.engines.cpp_images import jpeg_bytes, picture, png_chunk
from tests.engines.cpp_probe import Probe, Refused
from tests.engines.test_cpp_manifest import described

DESCRIPTIONS = (Preprocess(), Preprocess(mode="squash"), Preprocess(32, "crop", 37), Preprocess(31, "squash", 31))


def check_pixels(cpp: Probe, paths: list[Path], preprocess: Preprocess) -> None:
    for path, found in zip(paths, cpp.pixels(paths, preprocess), strict=True):
        assert not isinstance(found, Refused), found
        np.testing.assert_array_equal(found, preprocess.load(path), f"{path.name}, {preprocess}")


@pytest.mark.parametrize("write", [
    cpp_images.write_kinds, cpp_images.write_raw_pngs, cpp_images.write_orientations, cpp_images.write_stated_pngs,
    cpp_images.write_photographs,
])  # fmt: skip
def test_every_kind_of_file_has_the_same_pixels(cpp: Probe, tmp_path: Path, write: Callable[[Path], list[Path]]):
    paths = write(tmp_path)
    for path, found in zip(paths, cpp.decode(paths), strict=True):
        assert not isinstance(found, Refused), found
        np.testing.assert_array_equal(found, np.asarray(decode(path)), path.name)
    check_pixels(cpp, paths, Preprocess(32, "crop", 37))


@pytest.mark.parametrize("preprocess", DESCRIPTIONS, ids=str)
def test_hostile_shapes_have_the_same_pixels(cpp: Probe, tmp_path: Path, preprocess: Preprocess):
    check_pixels(cpp, cpp_images.write_shapes(tmp_path), preprocess)


@pytest.mark.parametrize("seed", range(3))
def test_random_sizes_have_the_same_pixels(cpp: Probe, tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)
    paths = []
    for index in range(24):
        width, height = (int(side) for side in np.exp(random.uniform(0, np.log(700), 2)))
        paths.append(tmp_path / f"{index}-{width}x{height}.bmp")
        picture(width, height, seed=index).save(paths[-1])
    size = int(random.integers(1, 60))
    for mode in ("crop", "squash"):
        check_pixels(cpp, paths, Preprocess(size, mode, size + int(random.integers(0, 20))))


def test_of_an_extreme_shape_only_the_crop_is_made(cpp: Probe, tmp_path: Path):
    paths = [tmp_path / "tall.png", tmp_path / "wide.png"]
    for path, size in zip(paths, ((3, 9000), (9001, 2)), strict=True):
        picture(*size).save(path)
    assert MAX_RESIZED_PIXELS < 256 * 256 * 9000 / 3
    check_pixels(cpp, paths, Preprocess())


def test_content_tells_the_format_not_the_name(cpp: Probe, tmp_path: Path):
    paths = [tmp_path / name for name in ("jpeg.png", "png", "line\nbreak.bmp", "bild-ä-画像.jpeg")]
    for path, kind in zip(paths, ("JPEG", "PNG", "BMP", "JPEG"), strict=True):
        picture(20, 10).save(path, kind)
    check_pixels(cpp, paths, Preprocess(8, "crop", 9))


def test_what_follows_the_pixels_makes_none(cpp: Probe, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(picture(40, 30)) + b"more")
    whole = (tmp_path / "b.png").write_bytes  # without its IEND, and with a pixel chunk whose sum is wrong
    image = tmp_path / "c.png"
    picture(40, 30).save(image)
    whole(image.read_bytes()[:-12])
    damaged = bytearray(image.read_bytes())
    damaged[-16] ^= 1
    image.write_bytes(damaged)
    paths = sorted(tmp_path.iterdir())
    check_pixels(cpp, paths, Preprocess(8, "crop", 9))


def bad_files(folder: Path) -> dict[Path, str]:
    """Files that are refused, and a word of the reason."""
    image, jpeg = picture(64, 48), jpeg_bytes(picture(64, 48))
    image.save(folder / "a.png")
    png = (folder / "a.png").read_bytes()
    image.save(folder / "a.bmp")
    bmp = (folder / "a.bmp").read_bytes()
    header = b"\x89PNG\r\n\x1a\n"
    bomb = (60000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    frames = [picture(8, 8, seed=seed) for seed in range(3)]
    contents = {
        "empty.jpg": (b"", "not an image"),
        "text.png": (b"no image at all", "not an image"),
        "gif.png": (b"GIF89a" + bytes(40), "not an image"),
        "psd.png": (b"8BPS" + bytes(40), "not an image"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "short.jpg": (jpeg[:200], "decoded"),
        "half.png": (png[: len(png) // 2], "decoded"),
        "short.png": (png[:30], "decoded"),
        "half.bmp": (bmp[: len(bmp) // 2], "truncated"),
        "short.bmp": (bmp[:20], "decoded"),
        "bomb.png": (header + png_chunk(b"IHDR", bomb) + png_chunk(b"IDAT", b""), "too large"),
        "sum.png": (png[:20] + bytes((png[20] ^ 1,)) + png[21:], "decoded"),
        "twelve.jpg": (jpeg.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), "other than 8 bits a sample"),
        "bits.bmp": (bmp[:28] + b"\x07" + bmp[29:], "decoded"),
        "size.bmp": (bmp[:18] + b"\0" * 8 + bmp[26:], "decoded"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    frames[0].save(folder / "frames.png", save_all=True, append_images=frames[1:])
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "fifo.png")
    reasons = {folder / name: reason for name, (_, reason) in contents.items()}
    others = {
        "frames.png": "3 frames",
        "folder.jpg": "not a regular",
        "dangling.png": "No such",
        "fifo.png": "not a regular",
    }
    return reasons | {folder / name: reason for name, reason in others.items()}


def test_what_python_refuses_is_refused_for_the_same_reason(cpp: Probe, tmp_path: Path):
    bad = bad_files(tmp_path)
    for (path, reason), found in zip(bad.items(), cpp.decode(list(bad)), strict=True):
        with pytest.raises(BadInputError) as python:
            decode(path)
        assert isinstance(found, Refused), f"{path.name} was read"
        assert (found.code, str(path) in found.message) == (1, True), found
        assert reason in found.message, found
        # What has the first bytes of a format and no more, Pillow may not know at all.
        assert reason in python.value.message or reason == "decoded", python.value


def hostile(folder: Path) -> list[Path]:
    """Shapes that break a resize, every mode, 16 bits, every orientation."""
    writers = (
        cpp_images.write_shapes,
        cpp_images.write_kinds,
        cpp_images.write_raw_pngs,
        cpp_images.write_orientations,
    )
    paths = []
    for number, write in enumerate(writers):
        (folder / str(number)).mkdir()
        paths.extend(write(folder / str(number)))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("data", ["blood_cells", "covid_ct", "isic2018_subset", "hostile"])
def test_images_of_real_sets_have_the_same_pixels(cpp: Probe, shared: Path, tmp_path: Path, data: str, capsys):
    files = sorted(path for path in (shared / "data" / data).rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not files and data != "hostile":
        pytest.skip(f"needs {data}")
    chosen = [files[int(index)] for index in np.linspace(0, len(files) - 1, 100)] if files else hostile(tmp_path)
    for mode in ("crop", "squash"):
        preprocess = Preprocess(mode=mode)
        differences = []
        for path, found in zip(chosen, cpp.pixels(chosen, preprocess), strict=True):
            assert not isinstance(found, Refused), found
            differences.append(np.abs(found.astype(int) - preprocess.load(path)))
        exact, largest = np.mean([values == 0 for values in differences]), np.max(differences)
        with capsys.disabled():
            told = f"{exact:.4%} of the pixels exact, largest difference {largest}"
            sys.stdout.write(f"\n{data}, {mode}, {len(chosen)} images: {told}\n")
        assert largest <= 1
        assert exact >= 0.99


def test_tiff_and_webp_have_the_same_pixels_or_are_refused_as_missing(cpp: Probe, tmp_path: Path):
    paths = cpp_images.write_others(tmp_path)
    for path, found in zip(paths, cpp.decode(paths), strict=True):
        if isinstance(found, Refused):  # this machine has no headers of libtiff or libwebp
            assert found.code == 4, found
            assert "which this build doesn't read" in found.message
        else:
            np.testing.assert_array_equal(found, np.asarray(decode(path)), path.name)


def test_tiff_of_any_depth_has_the_same_pixels_or_is_refused_for_the_same_reason(cpp: Probe, tmp_path: Path):
    paths = cpp_images.write_tiff_depths(tmp_path)
    read = 0
    for path, found in zip(paths, cpp.decode(paths), strict=True):
        if isinstance(found, Refused) and found.code == 4:
            pytest.skip("needs the headers of libtiff")
        if isinstance(found, Refused):
            with pytest.raises(BadInputError) as python:
                decode(path)
            assert python.value.message in found.message
        else:
            np.testing.assert_array_equal(found, np.asarray(decode(path)), path.name)
            read += 1
    assert read > 90


def test_values_are_normalized_to_the_same_floats(cpp: Probe, tmp_path: Path):
    preprocess = Preprocess(29, "crop", 31, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    path = described(tmp_path, preprocess=preprocess.to_dict())
    expected = preprocess.normalize((np.arange(29 * 29 * 3) * 7 % 256).astype(np.uint8).reshape(29, 29, 3))
    np.testing.assert_array_equal(cpp.floats("normalize", path).reshape(3, 29, 29), expected)
