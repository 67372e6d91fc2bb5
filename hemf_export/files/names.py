"""Compare names of files and classes, however a system or a program writes them.

macOS writes "ü" as u and a combining diaeresis (NFD), where Excel, Windows and keyboards have one character (NFC);
Windows separates folders by backslashes, and programs change the case of an extension. Names are compared in a normal
form, and files are opened by the name on disk.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from hemf_export.files.errors import BadInputError


def composed(name: str) -> str:
    """Normalize a name to composed letters (NFC)."""
    return unicodedata.normalize("NFC", name)


def image_key(name: str) -> str:
    """Normalize an image's name or relative path: NFC, forward slashes, extension in lower case."""
    place = composed(name).replace("\\", "/").removeprefix("./")
    stem, dot, ending = place.rpartition(".")
    return place if not stem or "/" in ending else f"{stem}{dot}{ending.lower()}"


def by_key(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Map keys to files.

    Raises:
        BadInputError: two files have one key; both are named.
    """
    paths: dict[str, Path] = {}
    for key, path in files:
        if (other := paths.setdefault(key, path)) != path:
            raise BadInputError(
                f"{other} and {path} can't be told apart: {other.name!a} and {path.name!a} are one name.",
                "Remove or rename one of them.",
            )
    return paths


def place_of(name: str, names: Iterable[str]) -> int | None:
    """Index of a name in `names`, compared in normal form; None where it isn't there."""
    wanted = composed(name)
    return next((index for index, other in enumerate(names) if composed(other) == wanted), None)


def same(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two lists have the same names in the same order, compared in normal form."""
    return [composed(name) for name in names] == [composed(name) for name in others]
