"""A whole benchmark: what takes part is gathered, loaded, timed at each batch size and set beside its roofline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engines import targets
from hemf import artifacts, folders, processors
from hemf.errors import HemfError, MissingCapabilityError, UsageError
from hemf.reading import PLAIN, Reading
from hemf_export import compiled_engines, onnx_file, parity, plausibility, predictor
from hemf_export import predict as prediction
from hemf_export.bench import conditions, contenders, gpu_state, graph_counter, lineup, measurement, memory
from hemf_export.bench.accuracy import TimedFile, Verified
from hemf_export.bench.conditions import Conditions
from hemf_export.bench.entry import ENGINE_KINDS, Entry, Kind
from hemf_export.bench.graph_cost import CostPrecision
from hemf_export.bench.lineup import Lineup, Transfers
from hemf_export.bench.measurement import Contender, NotRun, Timing
from hemf_export.bench.memory import Memory
from hemf_export.bench.report import BenchReport
from hemf_export.bench.roofline import Floor, of_engine, predict, target_with_figures

BATCHES = (1, 8, 32)
TARGET = "t4"

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Request:
    """What to compare and how; see `hemf-export bench --help`.

    Args:
        files: empty for what lies in `folder`.
        folder: looked through.
        batches: sizes; None for `BATCHES`, or the files' own.
        seconds: at most, for each batch size.
        threads: of each runner on the CPU; None for those of `hemf.processors.threads`.
        images: a folder; None for seeded noise.
        kinds: of runners; None for those that usually make sense here.
        transfers: of what runs on a GPU.
        memory: measure it, a process a runner and batch size.
        target: of the roofline; None for this machine's GPU where it is known, else a T4.
        verified: how accurate the files are; refused before anything is timed where it is of others.
        reading: how the checkpoint is read; by default as the other files say it was when they were made.
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

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf") or (self.threads is not None and self.threads < 1):
            raise UsageError("--seconds and --threads must be positive.")
        if self.batches is not None and (not self.batches or min(self.batches) < 1):
            raise UsageError("--batch takes positive numbers, N or N,N.")
        if self.target is not None:
            target_with_figures(self.target)


def run(request: Request, progress: Progress = lambda what, share: None) -> BenchReport:
    """Time everything.

    Args:
        request: what and how.
        progress: told what is done, and how far that is.

    Raises:
        BadInputError: files of different models, nothing to compare, or a verification of other files.
        CheckFailedError: the reference's logits are not finite.
        MissingCapabilityError: nothing of what was asked for runs here; the reasons are told.
        UsageError: batch sizes that the files don't take.
    """
    threads = request.threads or processors.threads()
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    device = gpu_state.open_device(_uuid()) if gpu else None
    progress("reading the files", 0.0)
    field = lineup.gather(
        request.files, request.folder, kinds=request.kinds, transfers=request.transfers, gpu=gpu,
        reading=request.reading,
    )  # fmt: skip
    pictures = parity.image_folder(request.images, None)
    sizes = _sizes(request, field)
    floors, target = _roofline(request, field, sizes)
    opened, not_run = _open(field, threads, progress)
    hashes = {path: artifacts.sha256(path) for path in {entry.path for entry in field.entries}}
    files = {entry.name: TimedFile(entry.path.name, hashes[entry.path]) for entry in field.entries}
    if request.verified is not None:
        request.verified.require(field.checkpoint_sha256, list(files.values()))
    watched = Conditions(threads, device)
    timings: list[Timing] = []
    source = ""
    for size in sizes:
        samples = parity.Samples(field.input, pictures, size)
        source = samples.source

        def tell(what: str, share: float, size: int = size) -> None:
            watched.look()
            progress(f"batch {size}, {what}", share)

        found, missing = measurement.measure(opened, _pixels(samples, size), seconds=request.seconds, progress=tell)
        timings.extend(found)
        not_run.extend(missing)
    seen = watched.to_dict()
    used = _memory(field.entries, timings, threads, progress) if request.memory else {}
    notes = (*field.notes, *_doubts(request, field), *_unstable(timings), *conditions.warnings(seen))
    return BenchReport(field.checkpoint_sha256, source, timings, not_run, used, target, floors, seen, files, notes)


def _sizes(request: Request, field: Lineup) -> tuple[int, ...]:
    if field.batch is None:
        return tuple(dict.fromkeys(request.batches or BATCHES))
    if request.batches is not None and request.batches != (field.batch,):
        raise UsageError(f"The files have the fixed batch {field.batch}.", "Leave out --batch.")
    return (field.batch,)


