"""Output files: atomic writes, hashes, and the manifest beside each file.

No other module opens a file for writing but `files.artifact_folder`, for whole folders. A hash shows integrity, not
authorship: whoever can change a file can change its manifest too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from hemf_export.files.errors import BadInputError, UsageError

MANIFEST_FORMAT = 1
_CHUNK_BYTES = 1 << 20
_SHOWN = 40  # characters of a name in its temporary file's and its log's: it may have the greatest length allowed


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces it atomically when the block ends without an exception.

    On an exception, KeyboardInterrupt included, the temporary file is removed and `path` stays as it was. After a
    `kill -9` a hidden `.NAME.*.tmp` may remain; nothing reads it.

    Raises:
        BadInputError: the folder can't be written, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:_SHOWN]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        try:
            yield temporary
            sync(temporary)
            os.chmod(temporary, 0o666 & ~umask())  # mkstemp gives 0600, which no server could read
            os.replace(temporary, path)
            sync(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch(beside: Path | None = None) -> Iterator[Path]:
    """Give a temporary folder that is removed at the end of the block.

    Args:
        beside: the output that it is for: the folder is made beside it, hidden; None for the system's temporary folder.

    Raises:
        BadInputError: it can't be made, or its disk is full; the message names `beside`.
    """
    place = None if beside is None else str(beside.parent)
    prefix, suffix = ("hemf-export-", None) if beside is None else (f".{beside.name[:_SHOWN]}.", ".tmp")
    shown = beside
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=place) as folder:
            shown = beside or Path(folder)
            yield Path(folder)
    except OSError as error:
        if shown is not None and error.filename is not None and str(place or shown) not in str(error.filename):
            raise  # the error is about a file elsewhere
        if shown is None:
            raise BadInputError(
                f"No folder for temporary files can be made: {error.strerror or error}.",
                "Name a place with TMPDIR=/some/folder.",
            ) from error
        raise unwritable(shown, error) from error


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: two spaces, keys in the order given, a final newline."""
    # Bytes of a file name that aren't UTF-8 are written as escapes.
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def copy_to(source: Path, path: Path) -> None:
    """Copy a finished file to `path`, atomically."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def log_path(path: Path) -> Path:
    """Path of the log of writing `path`, in the cache folder; each path has its own."""
    return cache_folder() / "logs" / f"{path.name[:_SHOWN]}.{place_hash(path)}.log"


@contextmanager
def growing_log(path: Path) -> Iterator[TextIO]:
    """Open a log that remains whatever happens to this process; an earlier one is replaced. Makes its folder."""
    check_folder(path.parent)
    try:
        path.touch()
    except OSError as error:
        raise unwritable(path, error) from error
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        yield file


def check_writable(path: Path) -> None:
    """Check before any work that `path` can be written; makes its folder.

    Raises:
        BadInputError: the folder can't be made or written, or `path` is a folder.
    """
    try:
        if path.is_dir():
            raise BadInputError(f"{path} is a folder, not a file to write.", "Name a file in it, or another place.")
        check_folder(path.parent)
        manifest_path(path).exists()
    except OSError as error:  # a name that is too long, for its manifest at least
        raise unwritable(path, error) from error


def check_folder(folder: Path) -> None:
    """Make a folder, and check that files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInputError(
            f"Can't write into {folder}: {error.strerror or error}.", "Choose another folder with `output`."
        ) from error


@contextmanager
def new_folders(*folders: Path) -> Iterator[None]:
    """Make folders and see that files can be made in them; where the block fails, those that it left empty go again.

    Raises:
        BadInputError: one can't be made or written.
    """
    new = [each for folder in folders for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        for folder in folders:
            check_folder(folder)
        yield
    except BaseException:
        for folder in sorted(set(new), key=lambda each: len(each.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        raise


def cache_folder() -> Path:
    """Folder for cached results: HEMF_EXPORT_CACHE, or the user's cache folder.

    Raises:
        BadInputError: there is neither: a user without a home folder, as in some containers.
    """
    if own := os.environ.get("HEMF_EXPORT_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "hemf-export")
    except RuntimeError as error:
        raise BadInputError(
            "This user has no home folder to keep a cache in.", "Set HEMF_EXPORT_CACHE to a folder of your own."
        ) from error


def check_distinct(source: Path, output: Path) -> None:
    """Raise BadInputError where the output is the very file that it is made from."""
    if output.exists() and source.exists() and os.path.samefile(source, output):
        raise BadInputError(f"{output} is the input itself.", "Choose another output with `output`.")


def check_outputs(outputs: Iterable[Path], sources: Iterable[Path]) -> None:
    """Check before any work that outputs can be written, differ, and are none of the sources.

    Raises:
        BadInputError: an output that can't be written, or that is a source.
        UsageError: one file named for two outputs.
    """
    seen: set[Path] = set()
    sources = list(sources)
    for output in outputs:
        check_writable(output)
        for source in sources:
            check_distinct(source, output)
        if output.resolve() in seen:
            raise UsageError(f"{output} is named for two outputs.", "Give each a file of its own.")
        seen.add(output.resolve())


def manifest_path(path: Path) -> Path:
    """Path of the manifest of `path`: beside it, with `.json` added to the whole name."""
    return path.with_name(path.name + ".json")


def write_manifest(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of the finished file `path`: its name, size and SHA-256, then `fields`, then tool versions."""
    manifest = {
        "manifest": MANIFEST_FORMAT,
        "file": path.name,
        "size_bytes": path.stat().st_size,
        "sha256": sha256(path),
        **fields,
        "versions": versions(),
    }
    write_json(manifest_path(path), manifest)
    return manifest


def read_manifest(path: Path, hashed: Callable[[], str] | None = None) -> dict[str, Any] | None:
    """Read the manifest beside `path`, and check the file against its hash; None where there is no manifest.

    Args:
        path: the file that it describes.
        hashed: gives the file's SHA-256, where it is known already; called only if there is a manifest.

    Raises:
        BadInputError: the manifest can't be read, or the file isn't the one that it describes.
    """
    place = manifest_path(path)
    if not place.exists():
        return None
    try:
        manifest = json.loads(place.read_bytes())
        expected = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"{place} is not a manifest: {error}.", f"Make {path.name} again.") from error
    actual = sha256(path) if hashed is None else hashed()
    if actual != expected:
        raise BadInputError(
            f"{path} is not the file that {place.name} describes: "
            f"SHA-256 {actual[:16]}, expected {str(expected)[:16]}.",
            "It was changed or only half replaced. Make it again, or remove the manifest if the change is wanted.",
        )
    return dict(manifest)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    installed = {"python": platform.python_version(), "platform": platform.platform()}
    names = (
        "hemf-export",
        "torch",
        "numpy",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxsim",
        "Pillow",
    )
    for name in (*names, "tensorrt", "tensorrt_rtx_cu12"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def place_hash(path: Path) -> str:
    """Short hash of a resolved path: one path has one, however it is written."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]


def sync(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """File mode creation mask of this process."""
    current = os.umask(0)
    os.umask(current)
    return current


def unwritable(path: Path, error: OSError) -> BadInputError:
    """Error for a failed write, with the system's reason."""
    return BadInputError(f"Can't write {path}: {error.strerror or error}.", "Nothing was changed.")
