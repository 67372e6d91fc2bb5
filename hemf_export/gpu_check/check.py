"""Run the steps of the GPU check, each in a process of its own with a time limit, and report what they confirm."""

from __future__ import annotations

import dataclasses
import datetime
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemf_export import __version__
from hemf_export.api.results import PathLike, Shown
from hemf_export.doctor import probing
from hemf_export.files import artifacts, child
from hemf_export.files.errors import CheckFailedError, HemfError, MissingCapabilityError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.gpu_check import catalogue, claims, report
from hemf_export.gpu_check.catalogue import Entry
from hemf_export.gpu_check.step import Result
from hemf_export.pages.table import Table

MINUTES = 10.0
_LEAST_S = 5.0  # time left for which no other step is begun
_CLOSING_S = 10.0  # for a step that is ended to stop its servers


@dataclass(frozen=True)
class GpuCheck(Shown):
    """Result of a GPU check.

    Args:
        path: folder with report.md, steps.jsonl, and a log of each step.
        results: results of the steps, in order.
        gpu: name of the GPU; None without one.
    """

    path: Path
    results: tuple[Result, ...]
    gpu: str | None
    values: Mapping[str, Any] = field(repr=False)

    @property
    def verdict(self) -> str:
        """Result in one sentence."""
        return report.verdict(self.results, self.gpu)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Tables of the steps, and of the documentation's claims that were tried; the report has all claims."""
        tables = report.steps(self.results), report.claims(self.results, self.gpu, tried=True)
        return tuple(table for table in tables if table.rows)

    @property
    def problem(self) -> HemfError | None:
        """Error to end a command with; None if every step that could run passed."""
        if self.gpu is None:
            return MissingCapabilityError("No GPU: no step could run.", "`doctor()` says what is missing.")
        failed = [result.step for result in self.results if result.outcome == "failed"]
        if not failed:
            return None
        return CheckFailedError(f"{', '.join(failed)} failed.", f"Send {self.path / 'report.md'} with your report.")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return dict(self.values)

    def facts(self) -> dict[str, str]:
        """See `Shown.facts`."""
        return {"verdict": self.verdict, **{result.step: result.outcome for result in self.results}}


def check_gpu(
    output: PathLike = "gpu-check", *, steps: Sequence[str] = (), minutes: float = MINUTES, progress: Progress = SILENT
) -> GpuCheck:
    """Try everything that needs a GPU on this machine's GPU: training, engines, captured graphs, benchmarks, servers.

    Each step runs in a process of its own; one that fails, crashes or hangs doesn't stop the others. Images and
    networks are made for the purpose.

    Args:
        output: folder for the report: report.md, steps.jsonl with one line per step, and a log of each.
        steps: names of steps to run; none for all.
        minutes: time limit; steps that couldn't begin before are left out.
        progress: receives the steps, and each step's `Result` as an event.

    Returns:
        The results. Without a GPU every step is there as one that can't run.

    Raises:
        UsageError: no such step, or no time.
        BadInputError: a folder that can't be written.

    Examples:
        >>> check = hemf_export.check_gpu("gpu-check")  # doctest: +SKIP
        >>> check.verdict  # doctest: +SKIP
        'No GPU: none of 15 steps could run.'
    """
    if not 0 < minutes < float("inf"):
        raise UsageError("`minutes` must be positive.")
    entries = [catalogue.find(name) for name in dict.fromkeys(steps)] or list(catalogue.ENTRIES)
    folder = Path(output)
    results: list[Result] = []
    with artifacts.new_folders(folder), artifacts.scratch(folder) as work:
        with progress.task("Looking for a GPU"):
            gpu, missing = _gpu()
        end = time.monotonic() + 60 * minutes
        try:
            for number, entry in enumerate(entries, 1):
                left = end - time.monotonic()
                if gpu is None:
                    result = Result(entry.name, "can't run", reason=missing)
                elif left < _LEAST_S:
                    result = Result(entry.name, "can't run", reason=f"the {minutes:g} minutes for all steps were over")
                else:
                    with progress.task(f"{entry.title} ({number} of {len(entries)})"):
                        result = run_step(entry, work, folder / f"{entry.name}.log", min(left, entry.limit_s))
                results.append(result)
                progress.event(result)
        finally:  # also for what an interrupted check has found
            for entry in entries[len(results) :]:
                results.append(Result(entry.name, "can't run", reason="the check was interrupted"))
            written = _values(results, gpu)
            artifacts.write_bytes(folder / "steps.jsonl", "".join(_line(one) for one in results).encode())
            page = report.markdown(results, written).encode(errors="backslashreplace")
            artifacts.write_bytes(folder / "report.md", page)
    return GpuCheck(folder, tuple(results), gpu, written)


def run_step(entry: Entry, work: Path, log: Path, limit_s: float) -> Result:
    """Run a step in a process of its own, and end all that it started.

    Args:
        entry: the step.
        work: folder for files that steps share.
        log: file that receives what it writes to stderr; it grows while the step runs.
        limit_s: time limit. A slower step may still close what it opened, in a few seconds; then it is killed.

    Returns:
        Its result. A step that crashes or is ended keeps the checks that it had made.
    """
    started = time.monotonic()
    # Files, not pipes, whose end never comes while a process that the step has left holds them.
    with artifacts.growing_log(log) as said, tempfile.TemporaryFile(dir=work) as answer:
        process = subprocess.Popen(
            child.command("hemf_export.gpu_check.worker", entry.name, entry.function, str(work)),
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=answer, stderr=said,
        )  # fmt: skip
        try:
            late = not child.ended(process, limit_s)
        finally:
            if process.returncode is None:  # late, or after Ctrl-C
                process.terminate()
                child.ended(process, _CLOSING_S)
            child.kill(process)
        seconds = time.monotonic() - started
        answer.seek(0)
        found = _found(answer.read())
    if not late and process.returncode == 0 and found is not None:
        return dataclasses.replace(found, seconds=seconds)
    if late:
        why = f"no end within {limit_s:.0f} s"
    elif process.returncode < 0:
        why = f"crashed ({signal.Signals(-process.returncode).name})"
    else:
        why = f"ended Python (exit {process.returncode})"
    last = [] if late else log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    why = ": ".join([why, *(line.strip()[:300] for line in last)])
    found = found or Result(entry.name, "failed")
    return dataclasses.replace(found, outcome="failed", seconds=seconds, reason=why)


def _found(output: bytes) -> Result | None:
    """Return the last result that a step has written; None if it wrote none."""
    for line in reversed(output.splitlines()):
        with suppress(ValueError):  # it was killed while it wrote
            return Result.from_dict(json.loads(line))
    return None


def _gpu() -> tuple[str | None, str]:
    """Return the GPU's name, or None and why there is none; found out in another process, which frees it again."""
    finding = probing.probe_all({"gpu": ("torch-cuda",)})["gpu"]
    if finding.outcome == "ok":
        return finding.facts["gpu"], ""
    return None, f"no GPU: {finding.reason.partition(': ')[2] or finding.reason}"


def _line(result: Result) -> str:
    return json.dumps(result.to_dict(), default=str) + "\n"


def _values(results: Sequence[Result], gpu: str | None) -> dict[str, Any]:
    return {
        "verdict": report.verdict(results, gpu), "gpu": gpu, "hemf_export": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": artifacts.versions(),
        "steps": [result.to_dict() for result in results],
        "claims": [{**vars(claim), "state": claims.state(claim, results, gpu)} for claim in claims.read()],
    }  # fmt: skip
