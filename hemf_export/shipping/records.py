"""ship.json: which steps were done, of what, and with what result. What is still right is not made again.

A step is known by the SHA-256 of all that it depends on: the hashes of its inputs, its options, the versions of the
packages. Its files are known by theirs: one that was changed or removed is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts, file_names
from hemf_export.files.errors import BadInputError

NAME = "ship.json"
FORMAT = 1
FILE_FACTS = ("graph", "engine", "bundle")  # facts of steps that are names of files
_THREADS = 4


@dataclass(frozen=True)
class Done:
    """A step that was done.

    Args:
        key: SHA-256 of all that it was made of.
        files: SHA-256 of what it made, by name.
        facts: what the table tells of it, in plain types.
    """

    key: str
    files: Mapping[str, str]
    facts: Mapping[str, Any]


class Records:
    """The steps of one folder.

    Args:
        folder: that the files lie in.

    Raises:
        BadInputError: its ship.json is something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, Done] = {}
        place = folder / NAME
        if not place.is_file():
            self._write()  # so that the folder is known as ours, whatever comes of the first step
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
        """What a step made, if it was made of the same and is there as it was made."""
        done = self._done.get(step)
        if done is None or done.key != key:
            return None
        for name, known in done.files.items():
            path = self.folder / name
            if not path.is_file() or artifacts.sha256(path) != known:
                return None
        return done

    def keep(self, step: str, key: str, paths: Sequence[Path], facts: Mapping[str, Any]) -> Done:
        """Note that a step is done; files of an earlier time that it doesn't make any more are removed."""
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


def _require_plain(steps: Iterable[Done]) -> None:
    """Raise ValueError where a name of a file leads elsewhere: files of these names are read, replaced and removed."""
    named = [*FILE_FACTS]
    for done in steps:
        for name in (*done.files, *(done.facts[fact] for fact in named if fact in done.facts)):
            if not file_names.is_plain(name):
                raise ValueError(f"{name!r} is not the name of a file in its folder")


def key(step: str, inputs: Mapping[str, Any]) -> str:
    """What a step is known by."""
    values = {"step": step, "versions": artifacts.versions(), **inputs}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def require_folder(folder: Path) -> None:
    """Raise BadInputError where there is no folder of images."""
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder of images.", "Say which: `data=DIR`.")


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder; hidden ones are passed over.

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
