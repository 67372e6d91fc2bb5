"""Run a whole benchmark: gather and load the runners, time them at each batch size, and compute the roofline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemf_export.bench import (
    accuracy,
    baseline,
    conditions,
    contenders,
    lineup,
    memory,
    page,
    roofline,
)
from hemf_export.bench.accuracy import Verified
from hemf_export.bench.baseline import BaselineComparison
from hemf_export.bench.conditions import Conditions
from hemf_export.bench.lineup import ENGINE_KINDS, Entry, Kind, Lineup, Transfers
from hemf_export.bench.memory import Memory
from hemf_export.bench.report import BenchReport, TimedFile
from hemf_export.bench.roofline import CostPrecision, Floor
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.engines import targets
from hemf_export.export import parity
from hemf_export.files import artifacts, processors
from hemf_export.files.errors import BadInputError, CheckFailedError, HemfError, MissingCapabilityError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images import folders
from hemf_export.models import plausibility, predictor
from hemf_export.models.model_file import ModelFile, OnnxFile
from hemf_export.pages.table import Table
from hemf_export.precision import compiled_engines
from hemf_export.timing import failures, measurement
from hemf_export.timing.measurement import Contender, NotRun, Timing
from hemf_export.train.float32 import exact_float32

BATCHES = (1, 8, 32)
TARGET = "t4"
MAX_SLOWDOWN = 0.1


@dataclass(frozen=True)
class Request:
    """Request for a benchmark.

    Args:
        files: files to compare; empty for those in `folder`.
        folder: folder to search.
        batches: batch sizes; None for `BATCHES`, or the files' own.
        seconds: time limit for each batch size.
        threads: threads of each runner on the CPU; None for `files.processors.threads`.
        images: folder of images; None for seeded noise.
        kinds: kinds of runners; None for the usual ones here.
        transfers: whether copies to and from a GPU are timed.
        memory: measure peak memory, in one process per runner and batch size.
        target: GPU of the roofline; None for this machine's GPU, or a T4 without one.
        verified: verification of the files; one of other files is refused before anything is timed.
        reading: how the checkpoint is read; by default as recorded in the other files.
        judged: files whose wrong logits are a failure; those of others are a note. None for all files.
    """

    files: tuple[Path, ...] = ()
    folder: Path = Path()
    batches: tuple[int, ...] | None = None
    seconds: float = 30.0
    threads: int | None = None
    images: Path | None = None
    kinds: tuple[Kind, ...] | None = None
    transfers: Transfers = "in"
    memory: bool = True
    target: str | None = None
    verified: Verified | None = None
    reading: Reading = PLAIN
    judged: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf") or (self.threads is not None and self.threads < 1):
            raise UsageError("`seconds` and `threads` must be positive.")
        if self.batches is not None and (not self.batches or min(self.batches) < 1):
            raise UsageError("`batches` takes positive numbers, N or N,N.")
        if self.target is not None:
            roofline.target_with_chip(self.target)


@dataclass(frozen=True)
class Outcome:
    """Benchmark with its verification, the comparison with a baseline, and the verdict.

    Args:
        report: measurements.
        compared: comparison with the baseline; None without one.
        values: the complete report in plain types.
        problem: what failed, in a sentence; None if nothing did.
    """

    report: BenchReport
    compared: BaselineComparison | None
    values: dict[str, Any]
    problem: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user."""
        return (*self.report.notes, *(self.compared.notes if self.compared else ()))

    @property
    def tables(self) -> list[Table]:
        """Return short tables of latencies, and of the comparison with the baseline."""
        return [*self.report.tables(), *self._compared()]

    @property
    def details(self) -> list[Table]:
        """Return full tables of latencies, the comparison with the baseline, and floors."""
        return [*self.report.details(), *self._compared()]

    def _compared(self) -> list[Table]:
        return [self.compared.table()] if self.compared else []

    def require(self, hint: str | None = None) -> None:
        """Raise CheckFailedError if logits differ from the reference's, or a ratio grew beyond its bound."""
        if self.problem is not None:
            raise CheckFailedError(self.problem, hint)

    def write(self, *, json: Path | None = None, markdown: Path | None = None, html: Path | None = None) -> None:
        """Write the report as JSON, as Markdown tables for a pull request and as an HTML page, each atomically.

        Raises:
            BadInputError: a file that can't be written.
        """
        if json is not None:
            artifacts.write_json(json, self.values)
        if markdown is not None:
            text = self.report.markdown() + accuracy.markdown(self.values)
            artifacts.write_bytes(markdown, (text + (self.compared.markdown() if self.compared else "")).encode())
        if html is not None:
            artifacts.write_bytes(html, page.html(self.values).encode())


