"""Engines that were built on this machine, kept by what they were built of.

TensorRT's builds don't repeat byte for byte: names of inner values and the order of some tables are drawn anew each
time. A shipment into another folder takes the engine that is here, and so gives the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from hemf_export.files import artifact_folder, artifacts, file_names
from hemf_export.files.errors import HemfError

KEPT = 8  # engines, those used last
_ENGINE = "engine.name"


def take(key: str, folder: Path) -> list[Path] | None:
    """Copy what was kept under a key into a folder: its files, the engine first; None where nothing fits.

    An engine that isn't what its manifest describes any more is removed.
    """
    place = _place(key)
    try:
        name = (place / _ENGINE).read_text(encoding="utf-8")
        if not file_names.is_plain(name) or artifacts.read_manifest(place / name) is None:
            return None
        others = sorted(path.name for path in place.iterdir() if path.name not in (_ENGINE, name))
        for each in (name, *others):
            artifacts.copy_to(place / each, folder / each)
        os.utime(place)
    except (OSError, HemfError):
        shutil.rmtree(place, ignore_errors=True)
        return None
    return [folder / each for each in (name, *others)]


def keep(key: str, files: Sequence[Path]) -> None:
    """Keep an engine and what lies beside it; the one that was used longest ago goes. A full disk is no error."""
    place = _place(key)
    try:
        shutil.rmtree(place, ignore_errors=True)
        with artifact_folder.whole(place, _ENGINE) as temporary:
            for path in files:
                artifact_folder.link_or_copy(path, temporary / path.name, copy=True)
            artifact_folder.write_bytes(temporary / _ENGINE, files[0].name.encode())
        there = sorted((path for path in place.parent.iterdir() if not path.name.startswith(".")), key=_used)
        for old in there[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, HemfError):
        shutil.rmtree(place, ignore_errors=True)


def _place(key: str) -> Path:
    return artifacts.cache_folder() / "engines" / key


def _used(path: Path) -> float:
    return path.stat().st_mtime
