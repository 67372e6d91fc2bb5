"""`split.json`: the split of each image and how it was decided, so that it can be reproduced and verified."""

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
_SHOWN = 5  # files of each kind that a message names


@dataclass(frozen=True)
class Entry:
    """One image of a split.

    Args:
        file: its path in the data folder, `split/class/name`.
        source: its path below the source folder.
        sha256: SHA-256 of the file.
        group: its group, which is in one split; None without groups.
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
        source: the source folder, as the user gave it.
        method: authors, folds, published, stratified or grouped.
        shares: shares of train, val and test; None if published lists decide.
        seed: seed of the split; None if published lists decide.
        fold: 1 or 2; None without folds.
        order: the order of the images that shuffling starts from.
        groups: file, SHA-256, column and image column of the groups; None without groups.
        classes: names of the classes.
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
    """SHA-256 of a split: of each image's path and content, independent of machine and source folder."""
    lines = sorted(
        f"{entry.sha256}  {names.composed(entry.file)}\n".encode("utf-8", "surrogateescape") for entry in entries
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def write(folder: Path, origin: Origin, entries: list[Entry], left_out: dict[str, str]) -> str:
    """Write `split.json` into a data folder and return the digest of the split.

    Args:
        folder: the data folder.
        origin: how the split was decided.
        entries: one per image.
        left_out: unreadable images below the source, and the reasons.
    """
    entries = sorted(entries, key=lambda entry: entry.file)
    split_digest = digest(entries)
    values = {
        "format": FORMAT,
        **dataclasses.asdict(origin),
        "digest": split_digest,
        "left_out": left_out,
        "images": [{name: value for name, value in dataclasses.asdict(entry).items() if value is not None}
                   for entry in entries],
    }  # fmt: skip
    # JSON's escapes can hold file names that are not valid UTF-8.
    artifacts.write_bytes(folder / NAME, (json.dumps(values, indent=1) + "\n").encode())
    return split_digest


def read(folder: Path) -> dict[str, Any]:
    """Read a data folder's `split.json`, with `images` as a list of `Entry`.

    Raises:
        BadInputError: the file is missing or invalid.
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
        raise BadInputError(f"{path} is not a valid split file: {error!r}.") from error
    return {**values, "images": entries}


def verify(folder: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """Check that a data folder holds exactly the images that its `split.json` lists, and return its content.

    Raises:
        BadInputError: `split.json` is missing or invalid.
        CheckFailedError: images are missing, changed, or not listed.
    """
    record = read(folder)
    entries: list[Entry] = record["images"]
    there = {path.relative_to(folder).as_posix(): path for path in folder.glob("*/*/*") if path.name[0] != "."}
    unlisted = {name: there[name] for name in sorted(there.keys() - {entry.file for entry in entries})}
    others = names.by_key((names.image_key(name), path) for name, path in unlisted.items())
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
    problems = {"missing": sorted(missing), "changed": changed, "not listed": not_listed}
    if any(problems.values()):
        listing = "".join(
            f"\n  {len(files)} {problem}: {', '.join(files[:_SHOWN])}{', …' * (len(files) > _SHOWN)}"
            for problem, files in problems.items()
            if files
        )
        raise CheckFailedError(f"{folder} is not the split that its {NAME} lists:{listing}", "Make it again.", problems)
    return record