@exact_float32()
def benchmark(
    request: Request, *, earlier: Path | None = None, max_slowdown: float = MAX_SLOWDOWN, progress: Progress = SILENT
) -> Outcome:
    """Time everything, and combine it with a verification and a baseline, if given.

    Args:
        request: files and options.
        earlier: JSON of an earlier run, to compare ratios with.
        max_slowdown: allowed growth of a ratio since then, as a share.
        progress: receives the steps.

    Raises:
        BadInputError, CheckFailedError, MissingCapabilityError, UsageError: see `run`; or `earlier` isn't a benchmark.
    """
    before = None if earlier is None else baseline.read(earlier)
    report = run(request, progress)
    values = report.to_dict()
    if request.verified is not None:
        values["verified"] = request.verified.beside(values["timings"])
    compared = None
    if before is not None:
        compared = baseline.compare(before, values, max_slowdown=max_slowdown)
        values["baseline"] = {
            "file": str(earlier), "max_slowdown": max_slowdown, "notes": list(compared.notes),
            "changes": [change.to_dict() for change in compared.changes],
        }  # fmt: skip
    problem = _problem(request, report, compared, max_slowdown)
    if problem is not None:
        values |= {"error": problem, "hint": None, "exit_code": CheckFailedError.exit_code}
    return Outcome(report, compared, values, problem)


def _problem(
    request: Request, report: BenchReport, compared: BaselineComparison | None, max_slowdown: float
) -> str | None:
    """Describe the checks that failed; None where all passed."""
    problems = [
        f"{missing.name} at batch {missing.batch}: {missing.reason}"
        for missing in report.failures
        if _is_judged(request, report.files[missing.name])
    ]
    for change in compared.worse if compared else ():
        problems.append(
            f"{change.name} at batch {change.batch} is {change.slowdown:.0%} slower than in the baseline, by its "
            f"ratio (allowed {100 * max_slowdown:g} %)."
        )
    return " ".join(problems) or None


def _is_judged(request: Request, file: TimedFile) -> bool:
    return request.judged is None or file.name in {path.name for path in request.judged}


def run(request: Request, progress: Progress = SILENT) -> BenchReport:
    """Time everything.

    Args:
        request: files and options.
        progress: receives the steps.

    Raises:
        BadInputError: files of different models, nothing to compare, or a verification of other files.
        CheckFailedError: the reference's logits are not finite.
        MissingCapabilityError: none of the requested runners runs here; the message has the reasons.
        UsageError: batch sizes that the files don't take.
    """
    threads = request.threads or processors.threads()
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    uuid = _uuid() if gpu else None
    device = conditions.open_gpu(uuid) if gpu else None
    with progress.task("Reading the files"):
        field = lineup.gather(
            request.files, request.folder, kinds=request.kinds, transfers=request.transfers, gpu=gpu,
            reading=request.reading,
        )  # fmt: skip
    pictures = parity.image_folder(request.images, None)
    sizes = _sizes(request, field)
    floors, target = _roofline(request, field, sizes)
    opened, not_run = _open(field, threads, progress)
    hashes = {path: artifacts.sha256(path) for path in {entry.path for entry in field.entries}}
    files = {entry.name: TimedFile(entry.path.name, hashes[entry.path], entry.kind) for entry in field.entries}
    if request.verified is not None:
        request.verified.require(field.checkpoint_sha256, list(files.values()))
    watched = Conditions(threads, device)
    timings: list[Timing] = []
    source = ""
    with contenders.all_sizes_compiled(field.entries):
        for size in sizes:
            samples = parity.Samples(field.input, pictures, size)
            source = samples.source
            with progress.task(f"Timing batch {size}"):
                measured, missing = measurement.measure(
                    opened, _pixels(samples, size), seconds=request.seconds, progress=progress,
                    between_rounds=watched.look,
                )  # fmt: skip
            timings.extend(measured)
            not_run.extend(missing)
    observed = watched.to_dict()
    for contender in opened:
        contender.close()
    failures.release_memory()
    used = _memory(field.entries, timings, threads, uuid, progress) if request.memory else {}
    timed = {files[timing.name].name for timing in timings}
    notes = (
        *field.notes,
        *_without_floor(field, target),
        *_untimed(request, timed, not_run),
        *_doubts(request, field),
        *_unstable(timings),
        *conditions.warnings(observed),
        *_beside_what_is_judged(request, files, not_run),
    )
    return BenchReport(field.checkpoint_sha256, source, timings, not_run, used, target, floors, observed, files, notes)


