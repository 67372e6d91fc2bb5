"""How accurate the files are that `bench` timed: from the JSON of a verification of them. Measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf.errors import BadInputError
from hemf_export.verify import baseline


@dataclass(frozen=True)
class TimedFile:
    """What a runner runs.

    Args:
        name: of the file.
        sha256: of its bytes.
    """

    name: str
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """Plain types, for JSON; named as in a verification's."""
        return {"file": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Verified:
    """A verification, read back.

    Args:
        path: of the JSON.
        checkpoint_sha256: of its reference.
        images: that it ran on: their folder, number, hash of the names, and whether they have labels.
        subjects: the reference and the candidates, each with what is told of it beside its latency.
        doubts: of the reference, in words.
    """

    path: Path
    checkpoint_sha256: str
    images: Mapping[str, Any]
    subjects: tuple[Mapping[str, Any], ...]
    doubts: tuple[str, ...] = ()

    def require(self, checkpoint_sha256: str, files: Sequence[TimedFile]) -> None:
        """Refuse a verification of something else, before anything is timed.

        Raises:
            BadInputError: it is of another checkpoint, or of none of the files.
        """
        if self.checkpoint_sha256 != checkpoint_sha256:
            raise BadInputError(
                f"{self.path} is of the checkpoint {self.checkpoint_sha256[:16]}; what is to be timed was made from "
                f"{checkpoint_sha256[:16]}.",
                "Verify these files: hemf-export verify FILE… --data DIR --json.",
            )
        if not any(_same(subject, file.name, file.sha256) for subject in self.subjects for file in files):
            known = ", ".join(str(subject["file"]) for subject in self.subjects)
            raise BadInputError(
                f"{self.path} is of none of the files that are to be timed, as they are now: it has {known}.",
                "Verify these files: hemf-export verify FILE… --data DIR --json.",
            )

    def beside(self, timings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What was verified of each runner's file.

        Args:
            timings: of a bench, in plain types.

        Returns:
            `figure`: "accuracy", or "agreement" where there are no labels; `runners`: what was verified, by the
            runner's name; `not_verified`: runners without, and why; `file` and `images` of the verification.
        """
        runners, missing = [], []
        for timing in {one["name"]: one for one in timings}.values():
            subject = next((s for s in self.subjects if _same(s, timing["file"], timing["sha256"])), None)
            if subject is None:
                named = any(s["file"] == timing["file"] for s in self.subjects)
                reason = "the file has changed since" if named else "the file was not verified"
            elif subject["precision"] == "fp32" != timing["precision"]:
                reason = "the file was verified in float32, which this runner doesn't compute in"
            else:
                runners.append({"name": timing["name"], **subject})
                continue
            missing.append({"name": timing["name"], "reason": reason})
        return {
            "file": self.path.name,
            "images": dict(self.images),
            "figure": "accuracy" if self.images["labelled"] else "agreement",
            "runners": runners,
            "not_verified": missing,
        }


def read(path: Path) -> Verified:
    """What `hemf-export verify --json` printed.

    Raises:
        BadInputError: it can't be read, or is something else.
    """
    report = baseline.read(path).values
    try:
        images = {name: report["images"][name] for name in ("folder", "images", "names_sha256", "labelled")}
        subjects = (_subject(report["reference"]), *map(_subject, report["candidates"]))
        doubts = tuple(f"{report['reference']['file']}: {text}" for text in report.get("doubts", ()))
        return Verified(path, str(report["checkpoint_sha256"]), images, subjects, doubts)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} lacks a part of a verification: {error}.", "Make it again.") from error


def _subject(values: Mapping[str, Any]) -> dict[str, Any]:
    paired = values.get("against_reference")  # the reference has none: it agrees with itself
    return {
        "file": values["file"],
        "sha256": values["sha256"],
        "precision": values["precision"],
        "float16_emulated": values["float16_emulated"],
        "accuracy": None if values["metrics"] is None else values["metrics"]["accuracy"],
        "agreement": 1.0 if paired is None else paired["agreement"],
        "accuracy_drop_points": None if paired is None else paired["accuracy_drop_points"],
        "accuracy_drop_interval_points": None if paired is None else paired["accuracy_drop_interval_points"],
        "passed": values.get("passed"),
    }


def _same(subject: Mapping[str, Any], name: str, sha256: str) -> bool:
    """By the hash where both have one; a file is not its name."""
    if subject["sha256"] and sha256:
        return bool(subject["sha256"] == sha256)
    return bool(subject["file"] == name)
