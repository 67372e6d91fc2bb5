"""Compare a verification with the JSON of an earlier one: what is worse now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.files.errors import BadInputError


@dataclass(frozen=True)
class Earlier:
    """An earlier verification.

    Args:
        path: its JSON file.
        values: the content of that file.
    """

    path: Path
    values: Mapping[str, Any]

    def require(self, names_sha256: str, classes: Sequence[str]) -> None:
        """Raise an error if it was measured on other images.

        Raises:
            BadInputError: the images or classes differ, or a part of the JSON is missing.
        """
        try:
            images = self.values["images"]
            same = images["names_sha256"] == names_sha256 and self.values["classes"] == list(classes)
            seen = f"{images['images']} of {images['folder']}"
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error
        if not same:
            raise BadInputError(
                f"{self.path} was measured on other images ({seen}) or classes.",
                "Compare on the same ones: make the baseline again.",
            )

    def compare(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """Compare the candidates, matched by file name.

        Args:
            now: the report of the new verification.

        Returns:
            `figures`: accuracy (where there are labels) and agreement of each file that is in both, before and now, the
            points lost, the bound (the candidate's `max_drop`) and whether it is `missed`; `new` and `gone`: files that
            are in one alone.

        Raises:
            BadInputError: the earlier one was measured on other images, or a part of it is missing.
        """
        self.require(now["images"]["names_sha256"], now["classes"])
        try:
            known = {candidate["file"]: candidate for candidate in self.values["candidates"]}
            figures = [
                figure
                for candidate in now["candidates"]
                if candidate["file"] in known
                for figure in _figures(known[candidate["file"]], candidate)
            ]
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error
        names = {candidate["file"] for candidate in now["candidates"]}
        return {
            "file": self.path.name,
            "passed": not any(figure["missed"] for figure in figures),
            "figures": figures,
            "new": sorted(names - known.keys()),
            "gone": sorted(known.keys() - names),
        }

    def _damaged(self, error: Exception) -> BadInputError:
        return BadInputError(f"{self.path} lacks a part of a verification: {error}.", "Make it again.")


def read(path: Path) -> Earlier:
    """Read the JSON of an earlier verification.

    Raises:
        BadInputError: the file can't be read, or isn't a verification.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path} can't be read as JSON: {error}.", "Take what `verify().to_dict()` gave."
        ) from error
    if not isinstance(values, dict) or values.get("verification") != 1:
        raise BadInputError(f"{path} is not the JSON of a verification.", "Take what `verify().to_dict()` gave.")
    return Earlier(path, values)


def texts(compared: Mapping[str, Any]) -> list[str]:
    """Describe each figure that got worse by more than its bound."""
    return [
        f"{figure['candidate']}: {figure['name']} was {figure['before']:.2%} and is {figure['now']:.2%}, "
        f"{figure['lost_points']:.2f} points less, bound {figure['bound_points']:.2f} "
        for figure in compared["figures"]
        if figure["missed"]
    ]


def _figures(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    bound = now["bounds"]["max_drop"]
    pairs = {"agreement": (before["against_reference"]["agreement"], now["against_reference"]["agreement"])}
    if before["metrics"] is not None and now["metrics"] is not None:
        pairs["accuracy"] = before["metrics"]["accuracy"], now["metrics"]["accuracy"]
    return [
        {
            "candidate": now["file"],
            "name": name,
            "before": old,
            "now": new,
            "lost_points": 100 * (old - new),
            "bound_points": bound,
            "missed": 100 * (old - new) > bound + 1e-9,
        }
        for name, (old, new) in pairs.items()
    ]
