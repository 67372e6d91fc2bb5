"""Folders of results: written atomically, like the files of `files.artifacts`, and never over anything else.

Each kind of results has a marker file by which its folders are recognized, such as `evaluation.json`: those may be
replaced.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hemf_export.files import artifacts, locks
from hemf_export.files.errors import BadInputError


def check(path: Path, mark: str | None = None, *, force: bool = False) -> None:
    """Check before any work that a folder can be written at `path`: new, empty, or one that may be replaced.

    Args:
        path: the folder.
        mark: name of the marker file of this kind of results; None for a kind that is never replaced.
        force: whether earlier results of this kind may be replaced; anything else never is.

    Raises:
        BadInputError: it is a file, holds something already, or can't be written.
    """
    place = path.resolve()
    try:
        if place.exists() and not place.is_dir():
            raise BadInputError(f"{path} is a file, not a folder to write.", "Choose another folder with `output`.")
        artifacts.check_folder(place.parent)
        if not place.exists() or not any(place.iterdir()):
            return
    except OSError as error:
        raise artifacts.unwritable(path, error) from error
    if mark is None or not (place / mark).is_file():
        raise BadInputError(
            f"{path} is not empty{f', and has no {mark}' if mark else ''}: nothing is written there.",
            "Choose a new or an empty folder with `output`.",
        )
    if not force:
        raise BadInputError(
            f"{path} holds earlier results ({mark}).",
            "Replace them with `force`, or choose another folder with `output`.",
        )


@contextmanager
def whole(path: Path, mark: str | None = None, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder that replaces `path` atomically when the block ends without an exception.

    On an exception, KeyboardInterrupt included, it is removed and `path` stays as it was. After a `kill -9` a
    hidden `.NAME.*.tmp` may remain; nothing reads it.

    Args:
        path: the folder; see `check` for this and the others.
        mark: marker file, which the block must write.
        force: replace earlier results of this kind.

    Raises:
        BadInputError: see `check`; or the disk is full.
        InUseError: another process is writing it.
    """
    check(path, mark, force=force)
    with locks.owned(path):
        yield from _whole(path, mark, force)


def _whole(path: Path, mark: str | None, force: bool) -> Iterator[Path]:
    shown, path = path, path.resolve()
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise artifacts.unwritable(shown, error) from error
    try:
        try:
            yield temporary
            assert mark is None or (temporary / mark).is_file(), f"results without their {mark}"
            for folder, _, names in os.walk(temporary):
                for name in names:
                    artifacts.sync(Path(folder, name))
                artifacts.sync(Path(folder))
            os.chmod(temporary, 0o777 & ~artifacts.umask())  # mkdtemp gives 0700
            check(shown, mark, force=force)  # what another program put there meanwhile is not ours to replace
            _replace(temporary, path)
            artifacts.sync(path.parent)
        except OSError as error:
            raise artifacts.unwritable(shown, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, path: Path) -> None:
    """Move the new folder to `path`; the earlier one is restored if that fails."""
    if not path.exists():
        os.replace(temporary, path)
        return
    aside = temporary.with_name(temporary.name + ".old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_stream(path: Path, source: BinaryIO) -> None:
    """Write a new file from a stream, in a folder of `whole`."""
    with open(path, "xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file, in a folder of `whole`."""
    with open(path, "xb") as file:
        file.write(data)


def link_or_copy(source: Path, path: Path, *, copy: bool) -> bool:
    """Hard-link a file into a folder of `whole`; copy it where it can't be linked or `copy` is set.

    Returns:
        Whether it is a link.
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
