"""The tar of a bundle: plain files alone, and of each only a name and a size, so that a header has one right form.

Python's tarfile reads more than that, links and headers of any length among it. Whoever unpacks a stranger's archive
wants none of it: what isn't a header as `header` makes it is refused.
"""

from __future__ import annotations

import tarfile

from hemf import file_names
from hemf.errors import BadInputError

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


def header(name: str, size_bytes: int) -> bytes:
    """The header of a file: of nobody, of no time.

    Raises:
        BadInputError: a name that is too long for tar, or a file of 8 GB and more.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, MODE
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:  # a name that is no Unicode among it
        raise BadInputError(f"{name!r} can't be put into the archive: {error}.", "Give it a shorter name.") from error


def padding(size_bytes: int) -> bytes:
    """What fills a file's last block."""
    return bytes(-size_bytes % BLOCK)


def parse(block: bytes) -> tuple[str, int]:
    """Name and size of the file whose header this is.

    Raises:
        BadInputError: no header, one of something else than a file, or a name that could lead elsewhere.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise BadInputError(f"it is damaged: {error}") from error
    if info.type != tarfile.REGTYPE:
        raise BadInputError(f"{info.name!r} is {_KINDS.get(info.type, 'no plain file')}")
    require_plain(info.name)
    if block != header(info.name, info.size):
        raise BadInputError(f"the entry of {info.name!r} is not as hemf-export bundle writes it")
    return info.name, info.size


def require_plain(name: str) -> None:
    """Refuse a name that isn't plainly one of a file below the folder, on any system.

    Raises:
        BadInputError: the name is told.
    """
    if not all(file_names.is_plain(part) for part in name.split("/")):
        raise BadInputError(f"the name {name!r} could lead out of the folder")
