"""A bundle on its target: each file compared with its hash, golden images through what runs here, latency beside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemf_export.bench.contenders import ProviderRunner
from hemf_export.bundles import archive, contents, index, latency
from hemf_export.bundles.index import Index
from hemf_export.bundles.latency import Known, Latency, Reference, Work
from hemf_export.engines import backends, golden
from hemf_export.engines.golden import Golden, SelfTest
from hemf_export.files import artifact_folder, artifacts
from hemf_export.files.errors import BadInputError, CheckFailedError, HemfError, MissingCapabilityError
from hemf_export.files.processors import usable_cores
from hemf_export.files.progress import SILENT, Progress
from hemf_export.images.model_input import ModelInput
from hemf_export.models import self_test
from hemf_export.models.model_file import EngineFile
from hemf_export.models.onnx_file import OnnxFile
from hemf_export.models.predictor import Predictor
from hemf_export.models.runners import Runner

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Tried:
    """What came of one model.

    Args:
        file: its name.
        precision: of it.
        golden: its golden images; None where they weren't run.
        latency: None where it wasn't measured, or the bundle has no figure.
        reason: why it wasn't run; empty where it was.
        notes: what a user should know.
        noun: what differs: logit, or probability of a file that gives those.
    """

    file: str
    precision: str
    golden: SelfTest | None = None
    latency: Latency | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    noun: str = "logit"

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        if self.golden is None:
            return "not run"
        return "passed" if self.golden.passed and (self.latency is None or self.latency.passed) else "failed"

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "file": self.file,
            "precision": self.precision,
            "outcome": self.outcome,
            "golden": None if self.golden is None else self.golden.to_dict(),
            "latency": None if self.latency is None else self.latency.to_dict(),
            "reason": self.reason or None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Trial:
    """What came of all models."""

    models: tuple[Tried, ...]

    @property
    def passed(self) -> bool:
        """Whether something was run, and none of that failed."""
        outcomes = {model.outcome for model in self.models}
        return "passed" in outcomes and "failed" not in outcomes

    def require(self, path: Path, *, strict: bool) -> None:
        """Raise what the command ends with, if it isn't well.

        Args:
            path: of the bundle, for messages.
            strict: every model has to run here.

        Raises:
            CheckFailedError: golden images gave other logits, or a bound of latency is missed.
            MissingCapabilityError: nothing, or with `strict` not everything, can run here.
            BadInputError: there are no golden images.
        """
        report = {"models": [model.to_dict() for model in self.models]}
        if failed := [model for model in self.models if model.outcome == "failed"]:
            raise CheckFailedError(
                f"{path} failed:\n  " + "\n  ".join(_failure(model) for model in failed),
                "Don't use it on this machine. Make it again, and test again.",
                report,
            )
        left = [model for model in self.models if model.outcome == "not run"]
        if left and (strict or len(left) == len(self.models)):
            reasons = "\n  ".join(f"{model.file}: {model.reason}" for model in left)
            kind = BadInputError if all("golden" in model.reason for model in left) else MissingCapabilityError
            what = "Nothing of it was run" if len(left) == len(self.models) else "Not all of it was run (`strict`)"
            raise kind(f"{path} is whole, every hash agrees. {what}:\n  {reasons}")


@contextmanager
def opened(path: Path, keep: Path | None, progress: Progress = SILENT) -> Iterator[tuple[Path, Index]]:
    """A bundle, unpacked into a folder that goes away, or that takes its place at `keep` when the block ends well.

    Raises:
        BadInputError: see `archive.unpack`; or `keep` holds something.
    """
    if not path.is_file():
        raise BadInputError(f"No bundle at {path}.", "Make one: `bundle(*FILE, output=FILE.tar.zst)`.")
    if keep is None:
        with artifacts.scratch() as folder:
            yield folder, archive.unpack(path, folder, progress)
    else:
        with artifact_folder.whole(keep, index.NAME) as place:
            yield place, archive.unpack(path, place, progress)


def run(
    folder: Path, bundle_index: Index, *, cuda_graphs: bool = True, max_slowdown: float | None = None,
    progress: Progress = SILENT,
) -> Trial:  # fmt: skip
    """Try every model of an unpacked bundle.

    Args:
        folder: that it lies in.
        bundle_index: its index.
        cuda_graphs: launch engines as captured graphs.
        max_slowdown: in percent of the bundle's own figures; None for the rule of `bundles.latency`.
        progress: receives which model is run.

    Raises:
        BadInputError: files that agree with their hashes and not with each other.
    """
    latency.require_bound(max_slowdown)
    bench = folder / contents.BENCH_JSON
    listed = bundle_index.about["models"]
    try:
        figures = json.loads(bench.read_bytes()) if bench.is_file() else None
        gpu = backends.gpu_name()
        hashes = {model["sha256"] for model in listed}
        known = [
            latency.known(
                figures, model["sha256"], engine=model["kind"] == "engine", gpu=gpu, others=hashes - {model["sha256"]}
            )
            for model in listed
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{contents.BENCH_JSON} is no benchmark: {type(error).__name__} {error}.") from error
    paths = {model["sha256"]: folder / index.MODELS / model["file"] for model in listed}
    tried = []
    for model, figure in zip(listed, known, strict=True):
        stopwatch = None if figure is None else _Stopwatch(figure, paths, max_slowdown, cuda_graphs)
        with progress.task(f"Running {model['file']} on its golden images"):
            if model["kind"] == "engine":
                tried.append(_engine(paths[model["sha256"]], model, stopwatch, cuda_graphs))
            else:
                tried.append(_onnx(paths[model["sha256"]], model, stopwatch))
    return Trial(tuple(tried))


@dataclass(frozen=True)
class _Stopwatch:
    """Times a model beside its reference.

    Args:
        figure: of the benchmark.
        paths: the bundle's models, by their hashes.
        max_slowdown: see `run`.
        cuda_graphs: see `run`.
    """

    figure: Known
    paths: Mapping[str, Path]
    max_slowdown: float | None
    cuda_graphs: bool

    @property
    def threads(self) -> int:
        """Threads of a runner on the CPU."""
        return min(self.figure.threads, usable_cores())

    def time(self, runner: Runner, images: Golden, model_input: ModelInput) -> Latency:
        """Measure a runner on copies of its golden images."""
        inputs = _inputs(images, model_input, self.figure.batch)
        with self._reference(images) as reference:
            return latency.measure(lambda: runner.infer(inputs), self.figure, self.max_slowdown, reference)

    @contextmanager
    def _reference(self, images: Golden) -> Iterator[Work | None]:
        """The reference on the same images; None where there is none, or where it can't run here."""
        known = self.figure.reference
        if known is None or not self.figure.same_kind or self.max_slowdown is not None:
            yield None
            return
        with ExitStack() as stack:
            try:
                work = self._work(known, images, stack)
            except HemfError:
                work = None  # its own turn tells what is wrong with it
            yield work

    def _work(self, known: Reference, images: Golden, stack: ExitStack) -> Work | None:
        path = self.paths[known.sha256]
        file = EngineFile.open(path) if known.kind == "engine" else OnnxFile.open(path)
        if images.pixels.shape[1:3] != (file.input.height, file.input.width):
            return None  # it takes images of another size
        runner: Runner
        if isinstance(file, EngineFile):
            runner = stack.enter_context(file.runner(cuda_graphs=self.cuda_graphs))
        elif known.kind == "ort-cpu":
            runner = file.runner(threads=self.threads)
        else:
            runner = ProviderRunner(path, "CUDAExecutionProvider", output=file.output)
        inputs = _inputs(images, file.input, self.figure.batch)
        runner.infer(inputs)  # what it refuses, it refuses here
        return lambda: runner.infer(inputs)