def _without_floor(field: Lineup, target: str | None) -> list[str]:
    if target is not None or not field.graphs:
        return []
    gpu = torch.cuda.get_device_name()
    return [f"No floor is computed: NVIDIA's rates of the {gpu} aren't known here. That of another GPU: `target`."]


def _untimed(request: Request, timed: Collection[str], not_run: Sequence[NotRun]) -> list[str]:
    """Say which of the files that were named can't be timed here: the table is of others."""
    reasons: dict[str, dict[str, None]] = {path.name: {} for path in request.files if path.name not in timed}
    for missing in not_run:
        file = missing.name.partition(", ")[2]
        if file in reasons and not missing.failed:
            reasons[file][missing.reason] = None
    return [f"{name} is not timed: {'; '.join(why).rstrip('.')}." for name, why in reasons.items() if why]


def _beside_what_is_judged(request: Request, files: Mapping[str, TimedFile], not_run: Sequence[NotRun]) -> list[str]:
    """Tell the wrong logits of runners that are only there for comparison."""
    return [
        f"{missing.name} at batch {missing.batch}, which is only there for comparison: {missing.reason}"
        for missing in not_run
        if missing.failed and not _is_judged(request, files[missing.name])
    ]


def _sizes(request: Request, field: Lineup) -> tuple[int, ...]:
    if field.batch is None:
        return tuple(dict.fromkeys(request.batches or BATCHES))
    if request.batches is not None and request.batches != (field.batch,):
        raise UsageError(f"The files have the fixed batch {field.batch}.", "Leave out `batch`.")
    return (field.batch,)


def _open(field: Lineup, threads: int, progress: Progress) -> tuple[list[Contender], list[NotRun]]:
    opened: list[Contender] = []
    not_run = list(field.not_run)
    with progress.task("Loading the runners", len(field.entries), "runners") as task:
        for entry in field.entries:
            task.update(len(opened) + len(not_run) - len(field.not_run), text=f"Loading {entry.name}")
            try:
                opened.append(contenders.open_entry(entry, threads=threads, kept=field.input))
            except MissingCapabilityError as error:
                not_run.append(NotRun(entry.name, str(error)))
            except (BadInputError, CheckFailedError, UsageError):  # the file's fault, not the runner's
                raise
            except HemfError as error:
                if not opened:  # it would be the reference
                    raise HemfError(f"{entry.name} can't be loaded: {error.message}", error.hint) from error
                not_run.append(NotRun(entry.name, error.message))
                failures.release_memory()
    if not opened:
        reasons = " ".join(f"{missing.name}: {missing.reason}" for missing in not_run)
        raise MissingCapabilityError(f"Nothing of that runs here. {reasons}".strip(), "Leave out `runners`.")
    return opened, not_run


