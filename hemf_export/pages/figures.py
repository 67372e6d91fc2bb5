"""How pages show figures: value → text. Knows nothing of where they are from."""

from __future__ import annotations


def percent(value: float) -> str:
    """A share: accuracy, agreement."""
    return f"{value:.2%}"


def rough_percent(value: float) -> str:
    """A share that is not known so well: of the cores, of a floor."""
    return f"{value:.0%}"


def change(value: float) -> str:
    """A growth as a share, with its sign."""
    return f"{value:+.1%}"


def fixed(value: float) -> str:
    """A coefficient of about 1."""
    return f"{value:.4f}"


def points(value: float) -> str:
    """Percentage points."""
    return f"{value:.2f}"


def ratio(value: float) -> str:
    """Times something."""
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def small(value: float) -> str:
    """An error, of any size."""
    return f"{value:.2e}" if 0 < abs(value) < 0.01 else f"{value:.3g}"


def cosine(value: float) -> str:
    """A cosine, close to 1."""
    return f"{value:.6f}"


def milliseconds(value: float) -> str:
    """A latency in ms: about three digits."""
    return f"{value:.{0 if value >= 1000 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def rate(value: float) -> str:
    """Images a second."""
    return f"{value:.{0 if value >= 1000 else 1}f}"


def millions(value: float) -> str:
    """Bytes in MB."""
    return f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.2f}"


def billions(value: float) -> str:
    """Operations in G."""
    return f"{value / 1e9:.1f}" if value >= 1e10 else f"{value / 1e9:.3f}"


def size(number_of_bytes: int) -> str:
    """Bytes for people: 3.1 MB."""
    value = float(number_of_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
