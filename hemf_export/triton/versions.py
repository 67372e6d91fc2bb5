"""Versions of a model in its repository: numbered folders, and Triton's policy of which of them are served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf.errors import UsageError


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions a server loads.

    Args:
        latest: so many of the highest; None for another rule.
        specific: exactly these; none for another rule. With neither, all are served.

    Raises:
        UsageError: both, or numbers below 1.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.latest is not None and self.specific:
            raise UsageError("Versions are latest:N, all, or numbers, not two of these.")
        if min((*self.specific, self.latest if self.latest is not None else 1)) < 1:
            raise UsageError(f"Versions are counted from 1: {self} is none.")

    def __str__(self) -> str:
        if self.specific:
            return ",".join(map(str, self.specific))
        return "all" if self.latest is None else f"latest:{self.latest}"

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """`latest:N`, `all`, or `1,3`."""
        if text == "all":
            return cls(None)
        word, colon, number = text.partition(":")
        if word == "latest" and colon and _is_number(number):
            return cls(int(number))
        parts = text.split(",")
        if not all(map(_is_number, parts)):
            raise UsageError(f"--versions takes latest:N, all, or numbers like 1,3, not {text!r}.")
        return cls(None, tuple(sorted({int(part) for part in parts})))

    @classmethod
    def of(cls, config: Any) -> VersionPolicy:
        """That of a `ModelConfig`; Triton's default is the highest version alone."""
        policy = config.version_policy
        kind = policy.WhichOneof("policy_choice")
        if kind == "specific" and policy.specific.versions:
            return cls(None, tuple(int(number) for number in policy.specific.versions))
        if kind == "all":
            return cls(None)
        return cls(policy.latest.num_versions or 1) if kind == "latest" else cls()

    def put(self, config: Any) -> None:
        """Make it that of a `ModelConfig`."""
        config.ClearField("version_policy")
        if self.specific:
            config.version_policy.specific.versions.extend(self.specific)
        elif self.latest is None:
            config.version_policy.all.SetInParent()
        else:
            config.version_policy.latest.num_versions = self.latest

    def served(self, there: tuple[int, ...]) -> tuple[int, ...]:
        """Of the versions that are there, those that a server loads."""
        if self.specific:
            return tuple(number for number in self.specific if number in there)
        return tuple(sorted(there))[-self.latest :] if self.latest is not None else tuple(sorted(there))


def found(folder: Path) -> dict[int, Path]:
    """The version folders of a model, by number. Triton passes over names with leading zeros, and so is done here."""
    paths = (path for path in folder.iterdir() if path.is_dir() and _is_number(path.name))
    return dict(sorted((int(path.name), path) for path in paths if not path.name.startswith("0")))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
