"""Result of a benchmark as one value: for JSON, for a pull request in Markdown, and for `bench.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hemf_export.bench.memory import Memory
from hemf_export.bench.roofline import Floor, target_with_chip
from hemf_export.timing.intervals import BETWEEN_RUNS, COVERAGE
from hemf_export.timing.measurement import ENOUGH_ROUNDS, MIN_ROUNDS, PERCENTILES, STABLE, WARMUP_S, NotRun, Timing

FORMAT = 1
METHOD = {
    "clock": "the host's, around one call that ends when the logits are there",
    "order": "every round runs each runner once, in an order drawn anew",
    "warm_up_s": WARMUP_S,
    "least_rounds": MIN_ROUNDS,
    "until": f"{ENOUGH_ROUNDS} rounds are run and every median latency is known to {STABLE:.0%} (half of its "
    "interval), or the time is up",
    "ratio": "median over rounds of the latency by the first runner's in the same round",
    "interval": f"another run's ratio falls in it with {COVERAGE:.0%}: block bootstrap over rounds, widened for the "
    f"other run's own chance and by {BETWEEN_RUNS:.0%} for what differs between processes",
    "percentiles": "null where no round lies beyond them: p90, p95, p99 need 10, 20, 100 rounds",
    "check": "the logits of the timed batch are near the first runner's, before and after: what computes another model "
    "is not timed; how accurate a file is, verify says",
    "memory": "peak of a process of its own that loads the runner and runs the batch twice, its libraries included",
}


@dataclass(frozen=True)
class TimedFile:
    """File that a runner runs.

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
class BenchReport:
    """Everything that a run measured.

    Args:
        checkpoint_sha256: what every file was made from.
        source: the images that were run on.
        timings: by batch size, then in the lineup's order; the first of a batch size is the reference.
        not_run: what was left out, and why.
        memory: by name and batch size.
        target: of the roofline.
        floors: of the target, by precision and batch size.
        conditions: see `bench.conditions`.
        files: what each runner runs, by its name.
        notes: what a user should know.
    """

    checkpoint_sha256: str
    source: str
    timings: Sequence[Timing]
    not_run: Sequence[NotRun]
    memory: dict[tuple[str, int], Memory]
    target: str | None
    floors: Sequence[Floor]
    conditions: dict[str, Any]
    files: Mapping[str, TimedFile]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def failures(self) -> list[NotRun]:
        """Contenders whose logits are wrong."""
        return [missing for missing in self.not_run if missing.failed]

    def share_of_floor(self, timing: Timing) -> float | None:
        """The floor by the median latency; None unless it was measured on the target's GPU, and there is a floor."""
        gpu = self.conditions["gpu"]
        if self.target is None or not gpu or not timing.contender.on_gpu:
            return None
        if not (gpu["name"] or "").startswith(target_with_chip(self.target)[1].product):
            return None
        for floor in self.floors:
            if (floor.precision, floor.batch) == (timing.contender.precision, timing.batch):
                return floor.floor_ms / timing.median_ms
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; `bench.baseline` and reports read it."""
        timings = []
        for timing in self.timings:
            memory = self.memory.get((timing.name, timing.batch))
            extra = {
                "memory": None if memory is None else memory.to_dict(),
                "share_of_floor": self.share_of_floor(timing),
            }
            timings.append({**timing.to_dict(), **self.files[timing.name].to_dict(), **extra})
        return {
            "bench": FORMAT,
            "checkpoint_sha256": self.checkpoint_sha256,
            "images": self.source,
            "method": METHOD,
            "timings": timings,
            "not_run": [missing.to_dict() for missing in self.not_run],
            "roofline": {"target": self.target, "floors": [floor.to_dict() for floor in self.floors]},
            "conditions": self.conditions,
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        """Tables for a pull request."""
        lines = ["## Benchmark by hemf-export", "", *_described(self.conditions)]
        for batch in dict.fromkeys(timing.batch for timing in self.timings):
            rows = [timing for timing in self.timings if timing.batch == batch]
            lines += ["", f"### Batch {batch}, {len(rows[0].latencies_ms)} rounds", ""]
            lines += markdown_table(("runner", *COLUMNS), [(timing.name, *self.cells(timing)) for timing in rows])
        if self.floors:
            lines += ["", f"### Floor on a {self.target} by its roofline", ""]
            lines += markdown_table(FLOOR_COLUMNS, [floor_cells(floor) for floor in self.floors])
        if self.not_run:
            lines += ["", "### Not run", ""]
            lines += [f"- {names}: {reason}" for names, reason in grouped(self.not_run)]
        if self.notes:
            lines += ["", "### Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def cells(self, timing: Timing) -> tuple[str, ...]:
        """A line of the table, without the name; see `COLUMNS`."""
        memory = self.memory.get((timing.name, timing.batch))
        share = self.share_of_floor(timing)
        times = (timing.percentile(share_) for share_ in PERCENTILES)
        return (
            *("–" if value is None else f"{value:.{_digits(value)}f}" for value in times),
            f"{timing.images_per_second:.1f}",
            f"{timing.ratio.median:.2f}",
            f"{timing.ratio.low:.2f}–{timing.ratio.high:.2f}",
            "–" if memory is None else f"{memory.peak_rss_bytes / 1e6:.0f}",
            *(() if share is None else (f"{share:.0%}",)),
        )


COLUMNS = (*(f"p{share} ms" for share in PERCENTILES), "img/s", "ratio", "95 %", "MB")
FLOOR_COLUMNS = ("", "batch", "floor ms", "img/s", "least ms", "GOP", "MB", "waits for memory", "counted from")


def floor_cells(floor: Floor) -> tuple[str, ...]:
    """A line of the roofline's table; see `FLOOR_COLUMNS`."""
    return (
        floor.precision.upper(), str(floor.batch), f"{floor.floor_ms:.2f}", f"{floor.images_per_second:.0f}",
        f"{floor.least_ms:.2f}", f"{sum(floor.operations.values()) / 1e9:.1f}", f"{floor.moved_bytes / 1e6:.0f}",
        f"{floor.memory_bound:.0%}", floor.source,
    )  # fmt: skip


def grouped(not_run: Sequence[NotRun]) -> list[tuple[str, str]]:
    """Group what was not run by its reason: names and reason, in order of the first name."""
    names_by_reason: dict[str, list[str]] = {}
    for missing in not_run:
        name = missing.name if missing.batch is None else f"{missing.name} at batch {missing.batch}"
        names_by_reason.setdefault(missing.reason, []).append(name)
    return [("; ".join(names), reason) for reason, names in names_by_reason.items()]


def machine(conditions: dict[str, Any]) -> str:
    """Processor, threads and GPU in one line."""
    cpu, gpu = conditions["cpu"], conditions["gpu"]
    shown = f"{cpu['model']}, {cpu['threads']} of {cpu['cores']} cores"
    return f"{gpu['name']}; {shown}" if gpu else shown


def _described(conditions: dict[str, Any]) -> list[str]:
    versions = conditions["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "onnxruntime-gpu") if name in versions
    )
    return [f"{machine(conditions)}; {named}; {conditions['date']}"]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its first column of words."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def _digits(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 10 else 2
