"""The matrices of the resize: their products are Pillow's pixels, to the last one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hemf_export.images import resampling
from hemf_export.images.images import Preprocess
from hemf_export.images.resampling import Resampling

BILINEAR = Image.Resampling.BILINEAR
# 1×1, lines, low and flat ones, what is enlarged, reduced, both, neither, and shapes whose crop alone is made.
SHAPES = (
    (1, 1), (1, 5000), (5000, 1), (61, 640), (640, 61), (2, 3), (450, 600), (600, 450), (900, 400), (5000, 12),
    (256, 256), (224, 224), (64, 64), (1024, 1280), (97, 2000), (3000, 2000),
)  # fmt: skip


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels that are often 0 or 255, where rounding could leave the range."""
    values = np.random.default_rng([seed, height, width]).integers(-80, 336, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


lengths = st.integers(1, 90)


@pytest.mark.parametrize(("width", "height", "new_width"), [(100, 200, 50), (7, 30, 5), (40, 80, 60), (30, 90, 30)])
def test_the_order_of_the_passes_changes_where_pillows_does(width, height, new_width):
    """Around the heights where as many rows are lost as twice the columns, or none."""
    limit = height - max(0, 2 * (width - new_width))
    for new_height in {limit - 1, limit, limit + 1, height} - {0}:
        pixels = noise(height, width, new_height)
        expected = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), BILINEAR))
        order = resampling.rows_come_first((height, width), (new_height, new_width))
        passes = Resampling(resampling.matrix(height, new_height), resampling.matrix(width, new_width), order)
        np.testing.assert_array_equal(passes.apply(pixels), expected)


@given(lengths, lengths, lengths, lengths, st.integers(0, 2**16))
@settings(deadline=None, max_examples=150)
def test_products_with_the_matrices_are_pillows_pixels(height, width, new_height, new_width, seed):
    pixels = noise(height, width, seed)
    expected = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), BILINEAR))
    order = resampling.rows_come_first((height, width), (new_height, new_width))
    passes = Resampling(resampling.matrix(height, new_height), resampling.matrix(width, new_width), order)
    found = passes.apply(pixels)
    np.testing.assert_array_equal(found, expected)


@given(lengths, lengths, st.data())
@settings(deadline=None, max_examples=60)
def test_what_is_kept_is_cut_out_of_the_whole(source, target, data):
    first = data.draw(st.integers(0, target - 1))
    last = data.draw(st.integers(first, target - 1))
    part = resampling.matrix(source, target, first, last)
    np.testing.assert_array_equal(part, resampling.matrix(source, target)[first : last + 1])


@given(lengths, lengths, st.floats(0, 0.9), st.floats(0.05, 1))
@settings(deadline=None, max_examples=100)
def test_a_box_is_resized_as_pillow_does_it(source, target, start, share):
    begin = start * source
    end = min(source, begin + share * (source - begin) + 0.01)
    pixels = noise(1, source)
    expected = np.asarray(Image.fromarray(pixels).resize((target, 1), BILINEAR, box=(begin, 0, end, 1)))
    across = resampling.matrix(source, target, box=(begin, end))
    found = Resampling(resampling.matrix(1, 1), across, rows_first=False).apply(pixels)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_matrices_of_a_preprocessing_are_its_resize_and_crop(shape, mode):
    preprocess = Preprocess.for_size(128, mode)
    pixels = noise(*shape)
    passes = preprocess.resampling(*shape)
    assert (passes.rows.shape, passes.columns.shape) == ((128, shape[0]), (128, shape[1])), "only what is kept"
    np.testing.assert_array_equal(passes.apply(pixels), preprocess.pixels(Image.fromarray(pixels)))


@pytest.mark.parametrize(("source", "target"), [(3, 7), (600, 341), (5000, 31), (1, 256)])
def test_each_row_adds_up_to_one_in_pillows_own_steps(source, target):
    weights = resampling.matrix(source, target)
    np.testing.assert_array_equal(weights * 2**resampling.BITS, np.round(weights * 2**resampling.BITS))
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, atol=source / target * 2.0**-resampling.BITS + 2.0**-20)


@pytest.mark.parametrize("wrong", [(0, 5), (5, 0), (5, 5, -1), (5, 5, 3, 2), (5, 5, 0, 5)])
def test_lengths_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"pixels .* made of"):
        resampling.matrix(*wrong)
