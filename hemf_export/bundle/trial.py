"""A bundle on its target: each file compared with its hash, golden images through what runs here, latency beside.

from hemf_export.bundle import trial
with trial.opened(Path("best.tar.zst"), None) as (folder, index):
    print(trial.run(folder, index).passed)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import engines
from engines import backends, golden
from engines.golden import Golden, SelfTest
from hemf import artifact_folder, artifacts
from hemf.errors import BadInputError, CheckFailedError, MissingCapabilityError
from hemf.processors import usable_cores
from hemf_export import onnx_file, predict, self_test
from hemf_export.bundle import index, latency, reports, unpacking
from hemf_export.bundle.archive import Progress
from hemf_export.bundle.index import Index
from hemf_export.bundle.latency import Known, Latency
from hemf_export.description import Description
from hemf_export.predictor import Predictor
from hemf_export.runners import OnnxRunner

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
            "golden": None if self.golden is None else self_test.to_dict(self.golden),
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
            what = "Nothing of it was run" if len(left) == len(self.models) else "Not all of it was run (--strict)"
            raise kind(f"{path} is whole, every hash agrees. {what}:\n  {reasons}")


@contextmanager
def opened(path: Path, keep: Path | None, progress: Progress = lambda count: None) -> Iterator[tuple[Path, Index]]:
    """A bundle, unpacked into a folder that goes away, or that takes its place at `keep` when the block ends well.

    Raises:
        BadInputError: see `unpacking.unpack`; or `keep` holds something.
    """
    if not path.is_file():
        raise BadInputError(f"No bundle at {path}.", "Make one: hemf-export bundle FILE… -o FILE.tar.zst.")
    if keep is None:
        with artifacts.scratch() as folder:
            yield folder, unpacking.unpack(path, folder, progress)
    else:
        with artifact_folder.whole(keep, index.NAME) as place:
            yield place, unpacking.unpack(path, place, progress)


def run(
    folder: Path, found: Index, *, cuda_graphs: bool = True, max_slowdown: float | None = None,
    begin: Callable[[str], None] = lambda name: None,
) -> Trial:  # fmt: skip
    """Try every model of an unpacked bundle.

    Args:
        folder: that it lies in.
        found: its index.
        cuda_graphs: launch engines as captured graphs.
        max_slowdown: in percent of the bundle's own figures; None for a default on a machine of the same kind.
        begin: told the name of each model.

    Raises:
        BadInputError: files that agree with their hashes and not with each other.
    """
    latency.require_bound(max_slowdown)
    bench = folder / reports.BENCH_JSON
    try:
        figures = json.loads(bench.read_bytes()) if bench.is_file() else None
        gpu = backends.gpu_name()
        known = [
            latency.known(figures, model["sha256"], engine=model["kind"] == "engine", gpu=gpu)
            for model in found.about["models"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{reports.BENCH_JSON} is no benchmark: {type(error).__name__} {error}.") from error
    tried = []
    for model, figure in zip(found.about["models"], known, strict=True):
        begin(model["file"])
        path = folder / index.MODELS / model["file"]
        if model["kind"] == "engine":
            tried.append(_engine(path, model, figure, cuda_graphs, max_slowdown))
        else:
            tried.append(_onnx(path, model, figure, max_slowdown))
    return Trial(tuple(tried))


def _onnx(path: Path, about: Mapping[str, Any], figure: Known | None, max_slowdown: float | None) -> Tried:
    described, model = onnx_file.read(path)[1], predict.load(path)
    known = golden.read(path, artifacts.read_manifest(path) or {})
    if known is None:
        return _without_golden(about)
    # ONNX Runtime computes float16 in float32 on a CPU; the bound has room for it.
    found = golden.check(_OfPixels(model), known, described.preprocess, raw=True)
    taken = None
    if figure is not None:
        runner = OnnxRunner(path, threads=min(figure.threads, usable_cores()), output=described.output)
        taken = latency.measure(runner, _inputs(known, described, figure.batch), figure, max_slowdown)
    return Tried(about["file"], about["precision"], found, taken, noun=described.output.noun)


def _engine(
    path: Path, about: Mapping[str, Any], figure: Known | None, cuda_graphs: bool, max_slowdown: float | None
) -> Tried:  # fmt: skip
    try:
        with engines.load(path, cuda_graphs=cuda_graphs) as runner:
            found = self_test.compare(runner, path)
            known = golden.read(path, runner.manifest)
            if found is None or known is None:
                return _without_golden(about)
            taken = None
            if figure is not None:
                described = Description.from_manifest(path, runner.manifest)
                taken = latency.measure(runner, _inputs(known, described, figure.batch), figure, max_slowdown)
            return Tried(
                about["file"], about["precision"], found, taken, notes=tuple(runner.notes), noun=runner.output.noun
            )
    except MissingCapabilityError as error:
        # The temporary folder says nothing to anybody.
        return Tried(about["file"], about["precision"], reason=error.message.replace(str(path), path.name))


def _without_golden(about: Mapping[str, Any]) -> Tried:
    return Tried(about["file"], about["precision"], reason="it has no golden images")


def _inputs(known: Golden, described: Description, batch: int) -> NDArray[np.generic]:
    pixels = np.resize(known.pixels, (batch, *known.pixels.shape[1:]))
    return described.input.network(pixels)


def _failure(model: Tried) -> str:
    said = []
    if model.golden is not None and not model.golden.passed:
        bound = f"a {model.noun} differs by {model.golden.max_difference:.3g}, bound {model.golden.bound:.3g}"
        said.append(bound if model.golden.finite else "logits that are not finite")
    if model.latency is not None and not model.latency.passed:
        one = model.latency
        said.append(
            f"{one.p50_ms:.3g} ms at batch {one.known.batch}, where the bundle has {one.known.p50_ms:.3g} ms: "
            f"{one.slowdown:.0f} % slower, bound {one.max_slowdown:g} % (--max-slowdown)"
        )
    return f"{model.file}: {'; '.join(said)}"


class _OfPixels:
    """A model as something that takes pixels."""

    def __init__(self, model: Predictor) -> None:
        self._model = model

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Pixels (n, H, W, 3) uint8 → logits, in batches that the file takes."""
        return self._model.logits(np.asarray(batch, np.uint8))
