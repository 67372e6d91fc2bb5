"""Archive of a bundle: a tar in a zstd frame, followed by the SHA-256 of that frame. Reproducible byte for byte.

`tar --zstd -xf` reads it: the hash is in a skippable zstd frame. It reveals a changed byte anywhere, even where zstd
itself wouldn't notice, before anything is decompressed. Bytes are reproducible for one version of the zstd library.

Bundles come from untrusted sources. The tar has only regular files, each with only a name and a size, so that a header
has a single valid form; Python's tarfile would accept more, such as links and extended headers, so any header that
differs from that of `tar_header` is refused. Names, sizes and types are checked before a byte is written, memory is
bounded, and no more is written than bundle.json announces and the disk can hold: `unpack` writes every file, compared
with bundle.json, or fails.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from hemf_export.bundles import index
from hemf_export.bundles.index import Index, require_plain
from hemf_export.files import artifact_folder
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress, Task

BLOCK = 512
END = bytes(2 * BLOCK)
MODE = 0o644
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.DIRTYPE: "a folder",
}
SUFFIX = ".tar.zst"
LEVEL = 6
WINDOW_LOG = 27  # 128 MB: the largest that decoders accept by default
CHUNK = 1 << 20
_MAGIC, _LABEL = 0x184D2A5B, b"hemf-export bundle sha256:"
_SEAL_BYTES = 8 + len(_LABEL) + 32
AGAIN = "Copy it again from where it was made, as it is."


def tar_header(name: str, size_bytes: int) -> bytes:
    """Return the tar header of a file, without owner and time.

    Raises:
        BadInputError: a name that is too long for tar, or a file of 8 GB and more.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, MODE
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:  # or a name that isn't valid Unicode
        raise BadInputError(f"{name!r} can't be put into the archive: {error}.", "Give it a shorter name.") from error


def tar_padding(size_bytes: int) -> bytes:
    """Return the padding of a file's last block."""
    return bytes(-size_bytes % BLOCK)


def parse_header(block: bytes) -> tuple[str, int]:
    """Parse a tar header; return the file's name and size.

    Raises:
        BadInputError: not a header, the header of something other than a file, or a name that could leave the folder.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise BadInputError(f"it is damaged: {error}") from error
    if info.type != tarfile.REGTYPE:
        raise BadInputError(f"{info.name!r} is {_KINDS.get(info.type, 'no plain file')}")
    require_plain(info.name)
    if block != tar_header(info.name, info.size):
        raise BadInputError(f"the entry of {info.name!r} is not as hemf-export writes it")
    return info.name, info.size


def write(path: Path, folder: Path, names: list[str], progress: Progress = SILENT) -> None:
    """Write files of a folder into an archive.

    Args:
        path: path of the archive; not atomic, which is up to the caller.
        folder: folder that holds the files.
        names: names of the files, in the archive's order.
        progress: receives the number of bytes written.

    Raises:
        BadInputError: a name that is too long for tar.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    total = sum(BLOCK + size + len(tar_padding(size)) for size in sizes.values())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=WINDOW_LOG, enable_ldm=True, write_checksum=True, write_content_size=True
    )  # fmt: skip
    # Not its stream_writer: closed after a disk error, it would hide that behind an error of its own.
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=total + len(END))
    with progress.task("Packing", total, "bytes") as task, open(path, "w+b") as file:
        for name, size in sizes.items():
            file.write(frame.compress(tar_header(name, size)))
            with open(folder / name, "rb") as source:
                while chunk := source.read(CHUNK):
                    file.write(frame.compress(chunk))
                    task.advance(len(chunk))
            file.write(frame.compress(tar_padding(size)))
        file.write(frame.compress(END))
        file.write(frame.flush())
        file.seek(0)
        start = _seal_start()
        seal = start + _digest(file, file.seek(0, io.SEEK_END), start).digest()
        file.write(seal)


def require_sealed(path: Path) -> int:
    """Compare an archive with the hash at its end.

    Returns:
        Size of the zstd frame before the hash, in bytes.

    Raises:
        BadInputError: not a bundle, or a byte of it was changed or is missing.
    """
    try:
        with open(path, "rb") as file:
            length = file.seek(0, io.SEEK_END) - _SEAL_BYTES
            if length > 0:
                file.seek(length)
                seal, start = file.read(), _seal_start()
                if seal[: len(start)] == start:
                    if _digest(file, length, start).digest() == seal[len(start) :]:
                        return length
                    raise BadInputError(f"{path} was changed: its SHA-256 is not the one that it ends with.", AGAIN)
            file.seek(0)
            begins = file.read(4)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    if begins == zstandard.FRAME_HEADER:
        raise BadInputError(f"{path} is cut short, or was packed by something else: its SHA-256 is missing.", AGAIN)
    raise BadInputError(f"{path} is not a bundle.", "Make one: `bundle(*FILE, output=FILE.tar.zst)`.")


def looks_like_one(path: Path) -> bool:
    """Return whether a file is meant to be a bundle, damaged or not."""
    if path.name.lower().endswith(SUFFIX):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(4) == zstandard.FRAME_HEADER
    except OSError:
        return False


