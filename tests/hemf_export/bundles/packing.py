"""Bundles put together by hand: any entries, with the seal that a right one has."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import zstandard

from hemf_export.bundles import archive, index
from hemf_export.bundles.index import Index

Entry = tuple[bytes, bytes]


def entries(path: Path) -> dict[str, bytes]:
    """The files of a bundle, by Python's own tarfile."""
    data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()
    found = {}
    place = 0
    while data[place : place + 512] != bytes(512):
        info = tarfile.TarInfo.frombuf(data[place : place + 512], "utf-8", "strict")
        found[info.name] = data[place + 512 : place + 512 + info.size]
        place += 512 + -(-info.size // 512) * 512
    return found


def entry(
    name: str, data: bytes = b"", size: int | None = None, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> Entry:
    """A header with whatever is wanted in it, and the content."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname = len(data) if size is None else size, 0o644, kind, link
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"), data


def whole(found: dict[str, bytes]) -> list[Entry]:
    """Entries of plain files."""
    return [entry(name, data) for name, data in found.items()]


def stream(parts: list[Entry], end: bytes = bytes(1024)) -> bytes:
    """The tar of some entries."""
    return b"".join(header + data + bytes(-len(data) % 512) for header, data in parts) + end


def seal(frames: bytes) -> bytes:
    """What a right bundle ends with."""
    start = archive._seal_start()
    return frames + start + hashlib.sha256(frames + start).digest()


def pack(path: Path, parts: list[Entry], **options: bytes) -> Path:
    """A sealed archive of any entries."""
    path.write_bytes(seal(zstandard.ZstdCompressor(level=1).compress(stream(parts, **options))))
    return path


def reindexed(found: dict[str, bytes], **more: bytes) -> dict[str, bytes]:
    """List the files and some more, with a bundle.json and SHA256SUMS that speak of all of them."""
    about = json.loads(found[index.NAME])
    for name in ("bundle", "contents_sha256", "members", "timed_members"):
        del about[name]
    files = {name: data for name, data in {**found, **more}.items() if name not in (index.NAME, index.SUMS)}
    members = {name: index.Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    made = Index(about, members)
    return {index.NAME: made.to_bytes(), index.SUMS: made.sums(), **files}
