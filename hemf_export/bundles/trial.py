"""Self-test of a bundle on its target: hashes of all files, golden images through every runnable model, latency."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemf_export.bench.provider_runner import ProviderRunner
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
from hemf_export.models.model_file import EngineFile, OnnxFile
from hemf_export.models.predictor import Predictor
from hemf_export.models.runners import Runner
from hemf_export.timing import failures

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Tried:
    """Self-test result of one model.

    Args:
        file: name of the file.
        precision: precision of the file.
        golden: result of its golden images; None if they weren't run.
        latency: its latency; None if it wasn't measured, or the bundle has no figure.
        reason: why it wasn't run; empty if it was.
        notes: remarks for the user.
        noun: what is compared: "logit", or "probability" for files that output those.
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
    """Self-test results of all models."""

    models: tuple[Tried, ...]

    @property
    def passed(self) -> bool:
        """Whether at least one model was run, and none failed."""
        outcomes = {model.outcome for model in self.models}
        return "passed" in outcomes and "failed" not in outcomes

    def require(self, path: Path, *, strict: bool) -> None:
        """Raise an error unless the self-test passed.

        Args:
            path: path of the bundle, for messages.
            strict: require every model to run here.

        Raises:
            CheckFailedError: logits of golden images differ, or a latency bound is missed.
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
    """Unpack a bundle into a temporary folder, which becomes `keep` if the block succeeds.

    Raises:
        BadInputError: see `archive.unpack`; or `keep` isn't empty.
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
    """Test every model of an unpacked bundle.

    Args:
        folder: folder of the unpacked bundle.
        bundle_index: its index.
        cuda_graphs: launch engines as captured graphs.
        max_slowdown: allowed slow-down against the bundle's benchmark, in percent; None for the rule of
            `bundles.latency`.
        progress: receives the model being run.

    Raises:
        BadInputError: files whose hashes are right but which contradict each other.
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
    """Timer of a model, alternately with its reference.

    Args:
        figure: figures of the benchmark.
        paths: paths of the bundle's models by hash.
        max_slowdown: see `run`.
        cuda_graphs: see `run`.
    """

    figure: Known
    paths: Mapping[str, Path]
    max_slowdown: float | None
    cuda_graphs: bool

    @property
    def threads(self) -> int:
        """Number of threads of a runner on the CPU."""
        return min(self.figure.threads, usable_cores())

    def time(self, runner: Runner, images: Golden, model_input: ModelInput) -> Latency:
        """Measure a runner's latency on copies of its golden images."""
        inputs = _inputs(images, model_input, self.figure.batch)
        with self._reference(images) as reference:
            return latency.measure(lambda: runner.infer(inputs), self.figure, self.max_slowdown, reference)

    @contextmanager
    def _reference(self, images: Golden) -> Iterator[Work | None]:
        """Yield the reference on the same images; None if there is none, or it can't run here."""
        known = self.figure.reference
        if known is None or not self.figure.same_kind or self.max_slowdown is not None:
            yield None
            return
        with ExitStack() as stack:
            try:
                work = self._work(known, images, stack)
            except HemfError:
                work = None  # its own test reports the error
            yield work

    def _work(self, known: Reference, images: Golden, stack: ExitStack) -> Work | None:
        path = self.paths[known.sha256]
        file = EngineFile.open(path) if known.kind == "engine" else OnnxFile.open(path)
        if images.pixels.shape[1:3] != (file.description.input.height, file.description.input.width):
            return None  # it takes images of another size
        runner: Runner
        if isinstance(file, EngineFile):
            runner = stack.enter_context(file.runner(cuda_graphs=self.cuda_graphs))
        elif known.kind == "ort-cpu":
            runner = file.runner(threads=self.threads)
        else:
            runner = ProviderRunner(path, "CUDAExecutionProvider", output=file.description.output)
        inputs = _inputs(images, file.description.input, self.figure.batch)
        with failures.guarded(on_gpu=known.kind != "ort-cpu"):
            runner.infer(inputs)  # warm-up, where errors of the reference surface
        return lambda: runner.infer(inputs)


def _onnx(path: Path, about: Mapping[str, Any], stopwatch: _Stopwatch | None) -> Tried:
    file = OnnxFile.open(path)
    model, known = file.predictor(), file.golden()
    if known is None:
        return _without_golden(about)
    # ONNX Runtime computes float16 in float32 on a CPU; the bound has room for it.
    checked = golden.check(_OfPixels(model), known, ModelInput(model.description.preprocess, raw=True))
    measured = None
    if stopwatch is not None:
        measured = stopwatch.time(file.runner(threads=stopwatch.threads), known, file.description.input)
    return Tried(about["file"], about["precision"], checked, measured, noun=file.description.output.noun)


def _engine(path: Path, about: Mapping[str, Any], stopwatch: _Stopwatch | None, cuda_graphs: bool) -> Tried:
    file = EngineFile.open(path)
    try:
        with file.runner(cuda_graphs=cuda_graphs) as runner:
            if (known := file.golden()) is None:
                return _without_golden(about)
            checked = self_test.compare(runner, known, file.description)
            measured = None if stopwatch is None else stopwatch.time(runner, known, file.description.input)
            return Tried(
                about["file"], about["precision"], checked, measured, notes=tuple(runner.notes), noun=runner.output.noun
            )
    except MissingCapabilityError as error:
        # The path of the temporary folder means nothing to users.
        return Tried(about["file"], about["precision"], reason=error.message.replace(str(path), path.name))


def _without_golden(about: Mapping[str, Any]) -> Tried:
    return Tried(about["file"], about["precision"], reason="it has no golden images")


def _inputs(known: Golden, model_input: ModelInput, batch: int) -> NDArray[np.generic]:
    pixels = np.resize(known.pixels, (batch, *known.pixels.shape[1:]))
    return model_input.network(pixels)


def _failure(model: Tried) -> str:
    problems = []
    if model.golden is not None and not model.golden.passed:
        compared, bound = model.golden.comparison, model.golden.bound
        difference = f"a {model.noun} differs by {compared.logit_difference.max:.3g}, bound {bound:.3g}"
        problems.append(difference if compared.finite else "logits that are not finite")
    if model.latency is not None and not model.latency.passed:
        problems.append(model.latency.failure)
    return f"{model.file}: {'; '.join(problems)}"


class _OfPixels:
    """Adapter of a model to pixels as input."""

    def __init__(self, model: Predictor) -> None:
        self._model = model

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Compute logits (n, classes) of pixels (n, H, W, 3), uint8, in batches that the file takes."""
        return self._model.logits(np.asarray(batch, np.uint8))
