"""What TensorRT may find again: kernel times for the next build, compiled kernels for the next start.

A file is its own SHA-256 in hexadecimal, a line feed, and what TensorRT serialized: a damaged one is told from a whole
one without a native parser. It shows no more than that: whoever can write there can change both.
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


def timing_place(folder: Path, backend: BackendName, version: str, gpu: str) -> Path:
    """Where the timing cache of a TensorRT version and GPU (its product name) lies.

    TensorRT-RTX measures nothing when it builds, and has no use for one.
    """
    return folder / "timing" / f"{_plain(f'{backend}-{version}-{gpu}')}.cache"


def runtime_place(engine: Path, folder: Path, gpu: str) -> Path:
    """Where TensorRT-RTX's compiled kernels of an engine for a GPU lie: beside it, or in `folder` if that can't be."""
    name = f"{engine.name}.{_plain(gpu)}.runtime-cache"
    return engine.with_name(name) if os.access(engine.parent, os.W_OK) else folder / "runtime" / name


def read(path: Path) -> tuple[bytes, str | None]:
    """What was kept, empty for nothing; and a warning where the file is damaged, which then counts as nothing."""
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
    """Keep `data` in place of what was there.

    Raises:
        BadInputError: the folder can't be written.
    """
    artifacts.check_folder(path.parent)
    artifacts.write_bytes(path, _digest(data) + b"\n" + data)


def add(path: Path, data: bytes, merge: Callable[[bytes, bytes], bytes]) -> None:
    """Keep `data`; what another process has put there since is merged with it.

    Args:
        path: of the cache.
        data: serialized.
        merge: what lies there, and `data` → both.

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
