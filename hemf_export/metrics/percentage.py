"""Figures of a number of images, written with the digits that the number justifies."""

from __future__ import annotations

_FEW = 100  # images below which the third digit of a coefficient is chance


def percentage(share: float, images: int) -> str:
    """Format a share with the digits in which one image more or less shows.

    23 of 24 is 96%, 963 of 1,000 is 96.3%. So 100% is all of them, and 0% none, however many there are.

    Args:
        share: 0 to 1: an accuracy, a recall, an agreement.
        images: number of images that it was measured on.
    """
    return f"{share:.{_digits(images)}%}"


def points(difference: float, images: int) -> str:
    """Write a difference of two shares in percentage points, with the digits of `percentage`.

    Args:
        difference: -100 to 100; a drop in accuracy, in recall.
        images: that both were measured on.
    """
    return f"{difference:z.{_digits(images)}f}"


def coefficient(value: float, images: int) -> str:
    """Write MCC, kappa, an AUC or another coefficient of about 1: three digits, and two for fewer than 100 images.

    Args:
        value: the coefficient.
        images: that it was measured on.
    """
    return f"{value:z.{2 if images < _FEW else 3}f}"


def _digits(images: int) -> int:
    return max(0, len(str(max(images, 1) - 1)) - 2)
