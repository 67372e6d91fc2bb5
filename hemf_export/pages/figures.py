"""Write figures as pages show them: value → text."""

from __future__ import annotations


def count(value: int) -> str:
    """Write a number of images or of kernels."""
    return str(value)


def rough_percent(value: float) -> str:
    """Write a share that is not known so well: of the cores, of a floor."""
    return f"{value:.0%}"


def change(value: float) -> str:
    """Write a change as a share, with its sign."""
    return f"{value:+.1%}"


def bound(value: float) -> str:
    """Write a bound that a user sets or a rule gives: two decimals at most, and no zeros at the end."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def bound_percent(value: float) -> str:
    """Write the bound of a share."""
    return f"{bound(100 * value)}%"


def probability(value: float) -> str:
    """Write a model's probability of a class."""
    return f"{value:.1%}"


def factor(value: float) -> str:
    """Write a speed-up with two or three significant digits: 0.85, 1.15, 2.5, 14."""
    return f"{value:.{0 if value >= 10 else 1 if value >= 2 else 2}f}"


def ratio(value: float) -> str:
    """Write a ratio."""
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def small(value: float) -> str:
    """Write an error of any size: three digits."""
    return f"{value:.2e}" if 0 < abs(value) < 0.01 else f"{value:.3g}"


def cosine(value: float) -> str:
    """Write a cosine, close to 1."""
    return f"{value:.6f}"


def milliseconds(value: float) -> str:
    """Write a latency in ms: about three digits."""
    return f"{value:.{0 if value >= 1000 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def modelled_time(value: float) -> str:
    """Write a modelled time in ms with its unit: three significant digits, 8.94 ms, 1.50 ms, 0.0392 ms."""
    return f"{value:#.3g}".rstrip(".") + " ms"


def rate(value: float) -> str:
    """Write a throughput in images a second."""
    return f"{value:.{0 if value >= 1000 else 1}f}"


def millions(value: float) -> str:
    """Write bytes in MB."""
    return f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.2f}"


def billions(value: float) -> str:
    """Write operations in G."""
    return f"{value / 1e9:.1f}" if value >= 1e10 else f"{value / 1e9:.3f}"


def size(number_of_bytes: int) -> str:
    """Write bytes with their unit: 3.1 MB."""
    value = float(number_of_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