def _onnx(path: Path, about: Mapping[str, Any], stopwatch: _Stopwatch | None) -> Tried:
    file = OnnxFile.open(path)
    model, known = file.predictor(), file.golden()
    if known is None:
        return _without_golden(about)
    # ONNX Runtime computes float16 in float32 on a CPU; the bound has room for it.
    checked = golden.check(_OfPixels(model), known, model.preprocess, raw=True)
    measured = None
    if stopwatch is not None:
        measured = stopwatch.time(file.runner(threads=stopwatch.threads), known, file.input)
    return Tried(about["file"], about["precision"], checked, measured, noun=file.output.noun)


def _engine(path: Path, about: Mapping[str, Any], stopwatch: _Stopwatch | None, cuda_graphs: bool) -> Tried:
    file = EngineFile.open(path)
    try:
        with file.runner(cuda_graphs=cuda_graphs) as runner:
            checked, known = self_test.compare(runner, file), file.golden()
            if checked is None or known is None:
                return _without_golden(about)
            measured = None if stopwatch is None else stopwatch.time(runner, known, file.input)
            return Tried(
                about["file"], about["precision"], checked, measured, notes=tuple(runner.notes), noun=runner.output.noun
            )
    except MissingCapabilityError as error:
        # The temporary folder says nothing to anybody.
        return Tried(about["file"], about["precision"], reason=error.message.replace(str(path), path.name))


def _without_golden(about: Mapping[str, Any]) -> Tried:
    return Tried(about["file"], about["precision"], reason="it has no golden images")


def _inputs(known: Golden, model_input: ModelInput, batch: int) -> NDArray[np.generic]:
    pixels = np.resize(known.pixels, (batch, *known.pixels.shape[1:]))
    return model_input.network(pixels)


def _failure(model: Tried) -> str:
    said = []
    if model.golden is not None and not model.golden.passed:
        compared, bound = model.golden.comparison, model.golden.bound
        difference = f"a {model.noun} differs by {compared.logit_difference.max:.3g}, bound {bound:.3g}"
        said.append(difference if compared.finite else "logits that are not finite")
    if model.latency is not None and not model.latency.passed:
        said.append(model.latency.failure)
    return f"{model.file}: {'; '.join(said)}"


class _OfPixels:
    """A model as something that takes pixels."""

    def __init__(self, model: Predictor) -> None:
        self._model = model

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Pixels (n, H, W, 3) uint8 → logits, in batches that the file takes."""
        return self._model.logits(np.asarray(batch, np.uint8))
