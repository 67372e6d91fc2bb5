"""Percentages of images, with the digits that their number justifies."""

from __future__ import annotations


def percentage(share: float, images: int) -> str:
    """Write a share of so many images, with as many digits as one image more or less shows in.

    23 of 24 is 96%, 963 of 1,000 is 96.3%. So 100% is all of them, and 0% none, however many there are.

    Args:
        share: 0 to 1; an accuracy, a recall, a share that agrees.
        images: that it was measured on.
    """
    digits = max(0, len(str(max(images, 1) - 1)) - 2)
    return f"{share:.{digits}%}"
