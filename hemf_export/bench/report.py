"""Result of a benchmark, for JSON, for Markdown in a pull request, and for `bench.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hemf_export.bench.memory import Memory
from hemf_export.bench.roofline import Floor, target_with_chip
from hemf_export.pages.figures import factor
from hemf_export.pages.table import Table, markdown_table
from hemf_export.timing.intervals import BETWEEN_RUNS, COVERAGE, Interval
from hemf_export.timing.measurement import ENOUGH_ROUNDS, MIN_ROUNDS, PERCENTILES, STABLE, WARMUP_S, NotRun, Timing

FORMAT = 1
METHOD = {
    "clock": "the host's, around one call that ends when the logits are there",
    "order": "every round runs each runner once, in a new random order",
    "warm_up_s": WARMUP_S,
    "least_rounds": MIN_ROUNDS,
    "until": f"{ENOUGH_ROUNDS} rounds are run and every median latency is known to {STABLE:.0%} (half of its "
    "interval), or the time is up",
    "ratio": "median over rounds of the latency by the first runner's in the same round; speed_up is one over it",
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
        name: its name.
        sha256: hash of its bytes.
        runner: kind of runner, such as "eager" or "ort-cpu"; see `bench.lineup.Kind`.
    """

    name: str
    sha256: str
    runner: str

    def to_dict(self) -> dict[str, str]:
        """Plain types, for JSON; named as in a verification's."""
        return {"file": self.name, "sha256": self.sha256, "runner": self.runner}


