"""Preprocessing: the crop is that of the resized image, the numbers are the formula's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess


@pytest.mark.parametrize("size", [(256, 256), (300, 257), (199, 640), (1000, 31), (5, 7), (224, 225)])
def test_the_crop_is_that_of_the_whole_resized_image(size):
    generator = np.random.default_rng(size)
    image = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    short = min(size)
    scaled = image.resize((int(256 * size[0] / short), int(256 * size[1] / short)), Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224))).astype(int)
    found = Preprocess().pixels(image)
    assert np.array_equal(found, expected)


def test_an_extreme_shape_is_cropped_to_within_a_grey_level(monkeypatch):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (640, 199, 3), dtype=np.uint8))
    whole = Preprocess().pixels(image).astype(int)
    monkeypatch.setattr("hemf_export.images.images.MAX_RESIZED_PIXELS", 0)
    assert np.abs(Preprocess().pixels(image) - whole).max() <= 1


def test_an_extreme_shape_needs_no_extreme_memory():
    assert Preprocess().pixels(Image.new("RGB", (1, 60_000), "red")).tolist() == [[[255, 0, 0]] * 224] * 224


def test_squash_takes_the_whole_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(Preprocess.for_size(64, "squash").pixels(image), expected)


def test_normalization_is_the_formula():
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    found = preprocess.normalize(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_the_description_survives_a_round_trip():
    preprocess = Preprocess.for_size(96, "squash")
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    "change", [{"mode": "fit"}, {"size": 0}, {"std": [0.5, 0.0, 0.5]}, {"mean": [0.5]}, {"sise": 3}]
)
def test_descriptions_without_sense_are_refused(change):
    with pytest.raises(BadInputError):
        Preprocess.from_dict({**Preprocess().to_dict(), **change})