def _pixels(samples: parity.Samples, size: int) -> NDArray[np.uint8]:
    pixels = np.concatenate(list(samples.pixels((size,))))
    return np.concatenate([pixels] * -(-size // len(pixels)))[:size]  # few images are repeated to fill a large batch


def _memory(
    entries: Sequence[Entry], timings: Sequence[Timing], threads: int, gpu: str | None, progress: Progress
) -> dict[tuple[str, int], Memory]:
    by_name = {entry.name: entry for entry in entries}
    peaks: dict[tuple[str, int], Memory] = {}
    with progress.task("Measuring memory", len(timings), "runners") as task:
        for number, timing in enumerate(timings):
            task.update(number, text=f"Measuring the memory of {timing.name}, batch {timing.batch}")
            peak = memory.measure(by_name[timing.name], timing.batch, threads=threads, gpu=gpu)
            if peak is not None:
                peaks[timing.name, timing.batch] = peak
    return peaks


def _roofline(request: Request, field: Lineup, sizes: Sequence[int]) -> tuple[list[Floor], str | None]:
    """Compute floors of the files' own types, and of assumed FP16 and INT8 for a float32 file without such files.

    If an engine was compiled from a file, the engine's kernels are counted.
    """
    if not field.graphs:
        return [], None
    name = request.target or _target_here()
    if name is None:
        return [], None
    target, chip = roofline.target_with_chip(name)
    named = [entry.path for entry in field.entries if entry.kind in ENGINE_KINDS]
    named += [path for path in request.files if ModelFile.open(path).kind == "engine"]
    wanted: dict[CostPrecision, tuple[OnnxFile, CostPrecision | None, str]] = {}
    for file in field.graphs:
        if file.description.precision == "fp32":
            wanted.setdefault("fp32", (file, None, file.name))
            wanted.setdefault("fp16", (file, "fp16", f"{file.name}, all of it"))
            wanted.setdefault("int8", (file, "int8", f"{file.name}, all products"))
    for file in field.graphs:
        own = file.description.precision
        if own == "fp16" or own == "int8":
            wanted[own] = (file, None, file.name)
    floors: list[Floor] = []
    for precision in ("fp32", "fp16", "int8"):
        if precision in wanted:
            file, assumed, source = wanted[precision]
            cost = roofline.count_graph(file.read(), assumed)
            compiled = None if assumed else compiled_engines.for_target(file.path, named, target)
            for size in sizes:
                floors.append(
                    roofline.floor_of_graph(cost, chip, size, precision=precision, source=source)
                    if compiled is None
                    else roofline.floor_of_engine(compiled, cost, chip, size, precision=precision)
                )
    return floors, name


def _target_here() -> str | None:
    """Return the target whose floor is computed by default: this machine's GPU, or a T4 without one.

    None where NVIDIA's rates of the GPU aren't known here.
    """
    if not torch.cuda.is_available():
        return TARGET
    target = targets.of_gpu(torch.cuda.get_device_name())
    return None if target is None else target.name


def _uuid() -> str | None:
    try:
        return f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    except (AttributeError, RuntimeError):  # not available before PyTorch 2.6
        return None


def _doubts(request: Request, field: Lineup) -> tuple[str, ...]:
    """Reasons to doubt the reference: from a verification, or from the images where they have its classes."""
    if request.verified is not None:
        return request.verified.doubts
    if request.images is None or not field.entries:
        return ()
    path = field.entries[0].path
    try:
        model = ModelFile.open(path).predictor()
        images = parity.image_folder(request.images, model.description.classes)
    except HemfError:  # other classes, or a file that doesn't run here: nothing to check
        return ()
    if images is None or images.labels is None:
        return ()
    images = images.spread(plausibility.IMAGES)
    size = model.batch_size(predictor.BATCH)
    scores = np.concatenate([model.logits(pixels) for pixels in folders.batches(images, model.description.input, size)])
    return tuple(
        f"{path.name}: {text}" for text in plausibility.look(images, scores, model.description.input, model.infer, size)
    )


def _unstable(timings: Sequence[Timing]) -> list[str]:
    batches = sorted({timing.batch for timing in timings if not timing.stable})
    if not batches:
        return []
    named = ", ".join(map(str, batches))
    return [
        f"Time was up before every median was known to {measurement.STABLE:.0%} (batch {named}): see the intervals."
    ]
