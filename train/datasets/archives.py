"""ZIP archives as data sets are published in: the images in them, unpacked where nothing else can be reached."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from hemf_export.files import artifact_folder
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.folders import EXTENSIONS

_KEPT = (*EXTENSIONS, ".csv", ".txt")


def unpack(path: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Write the images and lists of an archive below `folder`, with the folders that they lie in.

    Raises:
        BadInputError: not a ZIP file, damaged, encrypted, larger than the disk, or with a member that would leave
            `folder`; then nothing of it is unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if _wanted(path, member)]
            needed = sum(member.file_size for member in members)
            if needed > shutil.disk_usage(folder).free:
                raise BadInputError(
                    f"{path} holds {needed / 1e9:.1f} GB; the disk of {folder.parent} has no room for it.",
                    "Choose another output folder with `output`.",
                )
            with progress.task(f"Unpacking {path.name}", len(members), "files") as task:
                for member in members:
                    target = folder.joinpath(*_place(member).parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as file:
                        artifact_folder.write_stream(target, cast(BinaryIO, file))
                    task.advance()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is how the module says that a password is asked for.
        raise BadInputError(f"{path} can't be unpacked: {error}.", "Download it again.") from error


def _wanted(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a member is an image or a list; what the system of whoever packed it left is not."""
    place = _place(member)
    if place.is_absolute() or ".." in place.parts or ":" in member.filename:
        raise BadInputError(f"{path} has a member that leads out of its folder: {member.filename!r}.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BadInputError(f"{path} has a link in it: {member.filename!r}.")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
    return not member.is_dir() and not hidden and place.suffix.lower() in _KEPT


def _place(member: zipfile.ZipInfo) -> PurePosixPath:
    """Where a member says that it lies; archives made on Windows may have its separators."""
    return PurePosixPath(member.filename.replace("\\", "/"))
