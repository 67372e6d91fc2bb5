"""Make file names of names from elsewhere. A name out of a file is never used as a path: it is made safe or refused."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 100  # characters of a name from `fit`; endings like .fp16.t4.engine.json are added
_FIT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = frozenset('/\\:*?"<>|')  # on one system or another


def fit(name: str, otherwise: str = "model", longest: int = LONGEST) -> str:
    """Make a name valid as a file name on any system, a model name in Triton and in a URL: `my best (v2)` → my-best-v2.

    It has ASCII letters, digits, `.`, `_` and `-`, and begins with a letter or a digit. A valid name is returned
    unchanged. Where letters of another script are dropped, or the name is shortened, a part of its SHA-256 keeps it
    unique.

    Args:
        name: any text.
        otherwise: the name where nothing is left.
        longest: greatest length, in characters.
    """
    if len(name) <= longest and _FIT.fullmatch(name) and not _DEVICES.fullmatch(name):
        return name
    letters = "".join(
        character for character in unicodedata.normalize("NFKD", name) if not unicodedata.combining(character)
    )
    fitted = re.sub(r"-*\.-*", ".", re.sub(r"[^A-Za-z0-9_.]+", "-", letters)).strip("-_.") or otherwise
    if _DEVICES.fullmatch(fitted):
        fitted = f"{otherwise}-{fitted}"
    if len(fitted) > longest or any(character.isalnum() and not character.isascii() for character in letters):
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        fitted = f"{fitted[: longest - 9].rstrip('-_.')}-{digest}"
    return fitted


def is_plain(name: object) -> bool:
    """Whether something is a plain file name on any system: no path, no device."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not name.endswith((".", " "))
        and all(character.isprintable() and character not in _FORBIDDEN for character in name)
        and len(name.encode()) < 256
        and not _DEVICES.fullmatch(name)
    )


def visible(name: str, otherwise: str = "image") -> str:
    """Replace characters that a file name can't have on some system by `_`; letters of any script stay."""
    cleaned = "".join(
        character if character.isprintable() and character not in _FORBIDDEN else "_" for character in name
    ).rstrip(". ")
    return f"_{cleaned}" if _DEVICES.fullmatch(cleaned) else cleaned or otherwise