def _open(field: Lineup, threads: int, progress: Progress) -> tuple[list[Contender], list[NotRun]]:
    opened: list[Contender] = []
    not_run = list(field.not_run)
    for number, entry in enumerate(field.entries):
        progress(f"loading {entry.name}", number / len(field.entries))
        try:
            opened.append(contenders.open_entry(entry, threads=threads, kept=field.input))
        except MissingCapabilityError as error:
            not_run.append(NotRun(entry.name, error.message))
    if not opened:
        reasons = " ".join(f"{missing.name}: {missing.reason}" for missing in not_run)
        raise MissingCapabilityError(f"Nothing of that runs here. {reasons}".strip(), "Leave out --runners.")
    return opened, not_run


def _pixels(samples: parity.Samples, size: int) -> NDArray[np.uint8]:
    pixels = np.concatenate(list(samples.pixels((size,))))
    return np.concatenate([pixels] * -(-size // len(pixels)))[:size]  # few images serve a large batch in turn


def _memory(
    entries: Sequence[Entry], timings: Sequence[Timing], threads: int, progress: Progress
) -> dict[tuple[str, int], Memory]:
    by_name = {entry.name: entry for entry in entries}
    found: dict[tuple[str, int], Memory] = {}
    for number, timing in enumerate(timings):
        progress(f"memory of {timing.name}, batch {timing.batch}", number / len(timings))
        used = memory.measure(by_name[timing.name], timing.batch, threads=threads)
        if used is not None:
            found[timing.name, timing.batch] = used
    return found


def _roofline(request: Request, field: Lineup, sizes: Sequence[int]) -> tuple[list[Floor], str | None]:
    """Floors of the files' own types; FP16 and INT8 are assumed of the float32 file where there is none of them.

    Of a file that an engine was compiled of, the engine's kernels are counted.
    """
    if not field.graphs:
        return [], None
    name = request.target or _here() or TARGET
    target, chip = target_with_figures(name)
    named = [entry.path for entry in field.entries if entry.kind in ENGINE_KINDS]
    named += [path for path in request.files if path.suffix == ".engine"]
    wanted: dict[CostPrecision, tuple[Path, CostPrecision | None, str]] = {}
    for path, description in field.graphs:
        if description.precision == "fp32":
            wanted.setdefault("fp32", (path, None, path.name))
            wanted.setdefault("fp16", (path, "fp16", f"{path.name}, all of it"))
            wanted.setdefault("int8", (path, "int8", f"{path.name}, all products"))
    for path, description in field.graphs:
        if description.precision in ("fp16", "int8"):
            wanted[description.precision] = (path, None, path.name)
    floors: list[Floor] = []
    for precision in ("fp32", "fp16", "int8"):
        if precision in wanted:
            path, assumed, source = wanted[precision]
            cost = graph_counter.count(onnx_file.read(path)[0], assumed)
            made = None if assumed else compiled_engines.for_target(path, named, target)
            for size in sizes:
                floors.append(
                    predict(cost, chip, size, precision=precision, source=source)
                    if made is None
                    else of_engine(made, cost, chip, size, precision=precision)
                )
    return floors, name


def _here() -> str | None:
    """The target that this machine's GPU is."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    known = [target for target in targets.TARGETS.values() if target.gpu and name.startswith(target.gpu)]
    # The longest: "NVIDIA A10" is in "NVIDIA A100" too.
    return max(known, key=lambda target: len(target.gpu or "")).name if known else None


def _uuid() -> str | None:
    try:
        return f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    except (AttributeError, RuntimeError):  # PyTorch before 2.6 doesn't tell it
        return None


def _doubts(request: Request, field: Lineup) -> tuple[str, ...]:
    """What is to be doubted of the reference: by a verification, or on the images where they have its classes."""
    if request.verified is not None:
        return request.verified.doubts
    if request.images is None or not field.entries:
        return ()
    path = field.entries[0].path
    try:
        model = prediction.load(path)
        images = parity.image_folder(request.images, model.classes)
    except HemfError:  # other classes, or a file that doesn't run here: there is nothing to look at
        return ()
    if images is None or images.labels is None:
        return ()
    images = images.spread(plausibility.IMAGES)
    size = model.fixed_batch or model.filled(predictor.BATCH)
    scores = np.concatenate([model.logits(pixels) for pixels in folders.batches(images, model.input, size)])
    return tuple(f"{path.name}: {text}" for text in plausibility.look(images, scores, model.input, model.infer, size))


def _unstable(timings: Sequence[Timing]) -> list[str]:
    found = sorted({timing.batch for timing in timings if not timing.stable})
    if not found:
        return []
    named = ", ".join(map(str, found))
    return [
        f"Time was up before every median was known to {measurement.STABLE:.0%} (batch {named}): see the intervals."
    ]
