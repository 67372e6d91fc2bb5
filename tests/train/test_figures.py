"""Plots: what they say can be read off them, nothing lies over anything, and they are the same bytes each time."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from hemf_export.images.images import decode
from hemf_export.metrics.classification import RocCurve, mean_curve
from hemf_export.train import figures

NAMES = ("plain", "costs $5 or $6", "線\n", "a name that is much too long for any axis of a plot")


def curves(count: int, names: tuple[str, ...] = NAMES[:2]) -> list[RocCurve]:
    generator = np.random.default_rng(count)
    made = []
    for index in range(count):
        x, y = (np.sort(np.concatenate([[0.0], generator.random(20), [1.0]])) for _ in range(2))
        made.append(RocCurve(names[index % len(names)], x, y, 0.5))
    return made


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    figure = figures.confusion([[3, 1], [0, 0]], ("a", "b"), "title")
    assert texts(figure) == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]
    shades = figure.axes[0].images[0].get_array()
    assert shades.tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize("count", [2, 9])
def test_the_legend_stands_beside_the_curves_and_tells_each_apart(count: int):
    made = curves(count)
    figure = figures.roc(made, "title", mean=mean_curve(made))
    figures.encode(figure, "png")
    axes, legend = figure.axes[0], figure.legends[0]
    renderer = figure.canvas.get_renderer()
    assert not Bbox.intersection(axes.get_window_extent(renderer), legend.get_window_extent(renderer))
    for part in (axes.get_tightbbox(renderer), legend.get_window_extent(renderer)):
        assert figure.bbox.fully_contains(part.x0, part.y0), "nothing is cut off"
        assert figure.bbox.fully_contains(part.x1, part.y1), "nothing is cut off"
    looks = {(line.get_color(), str(line._unscaled_dash_pattern), line.get_linewidth()) for line in axes.lines}
    assert len(looks) == count + 2
    assert len(legend.get_texts()) == count + 2
    assert legend.get_texts()[-2].get_text() == "macro 0." + f"{mean_curve(made).area:.3f}"[2:]
    for line, curve in zip(axes.lines[1:], made, strict=False):
        np.testing.assert_array_equal(line.get_xdata(), curve.false_positive_rate)
        np.testing.assert_array_equal(line.get_ydata(), curve.true_positive_rate)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_plot_is_the_same_bytes(kind: str):
    made = curves(4, NAMES)
    first, again = (figures.encode(figures.roc(made, NAMES[1], mean=mean_curve(made)), kind) for _ in range(2))
    assert first == again
    matrices = [figures.encode(figures.confusion(np.eye(4, dtype=int), NAMES, NAMES[1]), kind) for _ in range(2)]
    assert matrices[0] == matrices[1]
    if kind == "svg":
        assert b"dc:date" not in first
        assert first.startswith(b"<?xml")
    else:
        assert Image.open(io.BytesIO(first)).size[0] > 500


def test_a_figure_is_saved_as_png(tmp_path: Path):
    figures.save(figures.confusion([[1, 0], [0, 1]], ("a", "b"), "title"), tmp_path / "confusion.png")
    assert decode(tmp_path / "confusion.png").width > 300


def test_the_curve_shows_each_epoch_and_leaves_a_gap_where_a_loss_was_not_finite():
    lines = [
        {"epoch": epoch, "loss": loss, "val_loss": loss and loss + 0.5, "accuracy": 0.5, "val_accuracy": 0.25 * epoch}
        for epoch, loss in ((1, 1.5), (2, None), (3, 0.75))
    ]
    loss, accuracy = figures.learning_curve(lines, 2, "title").axes
    training, validation, best = loss.get_lines()
    assert list(training.get_xdata()) == [1, 2, 3]
    np.testing.assert_equal(training.get_ydata(), [1.5, np.nan, 0.75])
    np.testing.assert_equal(validation.get_ydata(), [2.0, np.nan, 1.25])
    assert list(best.get_xdata()) == [2, 2]
    assert list(accuracy.get_lines()[1].get_ydata()) == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("accuracies", [[0.3, 0.9], [0.9, 0.95], [1.0, 1.0], [0.99975, 1.0]])
def test_a_curve_names_its_panels_above_them_and_no_text_lies_over_another(accuracies: list[float], monkeypatch):
    lines = [
        {"epoch": epoch, "loss": 1.0, "val_loss": 0.5, "accuracy": accuracy, "val_accuracy": accuracy}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]
    figure = figures.learning_curve(lines, 1, "hemf-tiny, run")
    drawn: dict[Text, Bbox] = {}

    def draw(text: Text, renderer, *arguments, **more):
        if text.get_text() and text.get_visible():
            drawn[text] = text.get_window_extent(renderer).frozen()
        return real(text, renderer, *arguments, **more)

    real = Text.draw
    monkeypatch.setattr(Text, "draw", draw)
    figures.encode(figure, "png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["", ""], "beside the ticks there is no room for names"
    shares = [float(text.get_text()[:-1]) for text in drawn if text.get_text().endswith("%")]
    assert len(shares) >= 2
    assert max(shares) <= 100, "no accuracy is above 100 %"
    for first, second in itertools.combinations(drawn, 2):
        both = Bbox.intersection(drawn[first], drawn[second])
        assert both is None or min(both.width, both.height) == 0, f"{first} lies over {second}"


@pytest.mark.parametrize("epochs", [0, 1, 150])
def test_a_curve_of_any_length_is_drawn(epochs: int):
    lines = [
        {"epoch": epoch, "loss": 1 / epoch, "val_loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.5}
        for epoch in range(1, epochs + 1)
    ]
    drawn = figures.encode(figures.learning_curve(lines, max(epochs, 1), NAMES[1]), "png")
    assert Image.open(io.BytesIO(drawn)).size[0] > 900
