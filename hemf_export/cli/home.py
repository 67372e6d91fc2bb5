"""What packages would leave in the user's home folder and in the folder for temporary files, kept in our cache.

Ours is the one folder that a user finds and may remove: `files.artifacts.cache_folder`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Environment variable → folder in the cache. None is made before its package needs it.
_FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",  # its list of fonts
    "TORCHINDUCTOR_CACHE_DIR": "inductor",  # torch.compile's, by default in the folder for temporary files
    "TRITON_CACHE_DIR": "triton-kernels",  # torch.compile's on a GPU
    "CUDA_CACHE_PATH": "cuda",  # kernels that a driver compiled
}


@contextmanager
def kept_clean() -> Iterator[None]:
    """Let packages keep what they cache in our cache folder; where it can't be written, in a folder that is removed.

    Who has said by its environment variable where a package may write is obeyed.
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
    """A folder that is removed at the end; None where there is none."""
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
    """Whether a folder is there to write into, or could be made."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
