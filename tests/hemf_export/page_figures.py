"""Reads the figures out of a page, and holds them against the JSON that it was made from."""

from __future__ import annotations

import html.parser
from typing import Any


class Figures(html.parser.HTMLParser):
    """Every <data> element of a page: its place in the JSON, its value, and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[list[str]] = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag == "data":
            given = dict(attributes)
            self.found.append([given["data-place"], given["value"], ""])
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag != "data"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found[-1][2] += data


def check(page: str, report: dict[str, Any]) -> set[str]:
    """Every figure is the JSON's at its place, and what is shown is it, rounded.

    Bytes are shown in millions, operations in billions.

    Returns:
        The places.
    """
    found = Figures(page).found
    for place, value, text in found:
        exact: Any = report
        for step in place.split("/"):
            exact = exact[int(step)] if isinstance(exact, list) else exact[step]
        assert float(value) == exact, place
        digits = text.rstrip("%")
        scale = 100.0 if text.endswith("%") else 1.0
        if place.endswith("_bytes"):
            scale = 1e-6
        elif "/operations/" in place:
            scale = 1e-9
        decimals = len(digits.split("e")[0].partition(".")[2])
        power = float(f"1e{digits.partition('e')[2] or 0}")
        assert abs(float(digits) - scale * exact) <= 0.5000001 * 10**-decimals * power, (place, text)
    return {place for place, _, _ in found}
