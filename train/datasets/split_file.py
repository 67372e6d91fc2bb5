"""`split.json`: which image is in which split, and how that was decided, so that it can be made again or checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts, names
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.progress import SILENT, Progress

NAME = "split.json"
FORMAT = 1
_SHOWN = 5  # files of each kind in a message


@dataclass(frozen=True)
class Entry:
    """One image.

    Args:
        file: where it lies, `split/class/name`.
        source: where it comes from, below the source folder.
        sha256: of the file's bytes.
        group: what it was kept together by; None without groups.
    """

    file: str
    source: str
    sha256: str
    group: str | None = None


@dataclass(frozen=True)
class Origin:
    """How a split was decided.

    Args:
        data_set: isic2018, kvasir, covid-ct or class-folders.
        source: the folder that the images come from, as it was given.
        method: authors, folds, published, stratified or grouped.
        shares: of train, val and test; None where lists or folds decide.
        seed: None where lists decide.
        fold: 1 or 2; None without folds.
        order: what the method's shuffling starts from.
        groups: file, SHA-256, column and image column of the groups.
        classes: names.
    """

    data_set: str
    source: str
    method: str
    shares: str | None
    seed: int | None
    fold: int | None
    order: str
    groups: dict[str, str] | None
    classes: tuple[str, ...]


def digest(entries: list[Entry]) -> str:
    """SHA-256 of a split: of each image's place and content, whatever machine or source it was made on."""
    lines = sorted(
        f"{entry.sha256}  {names.composed(entry.file)}\n".encode("utf-8", "surrogateescape") for entry in entries
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def write(folder: Path, origin: Origin, entries: list[Entry], left_out: dict[str, str]) -> str:
    """Write `split.json` into a data folder; the digest of the split.

    Args:
        folder: holds the splits.
        origin: see `Origin`.
        entries: one an image.
        left_out: unreadable images below the source, and why.
    """
    entries = sorted(entries, key=lambda entry: entry.file)
    found = digest(entries)
    values = {
        "format": FORMAT,
        **dataclasses.asdict(origin),
        "digest": found,
        "left_out": left_out,
        "images": [{name: value for name, value in dataclasses.asdict(entry).items() if value is not None}
                   for entry in entries],
    }  # fmt: skip
    # Names of any bytes: JSON's escapes hold what UTF-8 can't.
    artifacts.write_bytes(folder / NAME, (json.dumps(values, indent=1) + "\n").encode())
    return found


def read(folder: Path) -> dict[str, Any]:
    """The content of a data folder's `split.json`, with `images` as a list of `Entry`.

    Raises:
        BadInputError: not there, or no split file.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != FORMAT:
            raise BadInputError(f"{path} is of format {values['format']}; this version reads {FORMAT}.")
        entries = [Entry(**entry) for entry in values["images"]]
        if digest(entries) != values["digest"]:
            raise BadInputError(f"{path} was changed: its digest is not that of its images.", "Make the split again.")
    except OSError as error:
        raise BadInputError(f"Can't read {path}: {error.strerror or error}.", "`split_data()` writes one.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} is no split file: {error!r}.") from error
    return {**values, "images": entries}


def verify(folder: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """See that a data folder holds exactly the images that its `split.json` lists, with their bytes; the record.

    Raises:
        BadInputError: no split file.
        CheckFailedError: images that are missing, changed, or not listed.
    """
    record = read(folder)
    entries: list[Entry] = record["images"]
    there = {path.relative_to(folder).as_posix(): path for path in folder.glob("*/*/*") if path.name[0] != "."}
    left = {name: there[name] for name in sorted(there.keys() - {entry.file for entry in entries})}
    others = names.by_key((names.image_key(name), path) for name, path in left.items())
    missing: list[str] = []
    changed: list[str] = []
    with progress.task(f"Comparing the images of {folder}", len(entries), "images") as task:
        for entry in entries:
            path = there.get(entry.file) or others.pop(names.image_key(entry.file), None)
            if path is None:
                missing.append(entry.file)
            elif artifacts.sha256(path) != entry.sha256:
                changed.append(entry.file)
            task.advance()
    not_listed = sorted(path.relative_to(folder).as_posix() for path in others.values())
    found = {"missing": sorted(missing), "changed": changed, "not listed": not_listed}
    if any(found.values()):
        told = "".join(
            f"\n  {len(these)} {what}: {', '.join(these[:_SHOWN])}{', …' * (len(these) > _SHOWN)}"
            for what, these in found.items()
            if these
        )
        raise CheckFailedError(f"{folder} is not the split that its {NAME} lists:{told}", "Make it again.", found)
    return record
