"""Render a verification as an HTML page, from its JSON and small pictures of the changed images."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from markupsafe import Markup

from hemf_export.images.images import decode
from hemf_export.pages import census_text, drawing, report_page
from hemf_export.precision import compiled_precision
from hemf_export.verification import text
from hemf_export.verification.verification import Verification

_FIRST_SHOWN, _MOST_SHOWN = 6, 60  # changed images of a candidate: those in view at once, and all
_THUMBNAIL = 160  # pixels of the longer side
_WHOLE, _OWN, _BEYOND = "#7f8c99", "#2f7fc1", "#d6483f"  # distinguishable on white and on black


def html(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Render the page.

    Args:
        report: the JSON of a verification.
        pictures: data URIs of images by their names in the report; see `thumbnails`.

    Raises:
        ValueError: the report lacks a part.
    """
    subjects = [("reference", report["reference"])]
    subjects += [(f"candidates/{index}", candidate) for index, candidate in enumerate(report["candidates"])]
    return report_page.render(
        "verification.html", report, subjects=subjects, pictures=pictures, text=text, noun=text.noun(report),
        first_shown=_FIRST_SHOWN, most_shown=_MOST_SHOWN, draw_divergence=draw_divergence,
        remark=compiled_precision.remark, type_title=census_text.title_of, unsized=census_text.UNSIZED,
    )  # fmt: skip


def thumbnails(verification: Verification) -> dict[str, str]:
    """Make data URIs of the images that changed class in any candidate, as many of each candidate as the page shows."""
    indices = {index for candidate in verification.candidates for index in candidate.comparison.changed[:_MOST_SHOWN]}
    pictures = {}
    for index in sorted(indices):
        image = decode(verification.images.paths[index])
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        pictures[verification.name_of(index)] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return pictures


def draw_divergence(where: Mapping[str, Any], name: str) -> Markup:
    """Draw both errors of each node of a candidate's `divergence`, in graph order, below the names of the blocks."""
    nodes = where["nodes"]
    top = max([1.0, *(value for node in nodes for value in (node["error"], node["own_error"]) if value is not None)])
    whole = [_drawn(node["error"], top) for node in nodes]
    own = [_drawn(node["own_error"], top) for node in nodes]
    places = range(len(nodes))
    beyond = [place for place in places if nodes[place]["own_error"] is None or own[place] > where["bound"]]
    with drawing.drawing(11, 4.6) as figure:
        axes = figure.add_subplot()
        axes.set_yscale("log")
        axes.plot(places, whole, color=_WHOLE, linewidth=1.1, label="with all that came before")
        axes.plot(places, own, ".", color=_OWN, markersize=3.5, label="of the node itself, on exact inputs")
        axes.plot(
            beyond,
            [own[place] for place in beyond],
            "D",
            color=_BEYOND,
            markersize=6,
            label="beyond the bound",
            clip_on=False,
        )
        damaged = [place for place in places if nodes[place]["node"] in where["damaged"]]
        if damaged:
            heights = [own[place] for place in damaged]
            axes.plot(damaged, heights, "X", color=_BEYOND, markersize=9, label="stores other numbers", clip_on=False)
        axes.axhline(where["bound"], color=_BEYOND, linewidth=0.9, linestyle="--")
        start = 0
        for index, (block, members) in enumerate(groupby(node["block"] for node in nodes)):
            end = start + len(list(members))
            if index % 2:
                axes.axvspan(start - 0.5, end - 0.5, color=_WHOLE, alpha=0.12, linewidth=0)
            if end - start > len(nodes) / 60:  # a narrower one has no room for its name
                axes.text(
                    (start + end - 1) / 2, 1.01, block, rotation=90, fontsize=7, ha="center", va="bottom",
                    transform=axes.get_xaxis_transform(), parse_math=False,
                )  # fmt: skip
            start = end
        axes.set_xlim(-0.5, len(nodes) - 0.5)
        axes.set_xlabel("node, in graph order")
        axes.set_ylabel("error, by the norm of the float32 value")
        figure.legend(loc="outside lower center", fontsize=8, framealpha=0, ncols=3)
        axes.grid(axis="y", alpha=0.25)
        return drawing.svg(figure, f"Error along the network of {name}")


def _drawn(value: float | None, top: float) -> float:
    """Place values that aren't finite above all others, and leave out an error of zero, which has no logarithm."""
    if value is None:
        return 3 * top
    return value if value > 0 else math.nan
