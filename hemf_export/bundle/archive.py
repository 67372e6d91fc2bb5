"""A folder as one file: a tar in a zstd frame, and behind it the SHA-256 of all of that. Same files, same bytes.

`tar --zstd -xf` reads it: the hash stands in a frame that zstd skips. With it a changed byte is found wherever it is,
in what zstd itself passes over too, before anything is decompressed.

Bytes are the same for the same version of zstd's library.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import zstandard

from hemf.errors import BadInputError
from hemf_export.bundle import tar_format

SUFFIX = ".tar.zst"
LEVEL = 6
WINDOW_LOG = 27  # 128 MB: the most that decoders take without being told
CHUNK = 1 << 20
_MAGIC, _LABEL = 0x184D2A5B, b"hemf-export bundle sha256:"
_SEAL_BYTES = 8 + len(_LABEL) + 32
AGAIN = "Copy it again from where it was made, as it is."

Progress = Callable[[int], None]


def write(path: Path, folder: Path, names: list[str], progress: Progress = lambda count: None) -> None:
    """Put files of a folder into an archive.

    Args:
        path: of the archive; the caller makes it appear whole.
        folder: that the names are in.
        names: of the files, in the archive's order.
        progress: told of bytes that are done.

    Raises:
        BadInputError: a name that tar has no place for.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    total = sum(tar_format.BLOCK + size + len(tar_format.padding(size)) for size in sizes.values())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=WINDOW_LOG, enable_ldm=True, write_checksum=True, write_content_size=True
    )  # fmt: skip
    # Not its stream_writer: that one, closed by an error of the disk, hides it behind one of its own.
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=total + len(tar_format.END))
    with open(path, "w+b") as file:
        for name, size in sizes.items():
            file.write(frame.compress(tar_format.header(name, size)))
            with open(folder / name, "rb") as source:
                while chunk := source.read(CHUNK):
                    file.write(frame.compress(chunk))
                    progress(len(chunk))
            file.write(frame.compress(tar_format.padding(size)))
        file.write(frame.compress(tar_format.END))
        file.write(frame.flush())
        file.seek(0)
        start = _seal_start()
        seal = start + _digest(file, file.seek(0, io.SEEK_END), start).digest()
        file.write(seal)


def require_sealed(path: Path) -> int:
    """Compare an archive with the hash behind it.

    Returns:
        how many bytes the frame before it has.

    Raises:
        BadInputError: no bundle, or a byte of it was changed or is missing.
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
    raise BadInputError(f"{path} is not a bundle.", "Make one: hemf-export bundle FILE… -o FILE.tar.zst.")


def looks_like_one(path: Path) -> bool:
    """Whether a file is meant as a bundle, damaged or not."""
    if path.name.lower().endswith(SUFFIX):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(4) == zstandard.FRAME_HEADER
    except OSError:
        return False


class Reader:
    """The files of an archive, one after the other, in bounded memory. `require_sealed` comes first.

    Args:
        file: opened.
        path: for messages.

    Raises:
        BadInputError: anything but files as `write` puts them there.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        window = 1 << WINDOW_LOG
        decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        self._stream = decompressor.stream_reader(file, read_across_frames=True, closefd=False)

    def members(self) -> Iterator[tuple[str, int]]:
        """Name and size of each; `chunks` gives its content before the next is asked for."""
        while (block := self._read(tar_format.BLOCK)) != bytes(tar_format.BLOCK):
            try:
                yield tar_format.parse(block)
            except BadInputError as error:
                raise self.refusal(error.message) from error
        if self._read(tar_format.BLOCK) != bytes(tar_format.BLOCK) or self._some(1):
            raise self.refusal("there is more behind its end")

    def chunks(self, size_bytes: int) -> Iterator[bytes]:
        """The content of the file whose header came last."""
        left = size_bytes
        while left:
            chunk = self._read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk
        if any(self._read(len(tar_format.padding(size_bytes)))):
            raise self.refusal("there is something between its files")

    def refusal(self, reason: str) -> BadInputError:
        """The error for what is not as it should be."""
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
    """The order of the files: some first, then by name, but equal ones next to each other, where zstd sees it.

    Args:
        digests: of each file, by its name.
        first: those that a reader needs before the others.
    """
    leader: dict[str, str] = {}
    for name in sorted(digests):
        leader.setdefault(digests[name], name)
    rest = sorted(digests.keys() - set(first), key=lambda name: (leader[digests[name]], name))
    return [*first, *rest]


def _seal_start() -> bytes:
    return struct.pack("<II", _MAGIC, _SEAL_BYTES - 8) + _LABEL


def _digest(file: BinaryIO, length: int, more: bytes) -> hashlib._Hash:
    """SHA-256 of the first `length` bytes of a file and of some more."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        digest.update(chunk)
        length -= len(chunk)
    digest.update(more)
    return digest
