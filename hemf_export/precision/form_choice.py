"""Choose the passes for a backend that make a graph's engine faster, by compiling candidates, or by timing them.

For our networks the choice is known, and `make bench-engine` shows it. Another graph may have a block that a pass
rewrites where the unchanged graph compiles to something faster: there both are compiled, without keeping an engine, and
the one with the lower modelled time (see `engines.census`) is chosen. `Compiler.tune` does that for any graph, pass by
pass, and on the target's GPU it times engines instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hemf_export.calibration import forms
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import copy_of
from hemf_export.engines import backends
from hemf_export.files import artifacts
from hemf_export.files.errors import HemfError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models.description import Description
from hemf_export.precision import trial_engine
from hemf_export.precision.trial_engine import Compiler

_SECONDS = 3.0  # of timing per candidate


@dataclass(frozen=True)
class Tried:
    """A candidate set of passes, and its engine.

    Args:
        passes: names of the passes.
        kernels: number of kernels.
        bytes: bytes that they move for the batch.
        model_ms: modelled time of one call.
        measured_ms: median latency on this machine's GPU; None where it isn't the target.
    """

    passes: tuple[str, ...]
    kernels: int
    bytes: int | None
    model_ms: float
    measured_ms: float | None = None

    @property
    def ms(self) -> float:
        """Time by which candidates are compared."""
        return self.model_ms if self.measured_ms is None else self.measured_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {**vars(self), "passes": list(self.passes)}


@dataclass(frozen=True)
class Choice:
    """Chosen passes, and the candidates that were tried, in order; none where the choice is known."""

    passes: tuple[str, ...]
    tried: tuple[Tried, ...] = ()
    note: str | None = None

    def among(self, names: Iterable[str]) -> tuple[str, ...]:
        """Filter passes by whether they were chosen."""
        return tuple(name for name in names if name in self.passes)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {"tried": [each.to_dict() for each in self.tried]} if self.tried else {}


def choose(
    model: ir.Model,
    compiler: Compiler,
    described: Description,
    *,
    ours: bool,
    progress: Progress = SILENT,
) -> Choice:
    """Choose the passes that make a graph's engine faster.

    Args:
        model: float32 graph before any pass; not changed.
        compiler: backend and target.
        described: description of the file.
        ours: whether it is one of our exports, whose passes are known.
        progress: receives what is compiled.
    """
    names = tuple(each.name for each in forms.PASSES if compiler.form in each.forms)
    if compiler.form == "cpu" or (ours and not compiler.tune):
        return Choice(names)
    places = forms.rewrite(copy_of(model), compiler.form).places
    present = tuple(name for name in names if name in places)
    if not present:
        return Choice(names)
    timed = compiler.tune and backends.gpu_capability() == compiler.target.compute_capability
    trial = _Trial(model, compiler, described, progress, timed=timed)
    try:
        whole, plain = trial.run(present), trial.run(())
        kept = whole.passes if whole.ms < plain.ms else plain.passes
        if compiler.tune or kept != present:
            kept = trial.grow(present)
    except HemfError as error:  # candidates can't be compared; the build will report what is wrong
        return Choice(names, trial.tried, f"Forms of the graph could not be compared: {error.message}")
    return Choice(kept, trial.tried)


class _Trial:
    """Compiles candidates, each of them once."""

    def __init__(
        self, model: ir.Model, compiler: Compiler, described: Description, progress: Progress, *, timed: bool
    ) -> None:  # fmt: skip
        self._model, self._described = model, described
        self._compiler = compiler.for_batch(described.batch)
        self._progress, self._timed = progress, timed
        self._known: dict[tuple[str, ...], Tried] = {}

    @property
    def tried(self) -> tuple[Tried, ...]:
        return tuple(self._known.values())

    def run(self, passes: tuple[str, ...]) -> Tried:
        """Compile the graph after these passes."""
        if passes not in self._known:
            with self._progress.task(f"Compiling the graph {'with ' + ', '.join(passes) if passes else 'as it is'}"):
                self._known[passes] = self._compiled(passes)
        return self._known[passes]

    def grow(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Add passes one by one, each kept if it helps; returns the best candidate tried so far."""
        kept: tuple[str, ...] = ()
        for name in names:
            candidate = tuple(each for each in names if each in kept or each == name)
            if self.run(candidate).ms < self.run(kept).ms:
                kept = candidate
        return min(self.tried, key=lambda each: each.ms).passes

    def _compiled(self, passes: tuple[str, ...]) -> Tried:
        model = copy_of(self._model)
        forms.rewrite(model, self._compiler.form, only=passes)
        to_float16(model)
        counted = trial_engine.count(model, self._compiler)
        time = counted.model_ms(self._compiler.chip, self._compiler.batch)
        tried = Tried(passes, counted.launches, counted.moved_bytes, float("inf") if time is None else time)
        return replace(tried, measured_ms=self._timed_ms(model)) if self._timed else tried

    def _timed_ms(self, model: ir.Model) -> float:
        """Build an engine, measure its median latency, and discard it."""
        from hemf_export import engines
        from hemf_export.engines.build import build_engine
        from hemf_export.engines.options import BatchProfile, BuildOptions
        from hemf_export.timing import measurement
        from hemf_export.timing.workloads import HostWorkload

        model_input, batch = self._described.input, self._compiler.batch
        profile = BatchProfile(batch, batch, batch)
        pixels = np.random.default_rng(0).integers(
            0, 256, (batch, model_input.height, model_input.width, 3), dtype=np.uint8
        )
        with artifacts.scratch() as folder:
            graph = folder / "graph.onnx"
            ir.save(model, graph)
            engine = build_engine(
                graph, folder / "trial.engine", backend=self._compiler.backend, target=self._compiler.target,
                options=BuildOptions(profiles=(profile,)), fields=self._described.to_dict(),
            )  # fmt: skip
            with engines.load(engine.path) as runner:
                contender = measurement.Contender(
                    "engine", lambda batch: HostWorkload(runner, model_input.network(batch)), _any
                )
                timings, missing = measurement.measure([contender], pixels, seconds=_SECONDS)
        if missing:
            raise HemfError(f"The trial engine gives no sound logits: {missing[0]}.")
        return timings[0].median_ms


def _any(largest: float) -> float:
    """No bound on logits: the graph is proven later, and only the time matters here."""
    return float("inf")
