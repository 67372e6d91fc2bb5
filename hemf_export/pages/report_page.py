"""Render self-contained HTML pages from reports in JSON: readable wide and narrow, light and dark, and on paper.

Templates are in `templates/`. No script, no font and nothing else is fetched. Every figure stands in a `<data>`
element with its place in the JSON, so that a page can be checked against it. All text is escaped, markup and control
characters alike; a part that a report lacks is an error, never an empty cell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from hemf_export.files.printable import printable
from hemf_export.metrics.percentage import coefficient, percentage, points
from hemf_export.pages import figures
from hemf_export.pages.axis import Axis


def render(template: str, report: Mapping[str, Any], **values: Any) -> str:
    """Render a page.

    Args:
        template: its file in `templates/`.
        report: the JSON that the page's figures are from.
        values: further variables of the template.

    Raises:
        ValueError: the report lacks a part.
    """
    try:
        page = _environment().get_template(template)
        return page.render(report=report, figure=functools.partial(figure, report), **values)
    except jinja2.UndefinedError as error:
        raise ValueError(f"the report lacks a part: {error.message}") from error


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hemf_export.pages"), autoescape=True, undefined=jinja2.StrictUndefined,
        finalize=_finalize, trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.do"],
    )  # fmt: skip
    environment.globals |= {
        "show": figures, "percentage": percentage, "points": points, "coefficient": coefficient, "key": key,
        "axis": Axis.around,
    }  # fmt: skip
    environment.filters["breakable"] = breakable
    return environment


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else printable(value)


def figure(report: Mapping[str, Any], place: str, show: Callable[..., str] = str, *more: object) -> Markup:
    """Write a figure of the JSON; a dash where there is none.

    Args:
        report: the JSON.
        place: where in it, `candidates/0/metrics/accuracy`.
        show: value → text.
        more: further arguments of `show`, such as the number of images.
    """
    value = lookup(report, place)
    if value is None:
        return Markup("–")
    shown = printable(show(value, *more))
    return Markup('<data value="{}" data-place="{}">{}</data>').format(printable(repr(value)), printable(place), shown)


def lookup(report: Mapping[str, Any], place: str) -> Any:
    """Return the value at a place of the JSON; None where there is nothing."""
    value: Any = report
    for step in place.split("/"):
        if value is None:
            return None
        step = step.replace("~1", "/").replace("~0", "~")  # as in JSON Pointer (RFC 6901)
        value = value[int(step)] if isinstance(value, Sequence) else value.get(step)
    return value


def key(name: str) -> str:
    """Write a name as a part of a place."""
    return name.replace("~", "~0").replace("/", "~1")


def breakable(text: object) -> Markup:
    """Let a file's name break after a dot or a dash, never within a word nor before a percent sign."""
    escaped = str(escape(printable(text))).replace(" %", "&nbsp;%")
    return Markup(re.sub(r"(?<=\w)([._-])(?=\w)", r"\1<wbr>", escaped))
