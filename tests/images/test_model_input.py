"""What a file takes of an image: sizes as they are written, and images of another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput, SourceSize

PREPROCESS = Preprocess.for_size(32)
WHOLE = ModelInput(PREPROCESS, raw=True, source=SourceSize(40, 60))


def test_a_source_size_is_written_height_first():
    assert SourceSize.parse("450x600") == SourceSize.parse(" 450×600 ") == SourceSize(450, 600)
    assert str(SourceSize(450, 600)) == "450x600"
    assert SourceSize.from_list([450, 600]) == SourceSize(450, 600)
    assert SourceSize.from_list(None) is None


@pytest.mark.parametrize(
    "text",
    ["", "450", "450x", "x600", "450x600x3", "-1x5", "4.5x6", "0x5", "5x0", "10001x2", "10000x10001", "٤x٥", "450 600"],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="source size"):
        SourceSize.parse(text)


@pytest.mark.parametrize("value", [[450], [450, 600, 3], ["450", "600"], "450x600", [450.0, 600], [0, 5], [True, 5]])
def test_metadata_that_is_no_size_is_an_error_of_the_file(value):
    with pytest.raises(ValueError, match=r"source.size"):
        SourceSize.from_list(value)


def test_a_file_that_resizes_takes_raw_pixels():
    with pytest.raises(UsageError, match="raw pixels"):
        ModelInput(PREPROCESS, raw=False, source=SourceSize(40, 60))


def test_an_image_is_kept_whole_where_the_file_resizes_it(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kept = WHOLE.load(tmp_path / "a.png")
    np.testing.assert_array_equal(kept, pixels)
    np.testing.assert_array_equal(WHOLE.resized(kept[None])[0], PREPROCESS.load(tmp_path / "a.png"))
    for raw in (True, False):
        other = ModelInput(PREPROCESS, raw)
        expected = other.network(other.load(tmp_path / "a.png")[None])
        np.testing.assert_array_equal(other.of_pixels(kept[None], WHOLE), expected)
    np.testing.assert_array_equal(WHOLE.of_pixels(kept[None], WHOLE), kept[None])


def test_an_image_of_another_size_is_named_with_both_and_the_way_out(tmp_path: Path):
    Image.new("RGB", (40, 60)).save(tmp_path / "turned.png")
    with pytest.raises(BadInputError, match=r"40x60 \(height x width\) alone: .*turned.png is 60x40") as caught:
        WHOLE.load(tmp_path / "turned.png")
    assert "`source_size`" in str(caught.value.hint)


def test_of_many_images_of_other_sizes_the_first_are_named():
    sizes = {Path(f"{index}.png"): (40, 60 + index) for index in range(9)}
    with pytest.raises(BadInputError, match=r"1.png is 40x61; .* and 3 more"):
        WHOLE.require_sizes(sizes)
    WHOLE.require_sizes({Path("0.png"): (40, 60)})
    ModelInput(PREPROCESS).require_sizes(sizes)


def test_the_size_is_that_of_the_upright_image(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60)).save(tmp_path / "lying.jpg", exif=exif)
    assert WHOLE.load(tmp_path / "lying.jpg").shape == (40, 60, 3)
