"""Names of files that are made of other names. What a file says is never a path: it is made fit first, or refused."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 100  # signs of a name that was made fit; endings like .fp16.t4.engine.json come behind it
_FIT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = frozenset('/\\:*?"<>|')  # on one system or another


def fit(name: str, otherwise: str = "model", longest: int = LONGEST) -> str:
    """Make a name that is a file's on any system, a model's in Triton, and part of a URL: `my best (v2)` → my-best-v2.

    Letters, digits, `.`, `_` and `-`; a letter or a digit first. A name that is such is left as it is. Where letters of
    another script are lost, or where it is too long, a part of its SHA-256 keeps it apart from others.

    Args:
        name: any text.
        otherwise: what it is called where nothing is left.
        longest: signs.
    """
    if len(name) <= longest and _FIT.fullmatch(name) and not _DEVICES.fullmatch(name):
        return name
    letters = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    made = re.sub(r"-*\.-*", ".", re.sub(r"[^A-Za-z0-9_.]+", "-", letters)).strip("-_.") or otherwise
    if _DEVICES.fullmatch(made):
        made = f"{otherwise}-{made}"
    if len(made) > longest or any(sign.isalnum() and not sign.isascii() for sign in letters):
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        made = f"{made[: longest - 9].rstrip('-_.')}-{digest}"
    return made


def is_plain(name: object) -> bool:
    """Whether something is the name of a file in a folder, on any system, and leads nowhere else."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not name.endswith((".", " "))
        and all(sign.isprintable() and sign not in _FORBIDDEN for sign in name)
        and len(name.encode()) < 256
        and not _DEVICES.fullmatch(name)
    )


def visible(name: str, otherwise: str = "image") -> str:
    """A name with `_` for the signs that a file's name can't have on some system; letters of any script stay."""
    made = "".join(sign if sign.isprintable() and sign not in _FORBIDDEN else "_" for sign in name).rstrip(". ")
    return f"_{made}" if _DEVICES.fullmatch(made) else made or otherwise
