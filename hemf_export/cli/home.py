"""Redirect caches that packages would leave in the home folder and the temporary folder to our cache folder.

So everything is in one folder that the user may remove: `files.artifacts.cache_folder`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Environment variable → folder in the cache, created only if its package needs it.
_FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",  # list of fonts
    "TORCHINDUCTOR_CACHE_DIR": "inductor",  # torch.compile's cache, by default in the temporary folder
    "TRITON_CACHE_DIR": "triton-kernels",  # torch.compile's kernels on a GPU
    "CUDA_CACHE_PATH": "cuda",  # kernels compiled by the driver
}


@contextmanager
def kept_clean() -> Iterator[None]:
    """Let packages cache in our cache folder, or in a temporary one if it isn't writable.

    Environment variables that the user has set take precedence.
    """
    own = {name: folder for name, folder in _FOLDERS.items() if name not in os.environ}
    if not own:
        yield
        return
    cache = _cache()
    if _can_be_made(cache):
        os.environ.update({name: str(cache / folder) for name, folder in own.items()})
        yield
        return
    with _for_now() as folder:
        if folder is not None:
            os.environ.update({name: str(folder / name.lower()) for name in own})
        yield


@contextmanager
def _for_now() -> Iterator[Path | None]:
    """Yield a folder that is removed at the end; None if none can be created."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="hemf-export-"))
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cache() -> Path:
    from hemf_export.files import artifacts

    return artifacts.cache_folder().absolute()


def _can_be_made(folder: Path) -> bool:
    """Return whether a folder is writable, or could be created."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
