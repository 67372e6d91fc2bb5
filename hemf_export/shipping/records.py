"""Finished steps, recorded in ship.json, and engines built on this machine: what is still valid is not made again.

The key of a step is the SHA-256 of everything that it depends on: hashes of its inputs, options, and package versions.
A step is valid while its key and the hashes of its files are unchanged.

TensorRT's builds aren't reproducible byte for byte: names of inner values and the order of some tables differ each
time. A shipment into another folder takes the engine from the cache, and so gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifact_folder, artifacts, file_names
from hemf_export.files.errors import BadInputError, HemfError

NAME = "ship.json"
FORMAT = 1
FILE_FACTS = ("graph", "engine", "bundle")  # facts that are file names
ENGINES_KEPT = 8  # on this machine, those used last
_ENGINE_NAME = "engine.name"
_THREADS = 4


@dataclass(frozen=True)
class Done:
    """A finished step.

    Args:
        key: SHA-256 of everything that it depends on.
        files: SHA-256 of its files, by name.
        facts: results for the summary, in plain types.
    """

    key: str
    files: Mapping[str, str]
    facts: Mapping[str, Any]


class Records:
    """Finished steps of one folder, in its ship.json.

    Args:
        folder: folder of the files.

    Raises:
        BadInputError: its ship.json is invalid.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, Done] = {}
        place = folder / NAME
        if not place.is_file():
            self._write()  # marks the folder as ours, even if the first step fails
            return
        try:
            values = json.loads(place.read_bytes())
            if values["ship"] != FORMAT:
                raise ValueError(f"its format is {values['ship']!r}")
            self._done = {name: Done(**{**one}) for name, one in values["steps"].items()}
            _require_plain(self._done.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInputError(
                f"{place} can't be read: {error}.", "Remove it: all steps are done again then."
            ) from error

    def find(self, step: str, key: str) -> Done | None:
        """Look up a step; None unless its key and the hashes of its files are unchanged."""
        done = self._done.get(step)
        if done is None or done.key != key:
            return None
        for name, known in done.files.items():
            path = self.folder / name
            if not path.is_file() or artifacts.sha256(path) != known:
                return None
        return done

    def keep(self, step: str, key: str, paths: Sequence[Path], facts: Mapping[str, Any]) -> Done:
        """Record a finished step; files of its earlier run that it no longer makes are removed."""
        files = {path.name: artifacts.sha256(path) for path in paths}
        before = self._done.get(step)
        for name in before.files if before is not None else ():
            if name not in files and not any(name in done.files for other, done in self._done.items() if other != step):
                (self.folder / name).unlink(missing_ok=True)
        self._done[step] = done = Done(key, files, facts)
        self._write()
        return done

    def _write(self) -> None:
        steps = {name: dict(vars(one)) for name, one in self._done.items()}
        artifacts.write_json(self.folder / NAME, {"ship": FORMAT, "steps": steps})


def discard_empty(folder: Path) -> None:
    """Remove the record of a folder in which no step was done, and the folder if nothing else is in it."""
    with suppress(OSError, ValueError):
        if json.loads((folder / NAME).read_bytes()) == {"ship": FORMAT, "steps": {}}:
            (folder / NAME).unlink()
            folder.rmdir()


def _require_plain(steps: Iterable[Done]) -> None:
    """Raise ValueError where a file name is a path: files of these names are read, replaced and removed."""
    named = [*FILE_FACTS]
    for done in steps:
        for name in (*done.files, *(done.facts[fact] for fact in named if fact in done.facts)):
            if not file_names.is_plain(name):
                raise ValueError(f"{name!r} is not the name of a file in its folder")


def key(step: str, inputs: Mapping[str, Any]) -> str:
    """Key of a step: SHA-256 of its name, inputs and the package versions."""
    values = {"step": step, "versions": artifacts.versions(), **inputs}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def take_engine(key: str, folder: Path) -> list[Path] | None:
    """Copy a cached engine and the files beside it into a folder.

    An engine that its manifest doesn't describe any more is removed from the cache.

    Args:
        key: of the step that built it.
        folder: to copy into.

    Returns:
        The copies, the engine first; None where there is no such engine.
    """
    place = _engine_place(key)
    try:
        name = (place / _ENGINE_NAME).read_text(encoding="utf-8")
        if not file_names.is_plain(name) or artifacts.read_manifest(place / name) is None:
            return None
        others = sorted(path.name for path in place.iterdir() if path.name not in (_ENGINE_NAME, name))
        for each in (name, *others):
            artifacts.copy_to(place / each, folder / each)
        os.utime(place)
    except (OSError, HemfError):
        shutil.rmtree(place, ignore_errors=True)
        return None
    return [folder / each for each in (name, *others)]


def keep_engine(key: str, files: Sequence[Path]) -> None:
    """Cache an engine and the files beside it, and evict the least recently used. A full disk is no error."""
    place = _engine_place(key)
    try:
        shutil.rmtree(place, ignore_errors=True)
        with artifact_folder.whole(place, _ENGINE_NAME) as temporary:
            for path in files:
                artifact_folder.link_or_copy(path, temporary / path.name, copy=True)
            artifact_folder.write_bytes(temporary / _ENGINE_NAME, files[0].name.encode())
        there = sorted(
            (path for path in place.parent.iterdir() if not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
        )
        for old in there[:-ENGINES_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, HemfError):
        shutil.rmtree(place, ignore_errors=True)


def _engine_place(key: str) -> Path:
    return artifacts.cache_folder() / "engines" / key


def require_folder(folder: Path) -> None:
    """Raise BadInputError where a folder of images doesn't exist."""
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder of images.", "Say which: `data=DIR`.")


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files below a folder, hidden ones excepted.

    Raises:
        BadInputError: no folder, or a file that can't be read.
    """
    require_folder(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    shown = [(name, path) for name, path in zip(names, paths, strict=True) if not _hidden(name)]
    digest = hashlib.sha256()
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            for (name, _), sha256 in zip(shown, pool.map(artifacts.sha256, (path for _, path in shown)), strict=True):
                digest.update(f"{sha256}  {name}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise BadInputError(f"{error.filename} can't be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
