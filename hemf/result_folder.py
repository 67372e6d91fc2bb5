"""A folder of results that belong together: there whole or not at all, and never in the place of anything else.

Each kind of results has a file by which its folders are known, such as `evaluation.json`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hemf import artifacts
from hemf.errors import BadInputError


def check(path: Path, mark: str, *, force: bool) -> None:
    """Tell before any work that results can't be put at `path`.

    Args:
        path: the folder.
        mark: name of the file by which folders of this kind are known.
        force: whether earlier results of this kind may be replaced; anything else never is.

    Raises:
        BadInputError: it is a file, holds something already, or can't be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise BadInputError(f"{path} is a file, not a folder to write.", "Choose another folder with -o.")
    artifacts.check_folder(path.parent)
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / mark).is_file():
        raise BadInputError(
            f"{path} holds other files, and no {mark}: nothing is written there.", "Choose another folder with -o."
        )
    if not force:
        raise BadInputError(
            f"{path} holds earlier results ({mark}).", "Replace them with --force, or choose another folder with -o."
        )


@contextmanager
def whole(path: Path, mark: str, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends well.

    On an exception, an interruption included, it is removed and `path` stays as it was. See `check`.
    """
    check(path, mark, force=force)
    path = path.resolve()
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise BadInputError(f"Can't write {path}: {error.strerror or error}.", "Nothing was changed.") from error
    try:
        yield temporary
        if not (temporary / mark).is_file():
            raise AssertionError(f"results without their {mark}")
        check(path, mark, force=force)  # what another program put there meanwhile is not ours to replace
        try:
            _replace(temporary, path)
        except OSError as error:
            raise BadInputError(f"Can't write {path}: {error.strerror or error}.", "Nothing was changed.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, path: Path) -> None:
    """Put the new folder at `path`; the one before it comes back if that fails."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o777 & ~mask)  # mkdtemp gives 0700
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
