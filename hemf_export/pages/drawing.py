"""Draw matplotlib figures as inline SVG, in the colours and the font of the page around them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hemf_export.files.printable import printable

if TYPE_CHECKING:  # what draws imports it when it is needed: a page without plots does without
    from matplotlib.figure import Figure

_INK = "#010203"  # drawn with, then replaced by the colour of the page's text


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """Open a matplotlib figure, in inches, whose lines and text get the colour of the page's text.

    Names from outside are drawn with `parse_math=False`: a $ in them is a $. Marks along an axis need it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(ink, _INK)
    # Text stays text: it can be found, and is set in the page's font. Ids from a fixed salt: the same page each time.
    style |= {"svg.fonttype": "none", "svg.hashsalt": "hemf-export", "font.family": "sans-serif", "font.size": 9.0}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def svg(figure: Figure, label: str) -> Markup:
    """Convert a drawn figure to inline SVG; `label` is read to those who can't see it. Call it inside `drawing`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text: the reader's browser has the font for it. Only its width is guessed here.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    head = Markup('<svg role="img" aria-label="{}" ').format(printable(label))
    return Markup(text.replace("<svg ", head, 1))
