"""Draw a benchmark as inline SVG, narrow enough for a phone.

Latencies and ratios have a row for each runner, its name above its range; accuracy against latency a point for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hemf_export.pages import drawing
from hemf_export.pages.figures import factor, milliseconds

if TYPE_CHECKING:  # see `pages.drawing.drawing`
    from matplotlib.axes import Axes

_WIDTH = 4.4  # inches
_ROW, _AROUND = 0.42, 0.75  # inches: of a row, of the axis and the margins
_DOT, _FLOOR, _LINE = "#2f7fc1", "#d6483f", "#7f8c99"  # distinguishable on white and on black
_FREE = 0.18  # share of the width left for the values at the right
_LOG_FROM = 4.0  # ratio of the largest to the smallest value from which the axis is logarithmic
_NAME = 46  # characters
_COLOURS = ("#2f7fc1", "#d6483f", "#3f9a58", "#b8741a", "#8e6bbf", "#7f8c99")  # distinguishable on white and on black
_SIGNS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class _Row:
    """A runner in a plot of latencies or ratios.

    Args:
        name: its name.
        shown: its value, in words.
        dot: place of the value.
        thick: both ends of the thick line; None for no line.
        thin: both ends of the thin line; None for no line.
        floor: value that it can't be below; None where there is none.
    """

    name: str
    shown: str
    dot: float
    thick: tuple[float, float] | None
    thin: tuple[float, float] | None
    floor: float | None = None

    @property
    def values(self) -> list[float]:
        """List every value that must be in view."""
        ends = (*(self.thick or ()), *(self.thin or ()))
        return [self.dot, *ends, *(() if self.floor is None else (self.floor,))]


def latencies(timings: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw p50 to p99 of each runner at one batch size, and the floor where it ran on the roofline's GPU.

    Args:
        timings: from the JSON of a benchmark.
    """
    rows = []
    for timing in timings:
        percentiles = {name: value for name, value in timing["latency_ms"].items() if value is not None}
        middle, share = timing["latency_ms"]["p50"], timing["share_of_floor"]
        if middle is None:  # too few rounds for percentiles
            continue
        thick = (middle, percentiles["p90"]) if "p90" in percentiles else None
        floor = None if share is None else share * middle
        shown = f"{milliseconds(middle)} ms"
        rows.append(_Row(timing["name"], shown, middle, thick, (middle, max(percentiles.values())), floor))
    return _draw(rows, "latency of a call, ms", f"Latency at batch {timings[0]['batch']}", start=0.0)


def speed_ups(timings: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw how many times as fast as the first runner each is, with its interval."""
    rows = [
        _Row(one["name"], f"{factor(one['speed_up']['median'])}×", one["speed_up"]["median"],
             (one["speed_up"]["low"], one["speed_up"]["high"]), None)
        for one in timings
    ]  # fmt: skip
    return _draw(
        rows,
        f"times as fast as {_shortened(timings[0]['name'])}",
        f"Speed-up at batch {timings[0]['batch']}",
        mark=1.0,
    )


def _log_ticks(axis: Any, least: float, most: float) -> None:
    """Label a logarithmic axis with plain numbers, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1.0, 2.0, 5.0) if most / least <= 100 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _shortened(name: str) -> str:
    """Shorten a name until it fits: without signs that are not printed, and its middle left out where it is long."""
    plain = "".join(sign if sign.isprintable() else "·" for sign in name)
    half = (_NAME - 1) // 2
    return plain if len(plain) <= _NAME else f"{plain[:half]}…{plain[-half:]}"