class Reader:
    """Reader of the files of an archive, one by one, in bounded memory; call `require_sealed` first.

    Args:
        file: the archive, opened.
        path: its path, for messages.

    Raises:
        BadInputError: anything but files as `write` writes them.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        window = 1 << WINDOW_LOG
        decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        self._stream = decompressor.stream_reader(file, read_across_frames=True, closefd=False)

    def members(self) -> Iterator[tuple[str, int]]:
        """Yield the name and size of each file; read its content with `chunks` before the next."""
        while (block := self._read(BLOCK)) != bytes(BLOCK):
            try:
                yield parse_header(block)
            except BadInputError as error:
                raise self.refusal(error.message) from error
        if self._read(BLOCK) != bytes(BLOCK) or self._some(1):
            raise self.refusal("there is data after its end")

    def chunks(self, size_bytes: int) -> Iterator[bytes]:
        """Yield the content of the current file."""
        left = size_bytes
        while left:
            chunk = self._read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk
        if any(self._read(len(tar_padding(size_bytes)))):
            raise self.refusal("there is something between its files")

    def refusal(self, reason: str) -> BadInputError:
        """Return the error for an invalid archive."""
        return BadInputError(f"{self._path} is refused: {reason}. Nothing was unpacked.", AGAIN)

    def _read(self, count: int) -> bytes:
        data = self._some(count)
        if len(data) != count:
            raise self.refusal("it ends too early")
        return data

    def _some(self, count: int) -> bytes:
        parts = []
        try:
            while count and (part := self._stream.read(count)):
                parts.append(part)
                count -= len(part)
        except (zstandard.ZstdError, MemoryError) as error:
            reason = str(error).rpartition(": ")[2] or type(error).__name__
            raise self.refusal(f"it can't be decompressed ({reason})") from error
        return b"".join(parts)


def order(digests: Mapping[str, str], first: tuple[str, ...]) -> list[str]:
    """Return the order of the files: `first`, then by name, with equal ones adjacent, so that zstd finds them.

    Args:
        digests: hash of each file, by name.
        first: files that a reader needs before the others.
    """
    leader: dict[str, str] = {}
    for name in sorted(digests):
        leader.setdefault(digests[name], name)
    rest = sorted(digests.keys() - set(first), key=lambda name: (leader[digests[name]], name))
    return [*first, *rest]


def _seal_start() -> bytes:
    return struct.pack("<II", _MAGIC, _SEAL_BYTES - 8) + _LABEL


def _digest(file: BinaryIO, length: int, more: bytes) -> hashlib._Hash:
    """Return the SHA-256 of the first `length` bytes of a file followed by `more`."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        digest.update(chunk)
        length -= len(chunk)
    digest.update(more)
    return digest


def unpack(path: Path, folder: Path, progress: Progress = SILENT) -> Index:
    """Write the files of a bundle into an empty folder, which the caller removes after an error.

    Args:
        path: path of the bundle.
        folder: an existing, empty folder.
        progress: receives the number of bytes written.

    Raises:
        BadInputError: a changed byte; a file that isn't in bundle.json, differs from it, is missing or listed twice;
            anything but a regular file; a name that leaves the folder; more than fits on the disk.
    """
    with progress.task(f"Comparing {path.name} with its hash"):
        require_sealed(path)
    with open(path, "rb") as file:
        reader = Reader(file, path)
        members = reader.members()
        contents = _read_index(reader, members)
        needed, free = sum(member.size_bytes for member in contents.members.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise BadInputError(
                f"{path} holds {needed / 1e9:.1f} GB; there are {free / 1e9:.1f} GB free for it.",
                "Choose a folder on a larger disk: `keep=DIR`, or TMPDIR.",
            )
        artifact_folder.write_bytes(folder / index.NAME, contents.to_bytes())
        missing = {**contents.members, index.SUMS: None}
        with progress.task("Unpacking", needed, "bytes") as task:
            for name, size in members:
                if name not in missing:
                    again = name in contents.members or name in (index.NAME, index.SUMS)
                    raise reader.refusal(
                        f"{name!r} is there twice" if again else f"{name!r} is not in its {index.NAME}"
                    )
                member = missing.pop(name)
                if member is None:
                    _require_sums(reader, size, contents)
                    artifact_folder.write_bytes(folder / name, contents.sums())
                    continue
                if size != member.size_bytes:
                    raise reader.refusal(f"{name!r} has {size} bytes; its {index.NAME} says {member.size_bytes}")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                stream = _Hashed(reader.chunks(size), task)
                artifact_folder.write_stream(folder / name, cast(BinaryIO, stream))
                if stream.digest.hexdigest() != member.sha256:
                    raise reader.refusal(f"{name!r} is not the file that its {index.NAME} describes")
        if missing:
            raise reader.refusal(f"{len(missing)} of its files are missing: {', '.join(list(missing)[:5])}")
    return contents


def _read_index(reader: Reader, members: Iterator[tuple[str, int]]) -> Index:
    name, size = next(members, ("", 0))
    if name != index.NAME or size > index.MAX_BYTES:
        raise reader.refusal(f"it doesn't begin with a {index.NAME}")
    try:
        return Index.parse(b"".join(reader.chunks(size)))
    except BadInputError as error:
        raise reader.refusal(error.message) from error


def _require_sums(reader: Reader, size: int, contents: Index) -> None:
    expected = contents.sums()
    if size != len(expected) or b"".join(reader.chunks(size)) != expected:
        raise reader.refusal(f"its {index.SUMS} doesn't agree with its {index.NAME}")


class _Hashed:
    """Readable stream of chunks, with the hash of what was read."""

    def __init__(self, chunks: Iterator[bytes], task: Task) -> None:
        self.digest = hashlib.sha256()
        self._chunks, self._task = chunks, task

    def read(self, count: int = -1) -> bytes:
        """Return the next chunk, of any size; empty at the end."""
        chunk = next(self._chunks, b"")
        self.digest.update(chunk)
        self._task.advance(len(chunk))
        return chunk
