"""How long each layer of an engine takes on its GPU, by TensorRT's own profiler; and how that agrees with the model.

With a profiler, layers run one after the other, and each is waited for: their sum is more than a call takes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hemf_export.engines.census import PEAKS, Census, Rates
from hemf_export.engines.chips import Chip
from hemf_export.engines.device import Device
from hemf_export.engines.execution import Execution
from hemf_export.engines.runtime import Loaded
from hemf_export.engines.tensors import interface
from hemf_export.files.errors import HemfError

if TYPE_CHECKING:
    from tensorrt_bindings import Bindings, IExecutionContext

RUNS = 50
_LEAST_MATCHED = 3  # kernels: fewer have no order to speak of


@dataclass(frozen=True)
class Miss:
    """A kernel, and how far the model is from it.

    Args:
        kernel: its name.
        measured_ms: the median.
        modelled_ms: by the model, with its launch.
    """

    kernel: str
    measured_ms: float
    modelled_ms: float


@dataclass(frozen=True)
class Agreement:
    """Measured times beside the model's.

    Args:
        matched: kernels that both have.
        unmatched: layers that were measured and that the census doesn't name.
        measured_ms: of all matched kernels.
        modelled_ms: of the same.
        correlation: of ranks (Spearman); None where too few are matched.
        misses: the matched kernels, the largest difference first.
    """

    matched: int
    unmatched: int
    measured_ms: float
    modelled_ms: float
    correlation: float | None
    misses: tuple[Miss, ...]


def measure(loaded: Loaded, device: Device, batch: int, *, runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of each layer by its name: the median over runs, in the order in which they ran.

    Args:
        loaded: an engine that may run here.
        device: its GPU.
        batch: images a call, which has to fit a profile.
        runs: how many are measured, after a first one that isn't.

    Raises:
        BadInputError: a batch that fits no profile.
        HemfError: TensorRT can't run it, or tells no times.
    """
    profiler = _profiler(loaded.backend.bindings)
    shape = interface(loaded.engine, loaded.path)

    def new_context() -> IExecutionContext | None:
        context = loaded.engine.create_execution_context()
        if context is not None:
            context.profiler = profiler
        return context

    shape.parts(batch)
    execution = Execution(
        new_context, shape, device, cuda_graphs=False,
        reason=lambda: "; ".join(loaded.messages) or "it gives no reason",
    )  # fmt: skip
    images = torch.zeros((batch, *shape.input.shape), dtype=shape.input.dtype)
    execution.run(images)
    profiler.times.clear()
    for _ in range(runs):
        execution.run(images)
    if not profiler.times:
        raise HemfError(f"{loaded.backend.name} {loaded.backend.version} tells no times of layers.")
    # A name that a run reports several times, as a layer in parts, counts with the sum.
    return {name: statistics.median(times) * len(times) / runs for name, times in profiler.times.items()}


def compare(times: Mapping[str, float], census: Census, chip: Chip, batch: int, *, rates: Rates = PEAKS) -> Agreement:
    """Set measured times beside the model's, kernel by kernel.

    Args:
        times: as `measure` gives them.
        census: of the engine, with sizes; of one that was counted by a twin, few names may agree.
        chip: the GPU's published rates.
        batch: that was measured.
        rates: that the model takes to be reached.
    """
    modelled = _modelled(census, chip, batch, rates)
    found = [Miss(name, measured, modelled[name]) for name, measured in times.items() if name in modelled]
    return Agreement(
        len(found), len(times) - len(found), sum(one.measured_ms for one in found),
        sum(one.modelled_ms for one in found), _correlation(found),
        tuple(sorted(found, key=lambda one: -abs(one.measured_ms - one.modelled_ms))),
    )  # fmt: skip


def _modelled(census: Census, chip: Chip, batch: int, rates: Rates) -> dict[str, float]:
    seconds = census.kernel_times_s(chip, batch) or []
    found: defaultdict[str, float] = defaultdict(float)
    for kernel, both in zip(census.sized, seconds, strict=False):
        found[kernel.name] += 1000 * (rates.kernel_s(*both) + rates.launch_s)
    return dict(found)


def _correlation(found: Sequence[Miss]) -> float | None:
    if len(found) < _LEAST_MATCHED:
        return None
    from scipy.stats import spearmanr

    value = float(spearmanr([one.measured_ms for one in found], [one.modelled_ms for one in found]).statistic)
    return None if value != value else value  # where all are alike


def _profiler(trt: Bindings) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: defaultdict[str, list[float]] = defaultdict(list)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name].append(float(ms))

    return Profiler()
