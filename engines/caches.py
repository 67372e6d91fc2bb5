"""TensorRT's caches on disk: kernel timings for the next build, and compiled kernels for the next start.

A file holds a SHA-256 in hexadecimal, a line feed, and what TensorRT serialized: damage is noticed before a native
parser reads it. The hash protects from no more than that: whoever can write the file can change both.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from hemf_export.engines.backends import BackendName
from hemf_export.files import artifacts, locks

_HASH_LENGTH = 64


def timing_cache_path(folder: Path, backend: BackendName, version: str, gpu: str) -> Path:
    """The path of the timing cache of a TensorRT version and GPU (its product name).

    TensorRT-RTX times no kernels when it builds, and has no use for one.
    """
    return folder / "timing" / f"{_plain(f'{backend}-{version}-{gpu}')}.cache"


def runtime_cache_path(engine: Path, gpu: str) -> Path:
    """The path of TensorRT-RTX's kernels of an engine for a GPU: beside it, or in the cache folder if need be.

    Raises:
        BadInputError: the engine's folder can't be written, and there is no cache folder.
    """
    name = f"{engine.name}.{_plain(gpu)}.runtime-cache"
    if os.access(engine.parent, os.W_OK):
        return engine.with_name(name)
    return artifacts.cache_folder() / "runtime" / name


def read(path: Path) -> tuple[bytes, str | None]:
    """Read a cache, empty where there is none; and a warning where it is damaged, which then counts as empty."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b"", None
    except OSError as error:
        return b"", f"{path} can't be read ({error.strerror or error}); a new one is begun."
    kept, data = content[:_HASH_LENGTH], content[_HASH_LENGTH + 1 :]
    if kept != _digest(data):
        return b"", f"{path} is damaged; a new one is begun."
    return data, None


def write(path: Path, data: bytes) -> None:
    """Write `data` in place of what was there.

    Raises:
        BadInputError: the folder can't be written.
    """
    artifacts.check_folder(path.parent)
    artifacts.write_bytes(path, _digest(data) + b"\n" + data)


def add(path: Path, data: bytes, merge: Callable[[bytes, bytes], bytes]) -> None:
    """Write `data`, merged with what another process has written there since.

    Args:
        path: the cache file.
        data: as TensorRT serialized it.
        merge: (what lies there, `data`) → both.

    Raises:
        BadInputError: the folder can't be written.
    """
    with locks.exclusive(path):
        there, _ = read(path)
        write(path, merge(there, data) if there else data)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower()
