"""Which passes of a form are worth it for a graph: decided by what the backend compiles, or by timing it.

For our networks that is known, and `make bench-engine` shows it. Another's graph may have blocks that a pass knows in
a place where the plain form compiles to less, so there both are compiled without keeping an engine, and the one that
the model of `engines.census` gives less time is taken. `Compiler.tune` does that for any graph, pass by pass, and where
the target's GPU is at hand it times the engines instead.
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

_SECONDS = 3.0  # of timing, for each candidate


@dataclass(frozen=True)
class Tried:
    """A set of passes, and what came of it.

    Args:
        passes: their names.
        kernels: that were compiled.
        bytes: that they move at the batch that was looked at.
        model_ms: the time that the model gives them.
        measured_ms: median latency on this machine's GPU; None where there is none of the target's kind.
    """

    passes: tuple[str, ...]
    kernels: int
    bytes: int | None
    model_ms: float
    measured_ms: float | None = None

    @property
    def ms(self) -> float:
        """What candidates are compared by."""
        return self.model_ms if self.measured_ms is None else self.measured_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {**vars(self), "passes": list(self.passes)}


@dataclass(frozen=True)
class Choice:
    """The passes to run, and what was tried for it, in order; nothing where nothing had to be."""

    passes: tuple[str, ...]
    tried: tuple[Tried, ...] = ()
    note: str | None = None

    def among(self, names: Iterable[str]) -> tuple[str, ...]:
        """The chosen ones of some passes."""
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
    """Choose the passes that are worth it for a graph.

    Args:
        model: float32, as it is before any pass; left as it is.
        compiler: what the graph is for.
        described: of the file.
        ours: whether an export of ours made it, whose passes are known to be worth it.
        progress: receives what is compiled.
    """
    names = tuple(each.name for each in forms.PASSES if compiler.form in each.forms)
    if compiler.form == "cpu" or (ours and not compiler.tune):
        return Choice(names)
    places = forms.rewrite(copy_of(model), compiler.form).places
    found = tuple(name for name in names if name in places)
    if not found:
        return Choice(names)
    timed = compiler.tune and backends.gpu_capability() == compiler.target.compute_capability
    trial = _Trial(model, compiler, described, progress, timed=timed)
    try:
        whole, plain = trial.run(found), trial.run(())
        kept = whole.passes if whole.ms < plain.ms else plain.passes
        if compiler.tune or kept != found:
            kept = trial.grow(found)
    except HemfError as error:  # the build itself tells what is wrong; here nothing can be compared
        return Choice(names, trial.tried, f"Forms of the graph could not be compared: {error.message}")
    return Choice(kept, trial.tried)


class _Trial:
    """Compiles candidates, each once."""

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
        """Compile the graph behind these passes."""
        if passes not in self._known:
            with self._progress.task(f"Compiling the graph {'with ' + ', '.join(passes) if passes else 'as it is'}"):
                self._known[passes] = self._compiled(passes)
        return self._known[passes]

    def grow(self, found: tuple[str, ...]) -> tuple[str, ...]:
        """Add one pass after the other, each kept where it helps; or the best that was tried before."""
        kept: tuple[str, ...] = ()
        for name in found:
            candidate = tuple(each for each in found if each in kept or each == name)
            if self.run(candidate).ms < self.run(kept).ms:
                kept = candidate
        return min(self.tried, key=lambda each: each.ms).passes

    def _compiled(self, passes: tuple[str, ...]) -> Tried:
        model = copy_of(self._model)
        forms.rewrite(model, self._compiler.form, only=passes)
        to_float16(model)
        counted = trial_engine.count(model, self._compiler)
        time = counted.model_ms(self._compiler.chip, self._compiler.batch)
        made = Tried(passes, counted.launches, counted.moved_bytes, float("inf") if time is None else time)
        return replace(made, measured_ms=self._timed_ms(model)) if self._timed else made

    def _timed_ms(self, model: ir.Model) -> float:
        """Median latency of an engine that is built for it and not kept."""
        from hemf_export import engines
        from hemf_export.engines.batches import BatchProfile
        from hemf_export.engines.build import build_engine
        from hemf_export.engines.options import BuildOptions
        from hemf_export.timing import measurement
        from hemf_export.timing.workloads import HostWorkload

        taken, batch = self._described.input, self._compiler.batch
        profile = BatchProfile(batch, batch, batch)
        pixels = np.random.default_rng(0).integers(0, 256, (batch, taken.height, taken.width, 3), dtype=np.uint8)
        with artifacts.scratch() as folder:
            graph = folder / "graph.onnx"
            ir.save(model, graph)
            engine = build_engine(
                graph, folder / "trial.engine", backend=self._compiler.backend, target=self._compiler.target,
                options=BuildOptions(profiles=(profile,)), fields=self._described.to_dict(),
            )  # fmt: skip
            with engines.load(engine.path) as runner:
                contender = measurement.Contender(
                    "engine", lambda batch: HostWorkload(runner, taken.network(batch)), _any
                )
                timings, missing = measurement.measure([contender], pixels, seconds=_SECONDS)
        if missing:
            raise HemfError(f"The trial engine gives no sound logits: {missing[0]}.")
        return timings[0].median_ms


def _any(largest: float) -> float:
    """No bound on logits: what is proven is the graph, and of a trial the time alone counts."""
    return float("inf")
