"""Percentages say as much as was measured, and never more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemf_export.metrics.percentage import percentage


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
