"""The C++ library and its example as they go into a bundle: the sources that are part of this package."""

from __future__ import annotations

from pathlib import Path

import engines
from hemf import artifact_folder

FOLDER = "cpp"
# Named, so that what was built beside them in a checkout stays out.
_PARTS = ("CMakeLists.txt", "LICENSE", "README.md", "cmake", "examples", "fuzz", "include", "src")


def put(folder: Path) -> None:
    """Copy them below a bundle's folder."""
    root = Path(engines.__file__).parent / "cpp"
    for part in _PARTS:
        for path in [root / part] if (root / part).is_file() else sorted((root / part).rglob("*")):
            if path.is_file():
                place = folder / FOLDER / path.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                artifact_folder.link_or_copy(path, place, copy=True)
