"""What goes into a bundle of a verification and a benchmark: their JSON, without this machine's paths, and pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf import artifacts
from hemf.errors import BadInputError, CheckFailedError
from hemf_export.bench import accuracy
from hemf_export.bench import page as bench_page
from hemf_export.bundle import index
from hemf_export.bundle.models import without_places
from hemf_export.triton.model_file import ModelFile
from hemf_export.verify import baseline
from hemf_export.verify import page as verification_page
from hemf_export.verify import text as verification_text

VERIFY_JSON, VERIFY_PAGE = "reports/verify.json", "reports/verify.html"
BENCH_JSON, BENCH_PAGE = f"{index.TIMINGS}/bench.json", f"{index.TIMINGS}/bench.html"


@dataclass(frozen=True)
class Reports:
    """Reports of the models, read; None where there is none.

    Args:
        verification: JSON of `hemf-export verify`.
        bench: JSON of `hemf-export bench`.
        notes: what a user should know.
    """

    verification: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Put them into a bundle's folder."""
        if self.verification is not None:
            (folder / VERIFY_JSON).parent.mkdir()
            artifacts.write_json(folder / VERIFY_JSON, self.verification)
            artifacts.write_bytes(folder / VERIFY_PAGE, verification_page.html(self.verification, {}).encode())
        if self.bench is not None:
            (folder / BENCH_JSON).parent.mkdir(exist_ok=True)
            artifacts.write_json(folder / BENCH_JSON, self.bench)
            artifacts.write_bytes(folder / BENCH_PAGE, bench_page.html(self.bench).encode())


def read(verified: Path | None, bench: Path | None, models: Sequence[ModelFile]) -> Reports:
    """Read the reports and see that they are of these models.

    Args:
        verified: what `hemf-export verify --json` printed.
        bench: what `hemf-export bench --json` printed.
        models: of one checkpoint.

    Raises:
        BadInputError: a report that can't be read, is of another checkpoint, or of none of the files.
        CheckFailedError: a report in which one of the files failed.
    """
    verification, known, notes = None, None, []
    if verified is not None:
        known = accuracy.read(verified)
        verification = without_places(dict(baseline.read(verified).values))
        notes += _require_verified(verified, verification, models)
    timed = None
    if bench is not None:
        timed = without_places(_bench(bench, models))
        if known is not None:
            timed["verified"] = known.beside(timed["timings"])
    return Reports(verification, timed, tuple(notes))


def _require_verified(path: Path, report: dict[str, Any], models: Sequence[ModelFile]) -> list[str]:
    """Of these models, none of which failed; a note of those that weren't looked at."""
    _require_checkpoint(path, str(report["checkpoint_sha256"]), models)
    candidates = {one["sha256"]: one for one in (report["reference"], *report["candidates"])}
    seen = [model for model in models if model.sha256 in candidates]
    if not seen:
        named = ", ".join(str(one["file"]) for one in candidates.values())
        raise BadInputError(
            f"{path} is of none of the files, as they are now: it has {named}.",
            "Verify them: hemf-export verify FILE… --data DIR --json.",
        )
    failed = [model.path.name for model in seen if candidates[model.sha256].get("passed") is False]
    if failed:
        missed = "\n  ".join(verification_text.missed(report))
        raise CheckFailedError(f"{', '.join(failed)} failed in {path}:\n  {missed}", "Nothing is bundled that failed.")
    missing = [model.path.name for model in models if model not in seen]
    return [f"{path.name} has nothing of {', '.join(missing)}."] if missing else []


def _bench(path: Path, models: Sequence[ModelFile]) -> dict[str, Any]:
    hint = "Time them: hemf-export bench FILE… -o BENCH.json."
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or report.get("bench") != 1:
            raise BadInputError(f"{path} is not the JSON of a benchmark.", hint)
        _require_checkpoint(path, str(report["checkpoint_sha256"]), models)
        seen = {str(timing["sha256"]) for timing in report["timings"]}
        bench_page.html(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} can't be read as a benchmark: {type(error).__name__} {error}.", hint) from error
    if not seen & {model.sha256 for model in models}:
        raise BadInputError(f"{path} is of none of the files, as they are now.", hint)
    if "error" in report:
        raise CheckFailedError(f"{path} has a check that failed: {report['error']}", "Nothing is bundled that failed.")
    return report


def _require_checkpoint(path: Path, found: str, models: Sequence[ModelFile]) -> None:
    own = models[0].description.checkpoint_sha256
    if found != own:
        raise BadInputError(
            f"{path} is of the checkpoint {found[:16]}; the files were made from {own[:16]}.",
            "Take the report of these files.",
        )