def _draw(
    rows: Sequence[_Row], label: str, title: str, *, start: float | None = None, mark: float | None = None
) -> Markup:
    if not rows:
        return Markup()
    values = [value for row in rows for value in row.values] + ([] if mark is None else [mark])
    least, most = min(values), max(values)
    with drawing.drawing(_WIDTH, _ROW * len(rows) + _AROUND) as figure:
        axes = figure.add_subplot()
        if most / least > _LOG_FROM:
            axes.set_xscale("log")
            axes.set_xlim(least / 1.15, most * (most / least) ** _FREE)
            _log_ticks(axes.xaxis, least, most)
        else:
            span = most - (least if start is None else start) or 0.1 * most
            axes.set_xlim(least - 0.06 * span if start is None else start, most + _FREE * span)
            axes.locator_params(axis="x", nbins=6)
        axes.set_ylim(-0.36, len(rows) - 0.3)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
        if mark is not None:
            axes.axvline(mark, color=_LINE, linewidth=0.9, linestyle="--")
        for number, row in enumerate(rows):
            _row(axes, len(rows) - 1 - number, row)
        axes.set_xlabel(label, parse_math=False)
        return drawing.svg(figure, title)


def _row(axes: Axes, height: int, row: _Row) -> None:
    if height:  # a rule below all but the last
        axes.axhline(height - 0.36, color=_LINE, linewidth=0.6, alpha=0.45)
    if row.thin:
        axes.plot(row.thin, (height, height), color=_DOT, linewidth=1.2, marker="|", markersize=5, markevery=[1])
    if row.thick:
        axes.plot(row.thick, (height, height), color=_DOT, linewidth=3.6, solid_capstyle="butt", alpha=0.75)
    axes.plot(row.dot, height, "o", color=_DOT, markersize=5.5)
    if row.floor is not None:
        axes.plot(row.floor, height, "^", color=_FLOOR, markersize=5)
    for place, side, text in ((0.0, "left", _shortened(row.name)), (1.0, "right", row.shown)):
        axes.text(
            place, height + 0.17, text, ha=side, va="bottom", fontsize=8.5, parse_math=False,
            transform=axes.get_yaxis_transform(),
        ).set_in_layout(False)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A runner in the plot of accuracy against latency.

    Args:
        name: its name.
        latency_ms: p50.
        share: accuracy or agreement, 0 to 1.
    """

    name: str
    latency_ms: float
    share: float


def accuracies(points: Sequence[Point], figure_name: str, batch: int, images: int) -> Markup:
    """Draw the points, the fast ones to the left, with their names below in order.

    Args:
        points: at least one.
        figure_name: "accuracy" or "agreement".
        batch: images per call.
        images: number of images that the shares were measured on; the axis never zooms in below one image.
    """
    from matplotlib.ticker import PercentFormatter

    times = [point.latency_ms for point in points]
    shares = [point.share for point in points]
    with drawing.drawing(_WIDTH, 2.9 + 0.2 * len(points)) as figure:
        axes = figure.add_subplot()
        for number, point in enumerate(points):
            # Marker and colour both: distinguishable in grey too, and two dozen combinations before one repeats.
            sign, colour = _SIGNS[(number + number // 6) % 6], _COLOURS[number % 6]
            name = _shortened(point.name)
            axes.plot(
                point.latency_ms, point.share, sign, color=colour, markersize=7, alpha=0.85, clip_on=False, label=name
            )
        if max(times) / min(times) > 2:
            axes.set_xscale("log")
            axes.set_xlim(min(times) / 1.2, max(times) * 1.2)
            _log_ticks(axes.xaxis, min(times), max(times))
        else:
            axes.set_xlim(0, 1.1 * max(times))
        around = max(0.12 * (max(shares) - min(shares)), 1.5 / images)
        axes.set_ylim(max(0.0, min(shares) - around), min(1.0, max(shares) + around))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_xlabel("latency of a call, p50, ms")
        axes.set_ylabel(figure_name)
        axes.grid(alpha=0.25)
        axes.spines[["right", "top"]].set_visible(False)
        for text in figure.legend(loc="outside lower left", fontsize=8.5, framealpha=0).get_texts():
            text.set_parse_math(False)
        return drawing.svg(figure, f"{figure_name} against latency at batch {batch}")
