"""Accuracy against latency as inline SVG: a point for each runner at one batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hemf_export import report_page
from hemf_export.bench import latency_plot

_COLOURS = ("#2f7fc1", "#d6483f", "#3f9a58", "#b8741a", "#8e6bbf", "#7f8c99")  # told apart on white and on black
_SIGNS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Point:
    """A runner.

    Args:
        name: of it.
        latency_ms: p50.
        share: accuracy or agreement, 0 to 1.
    """

    name: str
    latency_ms: float
    share: float


def draw(points: Sequence[Point], figure_name: str, batch: int) -> str:
    """The points, the quick ones to the left; their names below, in their order.

    Args:
        points: at least one.
        figure_name: "accuracy" or "agreement".
        batch: images a call.
    """
    from matplotlib.ticker import PercentFormatter

    times = [point.latency_ms for point in points]
    shares = [point.share for point in points]
    with report_page.drawing(latency_plot.WIDTH, 2.9 + 0.2 * len(points)) as figure:
        axes = figure.add_subplot()
        for number, point in enumerate(points):
            # Sign and colour both: told apart in grey as well, and two dozen before a pair comes again.
            sign, colour = _SIGNS[(number + number // 6) % 6], _COLOURS[number % 6]
            name = latency_plot.shortened(point.name)
            axes.plot(
                point.latency_ms, point.share, sign, color=colour, markersize=7, alpha=0.85, clip_on=False, label=name
            )
        if max(times) / min(times) > 2:
            axes.set_xscale("log")
            axes.set_xlim(min(times) / 1.2, max(times) * 1.2)
            latency_plot.log_ticks(axes.xaxis, min(times), max(times))
        else:
            axes.set_xlim(0, 1.1 * max(times))
        around = max(0.12 * (max(shares) - min(shares)), 0.005)
        axes.set_ylim(max(0.0, min(shares) - around), min(1.0, max(shares) + around))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_xlabel("latency of a call, p50, ms")
        axes.set_ylabel(figure_name)
        axes.grid(alpha=0.25)
        axes.spines[["right", "top"]].set_visible(False)
        for text in figure.legend(loc="outside lower left", fontsize=8.5, framealpha=0).get_texts():
            text.set_parse_math(False)
        return report_page.svg(figure, f"{figure_name} against latency at batch {batch}")
