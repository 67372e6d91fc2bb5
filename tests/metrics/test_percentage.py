"""Percentages say as much as was measured, and never more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemf_export.metrics.percentage import coefficient, percentage, points


@pytest.mark.parametrize(
    ("right", "images", "shown"),
    [
        (23, 24, "96%"), (0, 1, "0%"), (100, 100, "100%"), (100, 101, "99.0%"), (963, 1000, "96.3%"),
        (9631, 10_000, "96.31%"), (99_999, 100_000, "99.999%"),
    ],
)  # fmt: skip
def test_as_many_digits_as_images_justify(right: int, images: int, shown: str):
    assert percentage(right / images, images) == shown


@given(images=st.integers(1, 10**7), share=st.floats(0, 1))
def test_one_image_more_shows_and_only_all_of_them_are_100_percent(images: int, share: float):
    right = int(share * (images - 1))
    text, more = percentage(right / images, images), percentage((right + 1) / images, images)
    assert text != more or (images == 1 and right == 0 and text != more)
    assert (more == percentage(1.0, images)) == (right + 1 == images)
    assert len(percentage(1.0, images)) <= len("100%") + max(0, len(str(images)) - 1)


@pytest.mark.parametrize(
    ("drop", "images", "shown"), [(1.6667, 60, "2"), (-0.2, 60, "0"), (-0.25, 400, "-0.2"), (0.12, 1000, "0.1")]
)
def test_points_have_the_digits_of_percentages(drop: float, images: int, shown: str):
    assert points(drop, images) == shown


@pytest.mark.parametrize(
    ("value", "images", "shown"), [(0.98765, 99, "0.99"), (0.98765, 100, "0.988"), (-0.001, 50, "0.00")]
)
def test_coefficients_have_three_digits_and_two_of_few_images(value: float, images: int, shown: str):
    assert coefficient(value, images) == shown