@dataclass(frozen=True)
class BenchReport:
    """Report with everything that a run measured.

    Args:
        checkpoint_sha256: SHA-256 of the checkpoint that every file was made from.
        source: images that were used, in words.
        timings: timings by batch size, then in the lineup's order; the first of a batch size is the reference.
        not_run: what was left out, and why.
        memory: peak memory by runner and batch size.
        target: target of the roofline.
        floors: latency floors on the target, by precision and batch size.
        conditions: see `bench.conditions`.
        files: file of each runner, by the runner's name.
        notes: remarks for the user.
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
        """Runners whose logits are wrong."""
        return [missing for missing in self.not_run if missing.failed]

    @property
    def rounds(self) -> dict[int, int]:
        """Number of rounds by batch size."""
        return {timing.batch: len(timing.latencies_ms) for timing in self.timings}

    def share_of_floor(self, timing: Timing) -> float | None:
        """Return the floor divided by the median latency; None unless measured on the target's GPU, with a floor."""
        gpu = self.conditions["gpu"]
        if self.target is None or not gpu or not timing.contender.on_gpu:
            return None
        if gpu["name"] not in target_with_chip(self.target)[1].names:
            return None
        for floor in self.floors:
            if (floor.precision, floor.batch) == (timing.contender.precision, timing.batch):
                return floor.floor_ms / timing.median_ms
        return None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON; `bench.baseline` and reports read it."""
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
            "headlines": self.headlines(),
            "method": METHOD,
            "timings": timings,
            "not_run": [missing.to_dict() for missing in self.not_run],
            "roofline": {"target": self.target, "floors": [floor.to_dict() for floor in self.floors]},
            "conditions": self.conditions,
            "notes": list(self.notes),
        }

    def tables(self) -> list[Table]:
        """Return short tables of latency and speed-up: one for each batch size, with `COLUMNS`."""
        return [self._latencies(batch, COLUMNS) for batch in self.rounds]

    def details(self) -> list[Table]:
        """Return tables of everything measured, by batch size, and of the target's floors, if any."""
        tables = [self._latencies(batch) for batch in self.rounds]
        if self.floors:
            title = (
                f"Floor on a {self.target}: counted operations and bytes over its published rates, not a measurement"
            )
            rows = [floor_cells(floor) for floor in self.floors if floor.precision != "fp32"]
            tables.append(Table(title, FLOOR_COLUMNS, rows, words=(0, len(FLOOR_COLUMNS) - 1)))
        return tables

    def markdown(self) -> str:
        """Return the report in Markdown for a pull request."""
        lines = ["## Benchmark by hemf-export", ""]
        lines += [f"- {name}: {text}" for name, text in self.headlines().items()] + ["", *_described(self.conditions)]
        for table in map(self._latencies, self.rounds):
            lines += ["", f"### {table.title}", ""]
            lines += markdown_table(("runner", *table.columns[1:]), table.rows)
        if self.floors:
            lines += ["", f"### Floor on a {self.target} by its roofline", ""]
            lines += markdown_table(FLOOR_COLUMNS, [floor_cells(floor) for floor in self.floors])
        if self.not_run:
            lines += ["", "### Not run", ""]
            lines += [f"- {names}: {reason}" for names, reason in grouped(self.not_run)]
        if self.notes:
            lines += ["", "### Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def headlines(self) -> dict[str, str]:
        """Describe each file's speed-up over the reference, by its fastest runner at the first batch size.

        If all runners run the reference's file, each runner is compared instead.
        """
        first = [timing for timing in self.timings if timing.batch == self.timings[0].batch]
        reference, others = first[0], first[1:]
        file = self.files[reference.name]
        name = "PyTorch" if file.runner == "eager" else reference.name
        fastest: dict[str, Timing] = {}
        for timing in sorted(others, key=lambda timing: timing.ratio.median):
            if self.files[timing.name].sha256 != file.sha256:
                fastest.setdefault(self.files[timing.name].name, timing)
        by_runner = {timing.name: timing for timing in others}
        return {title: _beside(timing, name) for title, timing in (fastest or by_runner).items()}

    def _latencies(self, batch: int, columns: Sequence[str] = ()) -> Table:
        """Return the table of a batch size: the requested columns, or all that were measured."""
        timings = [timing for timing in self.timings if timing.batch == batch]
        cells = [self.cells(timing) for timing in timings]
        columns = columns or tuple(dict.fromkeys(name for row in cells for name in row))
        rows = [
            (timing.name, *(row.get(name, "–") for name in columns)) for timing, row in zip(timings, cells, strict=True)
        ]
        return Table(f"Batch {batch}, {self.rounds[batch]} rounds", ("", *columns), rows)

    def cells(self, timing: Timing) -> dict[str, str]:
        """Return the cells of a runner's row by column, without those not measured."""
        memory = self.memory.get((timing.name, timing.batch))
        share = self.share_of_floor(timing)
        cells = {f"p{percent} ms": _milliseconds(timing.percentile(percent)) for percent in PERCENTILES}
        cells["images/s"] = f"{timing.images_per_second:.{0 if timing.images_per_second >= 1000 else 1}f}"
        cells["speed-up"] = f"{factor(timing.speed_up.median)}×"
        cells["95 %"] = _range(timing.speed_up)
        if memory is not None:
            cells["MB"] = f"{memory.peak_rss_bytes / 1e6:.0f}"
        if share is not None:
            cells["of floor"] = f"{share:.0%}"
        return cells


VAGUE = 2.0  # ends of an interval, by their ratio, beyond which its middle says nothing
COLUMNS = ("p50 ms", "p99 ms", "images/s", "speed-up", "95 %")
FLOOR_COLUMNS = ("", "batch", "floor ms", "images/s", "least ms", "GOP", "MB", "waits for memory", "counted from")


def floor_cells(floor: Floor) -> tuple[str, ...]:
    """Return a row of the roofline's table; see `FLOOR_COLUMNS`."""
    return (
        floor.precision.upper(), str(floor.batch), f"{floor.floor_ms:.2f}", f"{floor.images_per_second:.0f}",
        f"{floor.least_ms:.2f}", f"{sum(floor.operations.values()) / 1e9:.1f}", f"{floor.moved_bytes / 1e6:.0f}",
        f"{floor.memory_bound:.0%}", floor.source,
    )  # fmt: skip


def grouped(not_run: Sequence[NotRun]) -> list[tuple[str, str]]:
    """Group what was not run by reason: (names, reason), in order of the first name."""
    names_by_reason: dict[str, list[str]] = {}
    for missing in not_run:
        name = missing.name if missing.batch is None else f"{missing.name} at batch {missing.batch}"
        names_by_reason.setdefault(missing.reason, []).append(name)
    return [("; ".join(names), reason) for reason, names in names_by_reason.items()]


def machine(conditions: dict[str, Any]) -> str:
    """Describe processor, threads and GPU in one line."""
    cpu, gpu = conditions["cpu"], conditions["gpu"]
    shown = f"{cpu['model']}, {cpu['threads']} of {cpu['cores']} cores"
    return f"{gpu['name']}; {shown}" if gpu else shown


def _described(conditions: dict[str, Any]) -> list[str]:
    versions = conditions["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "onnxruntime-gpu") if name in versions
    )
    return [f"{machine(conditions)}; {named}; {conditions['date']}"]


def _beside(timing: Timing, reference: str) -> str:
    """Compare a runner with the reference in words: faster, slower, or within the interval."""
    speed_up, where = timing.speed_up, f"{reference} at batch {timing.batch}"
    too_noisy = speed_up.high > VAGUE * speed_up.low
    if speed_up.low <= 1 <= speed_up.high:
        what = "too noisy to compare with" if too_noisy else "as fast as"
        return f"{what} {where} (95 %: {_range(speed_up)}×)"
    word, how_much = ("faster", speed_up) if speed_up.median > 1 else ("slower", timing.ratio)
    if too_noisy:
        return f"{_range(how_much)}× {word} than {where} (95 %; too noisy for one figure)"
    return f"{factor(how_much.median)}× {word} than {where} (95 %: {_range(how_much)})"


def _range(interval: Interval) -> str:
    return f"{factor(interval.low)}–{factor(interval.high)}"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.{0 if value >= 1000 else 1 if value >= 10 else 2}f}"
