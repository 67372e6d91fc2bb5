"""A self-contained HTML page: readable wide and narrow, light and dark, and on paper. Knows nothing of what it shows.

No script, no font and nothing else is fetched. Every figure stands in a `<data>` element with the place in the JSON
that it is from, so that a page can be checked against it.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hemf_export.files.printable import printable

if TYPE_CHECKING:  # what draws imports it when it is needed: a page without plots does without
    from matplotlib.figure import Figure

_INK = "#010203"  # drawn with, then replaced by the colour of the page's text
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --soft: #5b6670; --line: #d5dae0; --band: #f3f5f8;
  --accent: #2166ac; --good: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e8ec; --soft: #9aa5b0; --line: #353c44;
  --band: #1e2329; --accent: #6fb1ec; --good: #58c98b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.8rem, 4vw, 2.5rem) 3rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere; }
p, ul { margin: .4rem 0; } ul { padding-left: 1.3rem; } li { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
td:not(.words) { white-space: nowrap; } td ul { margin: 0; padding-left: 1.1rem; }
th { font-weight: 600; } thead th { color: var(--soft); font-size: .87em; }
th:first-child, td.words, th.words { text-align: left; } td.words { overflow-wrap: anywhere; min-width: 7rem; }
tbody th { font-weight: 400; }
.facts thead { display: none; } .facts th { padding-right: 1.5rem; width: 28%; }
.grid { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
.grid > * { min-width: 0; max-width: 100%; }
.confusion td { min-width: 3.2rem; padding: .35rem .5rem; text-align: center; border: 1px solid var(--line);
  background: color-mix(in srgb, var(--accent) calc(var(--share) * 45%), transparent); print-color-adjust: exact; }
.confusion th { padding-right: .6rem; border: 0; } .confusion thead th { text-align: center; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .9rem; }
.sheet figure { margin: 0; padding: .6rem; border: 1px solid var(--line); border-radius: 6px; font-size: .85rem; }
.sheet img { display: block; width: 100%; height: 9rem; object-fit: contain; background: var(--band);
  margin-bottom: .4rem; }
figcaption { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; display: block; } .wide svg { min-width: 46rem; }
code { font: .87em/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { font-size: 14px; } h1 { font-size: 1.3rem; }
  th, td { padding-right: .5rem; } td.words { min-width: 6rem; }
  .sheet { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); } }
@media print { @page { size: A4; margin: 14mm; } :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444;
  --line: #bbb; --band: #f3f5f8; --accent: #2166ac; --good: #0b6b3a; --bad: #a01c14; }
  body { max-width: none; padding: 0; font-size: 9.5pt; } .scroll { overflow: visible; } .wide svg { min-width: 0; }
  th, td { padding-right: .45rem; }
  .plots > * { width: 47%; }
  h2, h3, h2 + p { break-after: avoid; } table.short, figure, svg, tr, .keep { break-inside: avoid; }
  .sheet { grid-template-columns: repeat(4, 1fr); } .sheet img { height: 28mm; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        title: of it, plain text.
        body: HTML; what is in it from outside has gone through `escaped`.
    """

    title: str
    body: str


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A whole document.

    Args:
        title: plain text.
        lead: HTML below the title: the verdict.
        sections: in order; those without a body are left out.
    """
    parts = [f"<section><h2>{escaped(part.title)}</h2>\n{part.body}</section>" for part in sections if part.body]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{escaped(title)}</h1>\n{lead}\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def escaped(text: object) -> str:
    """Any text as HTML shows it: markup, line breaks and bytes that are no text included."""
    return html.escape(printable(text))


def figure(report: Mapping[str, Any], place: str, show: Callable[[Any], str] = str) -> str:
    """A figure of the JSON, shown by `show`; a dash where there is none.

    Args:
        report: the JSON.
        place: where in it, `candidates/0/metrics/accuracy`.
        show: value → text.
    """
    value = lookup(report, place)
    if value is None:
        return "–"
    return f'<data value="{escaped(repr(value))}" data-place="{escaped(place)}">{escaped(show(value))}</data>'


def lookup(report: Mapping[str, Any], place: str) -> Any:
    """The value at a place of the JSON; None where there is nothing."""
    value: Any = report
    for key in place.split("/"):
        if value is None:
            return None
        key = key.replace("~1", "/").replace("~0", "~")  # as in JSON Pointer (RFC 6901)
        value = value[int(key)] if isinstance(value, Sequence) else value.get(key)
    return value


def key(name: str) -> str:
    """A name as a part of a place."""
    return name.replace("~", "~0").replace("/", "~1")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[int] = (), kind: str = "") -> str:
    """Rows of HTML cells, the first of each its heading; the columns of `words` are aligned to the left."""
    heads = "".join(
        f'<th scope="col"{_words(index, words)}>{_breakable(column)}</th>' for index, column in enumerate(columns)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{_words(index, words)}>{cell}</td>" for index, cell in enumerate(row[1:], start=1))
        + "</tr>\n"
        for row in rows
    )
    short = " short" if len(rows) < 25 else ""  # what fits on a page of paper
    return (
        f'<div class="scroll"><table class="{kind}{short}"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def listed(texts: Sequence[str]) -> str:
    """Plain texts as a list; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escaped(text)}</li>' for text in texts)}</ul>\n" if texts else ""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A matplotlib figure, in inches, whose lines and text get the colour of the page's text.

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
        made = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(made)
        yield made


def svg(drawn: Figure, label: str) -> str:
    """A drawn figure as inline SVG; `label` is read to those who can't see it. Call it inside `drawing`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text: the reader's browser has the font for it. Only its width is guessed here.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escaped(label)}" ', 1)


def _breakable(text: str) -> str:
    """A heading of a column, which may be a file's name: it may break after a dot or a dash, never within a word."""
    return re.sub(r"(?<=\w)([._-])(?=\w)", r"\1<wbr>", escaped(text))


def _words(index: int, words: Sequence[int]) -> str:
    return ' class="words"' if index in words else ""
