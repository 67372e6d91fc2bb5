"""A bundle into a folder: all of it, each file compared with bundle.json, or nothing.

Whoever sends a bundle may be anybody. Names, sizes and kinds are looked at before a byte is written, memory is bounded,
and no more is written than bundle.json announced and the disk has.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from hemf import artifact_folder
from hemf.errors import BadInputError
from hemf_export.bundle import index
from hemf_export.bundle.archive import Progress, Reader, require_sealed
from hemf_export.bundle.index import Index


def unpack(path: Path, folder: Path, progress: Progress = lambda count: None) -> Index:
    """Write the files of a bundle into an empty folder, which is left to the caller to remove on an error.

    Args:
        path: of the bundle.
        folder: that is there, and empty.
        progress: told of bytes that are done.

    Raises:
        BadInputError: a byte was changed; a file that isn't in bundle.json, is another than it says, missing or there
            twice; anything but a plain file; a name that leads elsewhere; more than the disk holds.
    """
    require_sealed(path)
    with open(path, "rb") as file:
        reader = Reader(file, path)
        members = reader.members()
        found = _index(reader, members)
        needed, free = sum(member.size_bytes for member in found.members.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise BadInputError(
                f"{path} holds {needed / 1e9:.1f} GB; there are {free / 1e9:.1f} GB free for it.",
                "Choose a folder on a larger disk: --keep DIR, or TMPDIR.",
            )
        artifact_folder.write_bytes(folder / index.NAME, found.to_bytes())
        missing = {**found.members, index.SUMS: None}
        for name, size in members:
            if name not in missing:
                again = name in found.members or name in (index.NAME, index.SUMS)
                raise reader.refusal(f"{name!r} is there twice" if again else f"{name!r} is not in its {index.NAME}")
            member = missing.pop(name)
            if member is None:
                _require_sums(reader, size, found)
                artifact_folder.write_bytes(folder / name, found.sums())
                continue
            if size != member.size_bytes:
                raise reader.refusal(f"{name!r} has {size} bytes; its {index.NAME} says {member.size_bytes}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            stream = _Hashed(reader.chunks(size), progress)
            artifact_folder.write_stream(folder / name, cast(BinaryIO, stream))
            if stream.digest.hexdigest() != member.sha256:
                raise reader.refusal(f"{name!r} is not the file that its {index.NAME} describes")
        if missing:
            raise reader.refusal(f"{len(missing)} of its files are missing: {', '.join(list(missing)[:5])}")
    return found


def read_index(path: Path) -> Index:
    """What a bundle says of itself, without unpacking it; its own hash is compared.

    Raises:
        BadInputError: a byte was changed, or it is no bundle.
    """
    require_sealed(path)
    with open(path, "rb") as file:
        reader = Reader(file, path)
        return _index(reader, reader.members())


def _index(reader: Reader, members: Iterator[tuple[str, int]]) -> Index:
    name, size = next(members, ("", 0))
    if name != index.NAME or size > index.MAX_BYTES:
        raise reader.refusal(f"it doesn't begin with a {index.NAME}")
    try:
        return Index.parse(b"".join(reader.chunks(size)))
    except BadInputError as error:
        raise reader.refusal(error.message) from error


def _require_sums(reader: Reader, size: int, found: Index) -> None:
    expected = found.sums()
    if size != len(expected) or b"".join(reader.chunks(size)) != expected:
        raise reader.refusal(f"its {index.SUMS} doesn't agree with its {index.NAME}")


class _Hashed:
    """Chunks as a stream to read from, with the hash of what was read."""

    def __init__(self, chunks: Iterator[bytes], progress: Progress) -> None:
        self.digest = hashlib.sha256()
        self._chunks, self._progress = chunks, progress

    def read(self, count: int = -1) -> bytes:
        """The next chunk, of whatever size; empty at the end."""
        chunk = next(self._chunks, b"")
        self.digest.update(chunk)
        self._progress(len(chunk))
        return chunk
