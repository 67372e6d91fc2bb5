"""Plots of a classifier's performance: learning curve, confusion matrix and ROC curves, as PNG and SVG.

Curves differ in colour (Okabe and Ito 2008) and dashes, and stay distinct in grey and for colour-blind readers.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hemf_export.files import artifacts
from hemf_export.metrics.classification import RocCurve

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 3, 1, 1.2, 1)))
_LONGEST_NAME = 28  # characters
_FEW_EPOCHS = 20  # below this, each epoch gets a marker: a single one would draw no line
_DPI = 150
_MARGIN = 0.01  # beyond 0 and 1, so that markers there are not cut


def blank(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: counts, and as shades their shares of each true class (row).

    Args:
        counts: images by true class (row) and predicted class (column).
        classes: names of the classes.
        title: title of the figure.
    """
    values = np.asarray(counts)
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    side = 1.6 + max(0.75 * len(classes), 1.8)
    figure = blank(side + 1.6, side + 0.4)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else "black"
        text = f"{values[row, column]}\n{share:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    names = [_shortened(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=30, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(classes)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_linewidth(0.6)
    bar = figure.colorbar(picture, label="share of the true class", fraction=0.046, pad=0.04)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0%", "25%", "50%", "75%", "100%"])
    return figure


def roc(curves: Sequence[RocCurve], title: str, *, mean: RocCurve | None = None) -> Figure:
    """Draw ROC curves, each with its area in the legend beside them.

    Args:
        curves: one per class, or per model.
        title: title of the figure.
        mean: the mean curve, drawn thick and black.
    """
    longest = max(len(_label(curve)) for curve in (*curves, *([mean] if mean else [])))
    figure = blank(5.3 + 0.085 * longest, 4.3)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=(0, (1, 3)), label="chance (0.5)")
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % (len(_COLOURS) - 1 if mean else len(_COLOURS))]
        axes.plot(
            curve.false_positive_rate, curve.true_positive_rate, color=colour, linewidth=1.5,
            linestyle=_DASHES[number % len(_DASHES)], label=_label(curve),
        )  # fmt: skip
    if mean is not None:
        axes.plot(mean.false_positive_rate, mean.true_positive_rate, color="black", linewidth=2.6, label=_label(mean))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.grid(alpha=0.25)
    axes.spines[["right", "top"]].set_visible(False)
    axes.set_title(title, fontsize=10, parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    order = [*range(1, len(handles)), 0]  # chance last
    legend = figure.legend(
        [handles[index] for index in order], [labels[index] for index in order], loc="outside right upper",
        frameon=False, fontsize=9, handlelength=3.2, title="area under the curve", title_fontsize=9,
        alignment="left",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def learning_curve(lines: Sequence[Mapping[str, Any]], best: int, title: str) -> Figure:
    """Draw loss and accuracy of each epoch, on the augmented training images and on the validation images.

    Args:
        lines: a run's `metrics.jsonl`, one per epoch; a value that was not finite is None, and leaves a gap.
        best: the epoch that is kept as best.pt, marked by a line.
        title: title of the figure.
    """
    epochs = [line["epoch"] for line in lines]
    figure = blank(8.4, 3.6)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for number, (key, label) in enumerate(((name, "training, augmented"), (f"val_{name}", "validation"))):
            values = [math.nan if line[key] is None else line[key] for line in lines]
            axes.plot(
                epochs, values, color=_COLOURS[number], linestyle=_DASHES[number], linewidth=1.5, label=label,
                marker="o" if len(epochs) < _FEW_EPOCHS else "", markersize=3.5,
            )  # fmt: skip
        axes.axvline(best, color="#999999", linewidth=0.8, linestyle=(0, (1, 3)), label=f"best.pt: epoch {best}")
        axes.set_xlabel("epoch")
        # Above the panel, where no tick label, however long, comes near it.
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlim(0.5, max(epochs, default=1) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.25)
        axes.spines[["right", "top"]].set_visible(False)
    panels[1].yaxis.set_major_formatter(lambda share, _: "" if share > 1 + 1e-9 else f"{100 * share:.6g}%")
    bottom, top = panels[1].get_ylim()
    panels[1].set_ylim(max(bottom, -_MARGIN), min(top, 1 + _MARGIN))
    figure.suptitle(title, fontsize=10, parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, handlelength=3.2)
    return figure


def encode(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """Encode a figure as a file's bytes, reproducibly: equal figures, encoded in the same order, give equal bytes."""
    import matplotlib

    # In SVG, ids from a fixed salt and no date; text as outlines, so that it looks the same with any installed fonts.
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hemf-export", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)  # a name in a script without a font
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    figure.set_layout_engine("none")  # keep this layout for the next encoding of the figure
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    artifacts.write_bytes(path, encode(figure, "png"))


def _label(curve: RocCurve) -> str:
    return f"{_shortened(curve.name)} {curve.area:.3f}"


def _shortened(name: str) -> str:
    """Replace characters that can't be printed, and cut the middle out of a long name."""
    plain = "".join(character if character.isprintable() else "·" for character in name)
    half = (_LONGEST_NAME - 1) // 2
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[:half]}…{plain[-half:]}"
