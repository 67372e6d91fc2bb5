"""Folders that we write: whole or not at all, like the files of `hemf.artifacts`."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hemf import artifacts
from hemf.errors import BadInputError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place, whole, when the block ends well.

    On an exception, an interruption included, all of it is removed. After a `kill -9` a hidden `.NAME.*.tmp` may
    remain; nothing reads it.

    Raises:
        BadInputError: `path` is there and not an empty folder, can't be written, or the disk is full.
    """
    shown, path = path, path.resolve()
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "not empty" if path.is_dir() else "a file"
            raise BadInputError(f"{shown} is {what}.", "Choose a new or an empty folder with -o.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise artifacts.unwritable(shown, error) from error
    try:
        try:
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    artifacts.sync(Path(folder, name))
                artifacts.sync(Path(folder))
            os.chmod(temporary, 0o777 & ~artifacts.umask())  # mkdtemp gives 0700
            if path.exists():
                path.rmdir()
            temporary.rename(path)
            artifacts.sync(path.parent)
        except OSError as error:
            raise artifacts.unwritable(shown, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_stream(path: Path, source: BinaryIO) -> None:
    """Write a new file of a folder that `whole` gave, from a stream."""
    with open(path, "xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def link_or_copy(source: Path, path: Path, *, copy: bool) -> bool:
    """Put a file into a folder that `whole` gave: a hard link, or a copy where that can't be or `copy` asks for it.

    Returns:
        whether it is a link.
    """
    real = source.resolve()  # a link to a symbolic link would break with it
    if not copy:
        try:
            os.link(real, path)
            return True
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
    with open(real, "rb") as file:
        write_stream(path, file)
    return False
