"""Index of a bundle: bundle.json, its first file, which lists every file with size and SHA-256; and SHA256SUMS.

Timings are in a folder of their own, timings/: the rest of a bundle is reproducible from the same inputs, and
`contents_sha256` covers that rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files import artifacts, file_names
from hemf_export.files.errors import BadInputError

NAME, SUMS = "bundle.json", "SHA256SUMS"
FORMAT = 1
TIMINGS = "timings"
MODELS = "models"
MAX_BYTES = 16 << 20
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Member:
    """File of a bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Index:
    """Content of bundle.json.

    Args:
        about: everything but the files.
        members: files by name, except bundle.json itself and SHA256SUMS.
    """

    about: Mapping[str, Any]
    members: Mapping[str, Member]

    @property
    def contents_sha256(self) -> str:
        """SHA-256 of the names and hashes of all files without timings."""
        lines = "".join(f"{self.members[name].sha256}  {name}\n" for name in sorted(self.members) if not timed(name))
        return hashlib.sha256(lines.encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """bundle.json."""
        kinds: dict[str, dict[str, Any]] = {"members": {}, "timed_members": {}}
        for name, member in sorted(self.members.items()):
            kinds["timed_members" if timed(name) else "members"][name] = dict(vars(member))
        values = {"bundle": FORMAT, **self.about, "contents_sha256": self.contents_sha256, **kinds}
        return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()

    def sums(self) -> bytes:
        """Return SHA256SUMS, for `sha256sum -c`, of every file including bundle.json."""
        own = {NAME: hashlib.sha256(self.to_bytes()).hexdigest()}
        known = own | {name: member.sha256 for name, member in self.members.items()}
        return "".join(f"{known[name]}  {name}\n" for name in sorted(known)).encode()

    @classmethod
    def of_folder(cls, folder: Path, about: Mapping[str, Any]) -> Index:
        """Index all files below a folder, which has no bundle.json yet."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        members = {
            path.relative_to(folder).as_posix(): Member(artifacts.sha256(path), path.stat().st_size) for path in paths
        }
        return cls(about, members)

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Parse bundle.json, the inverse of `to_bytes`.

        Raises:
            BadInputError: it differs from what `to_bytes` writes, even in one byte.
        """
        try:
            values = json.loads(data)
            if values["bundle"] != FORMAT:
                raise BadInputError(f"its {NAME} has the format {values['bundle']!r}; this hemf-export reads {FORMAT}")
            listed = {**values.pop("members"), **values.pop("timed_members")}
            members = {name: Member(str(one["sha256"]), int(one["size_bytes"])) for name, one in listed.items()}
            about = {name: value for name, value in values.items() if name not in ("bundle", "contents_sha256")}
            index = cls(about, members)
            same = index.to_bytes() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInputError(f"its {NAME} can't be read: {type(error).__name__} {error}") from error
        for name, member in members.items():
            require_plain(name)
            if len(member.sha256) != 64 or not set(member.sha256) <= _HEX or member.size_bytes < 0:
                raise BadInputError(f"its {NAME} has no size and SHA-256 of {name!r}")
        _require_one_place_each([NAME, SUMS, *members])
        _require_models(about.get("models"), members)
        if not same:
            raise BadInputError(f"its {NAME} was changed: it doesn't agree with itself")
        return index


def timed(name: str) -> bool:
    """Return whether a file contains timings."""
    return name.startswith(f"{TIMINGS}/")


def require_plain(name: str) -> None:
    """Refuse a name that isn't clearly that of a file below the folder, on any system.

    Raises:
        BadInputError: the name could lead out of the folder.
    """
    if not all(file_names.is_plain(part) for part in name.split("/")):
        raise BadInputError(f"the name {name!r} could lead out of the folder")


def _require_models(listed: Any, members: Mapping[str, Member]) -> None:
    """Require each model to be a file of the bundle with that file's hash: no other is ever run."""
    texts = ("file", "kind", "precision", "sha256")
    models: list[Any] = listed if isinstance(listed, list) and listed else [None]
    for model in models:
        fine = isinstance(model, dict) and all(isinstance(model.get(name), str) for name in texts)
        member = members.get(f"{MODELS}/{model['file']}") if fine else None
        if member is None or member.sha256 != model["sha256"] or model["kind"] not in ("onnx", "engine"):
            raise BadInputError(f"its {NAME} lists a model that isn't in it: {model!r:.200}")


def _require_one_place_each(names: list[str]) -> None:
    """Refuse names that collide on case-insensitive file systems, and files whose path another needs as a folder."""
    seen: dict[str, str] = {}
    for name in names:
        if other := seen.get(name.casefold()):
            raise BadInputError(f"{name!r} and {other!r} are one place")
        seen[name.casefold()] = name
    for name in seen:
        parts = name.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in seen:
                raise BadInputError(f"{seen[name]!r} lies below a file")
