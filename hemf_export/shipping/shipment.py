"""Ship a checkpoint, or a folder of them: ONNX → quantization → engine → verification → benchmark → bundle.

Steps whose inputs are unchanged are not repeated, so that an interrupted call continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemf_export.engines import machine
from hemf_export.engines.options import BatchProfile
from hemf_export.files import artifacts, file_names, locks
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models import file_kinds
from hemf_export.models.model_file import CheckpointFile
from hemf_export.shipping import records, steps
from hemf_export.shipping.options import Options
from hemf_export.shipping.records import Done, Records
from hemf_export.shipping.steps import Job, Result
from hemf_export.triton.options import require_name

BEST, LAST = "best.pt", "last.pt"
LONGEST_NAME = 80  # characters of the name of a checkpoint's files, without extensions, which archives limit


@dataclass(frozen=True)
class Source:
    """A checkpoint, and the output folder.

    Args:
        name: name of all its files, valid on any system, in Triton and in URLs.
        checkpoint: the checkpoint.
        folder: output folder.
        called: the checkpoint's own name, where that isn't valid; else empty.
    """

    name: str
    checkpoint: Path
    folder: Path
    called: str = ""


@dataclass
class Shipped:
    """Result of shipping a checkpoint.

    Args:
        source: the checkpoint.
        facts: results of its steps, see `steps`.
        made: steps that were run now.
        cached: steps that were finished before.
        failed_at: the step that failed, or empty.
        error: its error.
    """

    source: Source
    facts: dict[str, Any] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    failed_at: str = ""
    error: Exception | None = None

    @property
    def bundle(self) -> Path | None:
        """The finished bundle; None where a step failed."""
        return self.source.folder / self.facts["bundle"] if "bundle" in self.facts else None

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "name": self.source.name,
            "checkpoint": str(self.source.checkpoint),
            "folder": str(self.source.folder),
            **{**self.facts, "bundle": str(self.bundle) if self.bundle else None},
            "made": self.made,
            "cached": self.cached,
            "failed_at": self.failed_at or None,
            "error": str(self.error) if self.error else None,
        }


@dataclass(frozen=True)
class CheckpointBegun:
    """Event: work on a checkpoint begins.

    Args:
        name: name of its files.
        number: its number, from 1.
        total: number of all checkpoints.
    """

    name: str
    number: int
    total: int


@dataclass(frozen=True)
class StepBegun:
    """Event: a step begins.

    Args:
        name: onnx, precision, engine, verify, bench or bundle.
        done_before: it was finished before with the same inputs, and isn't run again.
    """

    name: str
    done_before: bool = False


def find(path: Path, output: Path, name: str | None = None) -> list[Source]:
    """Find the checkpoints of a path: a file, those in a folder but for last.pt, or else each best.pt below it.

    Args:
        path: the file or folder.
        output: output folder.
        name: name of a single checkpoint's files; by default its own, made valid.

    Raises:
        BadInputError: there are none.
        UsageError: two checkpoints of one name; a name for several checkpoints, or one that isn't valid.
    """
    if name is not None:
        require_name(name)
        if not path.is_file():
            raise UsageError(f"`name` names a single checkpoint; {path} is a folder.", "Leave out `name`.")
    if path.is_file():
        return [_source(name or CheckpointFile.open(path).stem, path, output)]
    if not path.is_dir():
        raise BadInputError(f"No checkpoint at {path}.", "A checkpoint, or a folder of them, is needed.")
    files = [one.path for one in CheckpointFile.all_in(path) if one.name != LAST]
    names = [file_kinds.stem(one) for one in files]
    if not files:
        files = sorted(path.rglob(BEST))
        names = ["-".join(one.parent.relative_to(path).parts) for one in files]
    if not files:
        raise BadInputError(
            f"No checkpoint lies in {path}, nor a {BEST} in a folder below it.",
            "Name a checkpoint, or a folder that has some.",
        )
    sources = [_source(name, one, output) for name, one in zip(names, files, strict=True)]
    folded = [source.name.casefold() for source in sources]
    if twice := [source.name for source in sources if folded.count(source.name.casefold()) > 1]:
        raise UsageError(f"Two checkpoints would be called {twice[0]}.", "Rename one, or ship them one by one.")
    return [dataclasses.replace(source, folder=output / source.name) for source in sources]


def _source(called: str, checkpoint: Path, folder: Path) -> Source:
    name = file_names.fit(called, longest=LONGEST_NAME)
    return Source(name, checkpoint, folder, "" if name == called else called)


def ship(sources: Sequence[Source], data: Path, options: Options, progress: Progress = SILENT) -> list[Shipped]:
    """Ship every checkpoint. One that fails doesn't stop the others.

    Args:
        sources: see `find`.
        data: folder of images.
        options: options of all steps.
        progress: receives what the steps report, and each `CheckpointBegun` and `StepBegun` as an event.

    Raises:
        BadInputError: the images or an output folder, before any work.
        InUseError: another process ships into one of the folders.
    """
    records.require_folder(data)
    for source in sources:
        _check_folder(source.folder)
    with ExitStack() as stack:
        for source in sources:
            stack.enter_context(locks.owned_folder(source.folder))
        return _ship(sources, data, options, progress)


def _ship(sources: Sequence[Source], data: Path, options: Options, progress: Progress) -> list[Shipped]:
    with progress.task(f"Reading {data}"):
        digest = records.folder_digest(data)
    shipped = []
    for number, source in enumerate(sources, 1):
        progress.event(CheckpointBegun(source.name, number, len(sources)))
        if source.called:
            progress.note(
                f"The files of {source.called!r} are called {source.name}: names must be valid on any system."
            )
        current = Shipped(source)
        job = Job(source.name, source.checkpoint, data, source.folder, options, progress)
        try:
            _Run(job, digest, current).all()
        except Exception as error:  # noqa: BLE001 - the other checkpoints are shipped; the command raises it at the end
            current.error = error
            records.discard_empty(source.folder)
        shipped.append(current)
    return shipped


class _Run:
    """Runs the steps of one checkpoint in order."""

    def __init__(self, job: Job, data_digest: str, shipped: Shipped) -> None:
        self.job, self.data_digest, self.shipped = job, data_digest, shipped
        self.records = Records(job.folder)
        # The folder is locked: temporary files are left over from a call that was killed.
        for path in job.folder.glob(".*.tmp"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def all(self) -> None:
        job, options = self.job, self.job.options
        common = {"checkpoint": artifacts.sha256(job.checkpoint), "data": self.data_digest, "name": job.name}
        own = {"factory": options.factory, "code": _code(options.factory)} if options.factory else {}
        exported = self._step(
            "onnx",
            {**common, **own, **options.only("input", "source_size", "classes", "weights", "image_size")},
            lambda _: steps.onnx(job),
        )
        gpu = _gpu()
        converted = self._step(
            "precision",
            {
                **common, "of": exported.files, **options.only("max_drop", "precision", "metric", "backend"),
                **({} if gpu is None else {"gpu": gpu, **options.only("target")}),  # the backend depends on them
                **({} if options.precision == "fp16" else options.only("target", "batch")),  # engines are compared
            },
            lambda _: steps.precision(job),
        )  # fmt: skip
        graph = job.folder / converted.facts["graph"]
        engine = self._step(
            "engine",
            {
                **common, "of": converted.files, "gpu": gpu,
                **options.only("target", "backend", "batch", "golden", "noise"),
            },
            lambda key: steps.engine(job, graph, key),
        )  # fmt: skip
        plan = job.folder / engine.facts["engine"]
        runs = gpu is not None and _runs(plan)
        candidates = [job.file(".onnx"), graph, *([plan] if runs else [])]
        hashes = {**exported.files, **converted.files, **engine.files}
        checked = self._step(
            "verify", {**common, "of": hashes, "engine": runs, **options.only("classes")},
            lambda _: steps.verify(job, candidates),
        )  # fmt: skip
        report = job.file(".verify.json")
        files = [graph, plan]
        timed = self._bench(candidates, files, {**common, "of": {**hashes, **checked.files}, "gpu": gpu}, report)
        made_of = {**hashes, **checked.files, **(timed.files if timed else {})}
        use = artifacts.sha256(Path(options.use)) if options.use else None
        self._step(
            "bundle", {**common, "of": made_of, "text": use, **options.only("golden", "noise", "triton", "cpp")},
            lambda _: steps.bundle(job, files, report, job.file(".bench.json") if timed else None),
        )  # fmt: skip

    def _bench(self, files: list[Path], shipped: list[Path], inputs: dict[str, Any], report: Path) -> Done | None:
        options = self.job.options
        if not options.bench:
            return None
        batches = tuple(dict.fromkeys((1, BatchProfile.parse(options.batch).optimum)))
        return self._step(
            "bench", {**inputs, "machine": machine.platform_here(), **options.only("bench_seconds", "batch")},
            lambda _: steps.bench(self.job, files, batches, report, shipped=shipped),
        )  # fmt: skip

    def _step(self, name: str, inputs: dict[str, Any], run: Callable[[str], Result]) -> Done:
        """Run a step, unless it was finished before with the same inputs."""
        key = records.key(name, inputs)
        self.shipped.failed_at = name
        done = self.records.find(name, key)
        if done is not None:
            self.job.progress.event(StepBegun(name, done_before=True))
            self.shipped.cached.append(name)
        else:
            self.job.progress.event(StepBegun(name))
            paths, facts = run(key)
            done = self.records.keep(name, key, paths, facts)
            self.shipped.made.append(name)
        self.shipped.facts.update(done.facts)
        self.shipped.failed_at = ""
        return done


def _code(factory: str) -> str | None:
    """Hash of the user's module that makes the network; torch, whose import takes seconds, is used for that alone."""
    from hemf_export.networks import factory as factories

    return factories.source_sha256(factory)


def _gpu() -> str | None:
    """Name of this machine's GPU; torch, whose import takes seconds, is only used if there is a driver."""
    if machine.driver() is None:
        return None
    from hemf_export.engines import backends

    return backends.gpu_name()


def _runs(plan: Path) -> bool:
    """Whether an engine can run on this machine, by its preflight check."""
    from hemf_export.engines import preflight

    return preflight.look(plan, machine.here()).refusal is None


def _check_folder(folder: Path) -> None:
    """Raise BadInputError unless a folder is new, empty, or of an earlier shipment."""
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    if shown and not (folder / records.NAME).is_file():
        raise BadInputError(
            f"{folder} is not empty, and has no {records.NAME}: nothing is written there.",
            "Choose a new or an empty folder with `output`.",
        )
