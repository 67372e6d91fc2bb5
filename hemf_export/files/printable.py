"""Escape names out of files for display: none may control a terminal or break a line."""

from __future__ import annotations


def printable(text: object) -> str:
    """Escape line breaks, control characters and bytes that aren't UTF-8."""
    return "".join(character if character.isprintable() else _escape(character) for character in str(text))


def printable_lines(text: str) -> str:
    """Escape a message, but for its own line breaks, which are followed by two spaces."""
    return "\n  ".join(printable(line) for line in text.split("\n  "))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
