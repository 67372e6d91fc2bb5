"""Recognize checkpoint files by their first bytes and the names in their archive, without PyTorch."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Literal

START_BYTES = 128  # of a file, for `container_of`

Container = Literal["safetensors", "pickle"]


def container_of(start: bytes, names: tuple[str, ...] = ()) -> Container | None:
    """Recognize a checkpoint's container by its content; None for any other file.

    Args:
        start: its first `START_BYTES`.
        names: its members, if it is a zip archive: see `members`.
    """
    if start[:2] == b"PK":
        inner = [name.split("/", 1)[-1] for name in names]
        return "pickle" if any(name == "data.pkl" or program_of(name) for name in inner) else None
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    # A safetensors file may begin with the same two bytes, as the length of its header; after it comes JSON.
    if start[8:9] == b"{" and not (pickled and start[4:8].strip(b"\0")):
        return "safetensors"
    return "pickle" if pickled else None


def members(path: Path) -> tuple[str, ...]:
    """List the names in a zip archive, of a truncated one the first alone. Nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error):
        with open(path, "rb") as file:
            start = file.read(1 << 16)
        length = int.from_bytes(start[26:28], "little")
        return (start[30 : 30 + length].decode(errors="replace"),)


def program_of(name: str) -> str | None:
    """Kind of program that an archive with such a member holds, in words; None for none."""
    if name == "constants.pkl" or name.startswith("code/"):
        return "a TorchScript program"
    if name.startswith(("models/", "serialized_exported_program")) or name == "archive_format":
        return "an exported program (.pt2)"
    return None
