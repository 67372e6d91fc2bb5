"""Names that mean the same thing, however a system or a program writes them.

A Mac writes "ü" as u and two dots (NFD), where Excel, Windows and keyboards have one sign (NFC); Windows separates
folders by back slashes, and programs change the case of an ending. What is compared is the normal form; what is opened
is the name that the disk has.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from hemf_export.files.errors import BadInputError


def composed(name: str) -> str:
    """A name with its letters composed (NFC)."""
    return unicodedata.normalize("NFC", name)


def image_key(name: str) -> str:
    """What an image file, or its place below a folder, is known by: composed, with slashes and a small ending."""
    place = composed(name).replace("\\", "/").removeprefix("./")
    stem, dot, ending = place.rpartition(".")
    return place if not stem or "/" in ending else f"{stem}{dot}{ending.lower()}"


def by_key(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by their keys.

    Raises:
        BadInputError: two files have one key; both are named.
    """
    found: dict[str, Path] = {}
    for key, path in files:
        if (other := found.setdefault(key, path)) != path:
            raise BadInputError(
                f"{other} and {path} can't be told apart: {other.name!a} and {path.name!a} are one name.",
                "Remove or rename one of them.",
            )
    return found


def place_of(name: str, names: Iterable[str]) -> int | None:
    """Which of `names` a name is, however both are written; None for none."""
    wanted = composed(name)
    return next((index for index, other in enumerate(names) if composed(other) == wanted), None)


def same(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two lists have the same names in the same order, however they are written."""
    return [composed(name) for name in names] == [composed(name) for name in others]
