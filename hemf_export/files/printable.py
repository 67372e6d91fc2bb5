"""Names out of files as they can be shown: nothing in them steers a terminal or breaks a line."""

from __future__ import annotations


def printable(text: object) -> str:
    """A name with line breaks, control signs of a terminal and bytes that are no text as escapes."""
    return "".join(sign if sign.isprintable() else _escape(sign) for sign in str(text))


def printable_lines(text: str) -> str:
    """A message as it can be shown. Only its own line breaks, which are followed by two blanks, stay."""
    return "\n  ".join(printable(line) for line in text.split("\n  "))


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode()
