"""The least time that a graph needs on a GPU: counted operations and bytes over the rates that NVIDIA publishes.

Each kernel takes the longer of its operations at the peak rate of their type, and its bytes at the peak bandwidth;
kernels follow each other. Nothing is added for clocks below the boost clock or for a power limit, and only products are
operations: exponentials and sums ride on the memory's time.

Where an engine was compiled of the graph, its own kernels are counted, and 2.5 µs for the launch of each. Where there
is none, fusion is assumed (see `hemf_export.bench.graph_counter`) and nothing is added for launches: a floor as far as
that holds. A share of it reached is a figure for comparing, not a grade. How near such times are to latencies that were
published, docs/engine-model.md says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines import targets
from engines.chips import Chip
from engines.targets import Target
from hemf.errors import UsageError
from hemf_export.bench.graph_cost import CostPrecision, GraphCost, Kernel
from hemf_export.compiled_engines import Compiled


@dataclass(frozen=True)
class Floor:
    """Of one graph on one GPU at one batch size.

    Args:
        precision: of the graph.
        batch: images a call.
        floor_ms: of the engine's kernels with their launches, or with the assumed fusion.
        least_ms: that no fusion can beat: all operations at their peak, or the bytes that must move.
        memory_bound: share of `floor_ms` in kernels that wait for memory.
        operations: by precision; a multiply-add is two. Of an engine, by what its kernels compute in.
        moved_bytes: by the engine's kernels, or with the assumed fusion.
        least_bytes: weights, images and logits.
        source: a file's name, and what was assumed of it.
        kernels: of the engine that was counted; None where fusion is assumed.
    """

    precision: str
    batch: int
    floor_ms: float
    least_ms: float
    memory_bound: float
    operations: dict[str, int]
    moved_bytes: int
    least_bytes: int
    source: str
    kernels: int | None = None

    @property
    def images_per_second(self) -> float:
        """At most."""
        return 1000 * self.batch / self.floor_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**vars(self), "images_per_second": self.images_per_second}


def predict(cost: GraphCost, chip: Chip, batch: int, *, precision: str, source: str) -> Floor:
    """The floor of a counted graph.

    Args:
        cost: of the graph.
        chip: the GPU's published rates.
        batch: images a call.
        precision: to be named.
        source: to be named.
    """
    times = [_kernel_s(kernel, chip, batch) for kernel in cost.kernels]
    whole = sum(max(pair) for pair in times)
    waiting = sum(memory for compute, memory in times if memory >= compute)
    least = max(_compute_s(cost.operations(batch), chip), cost.least_bytes(batch) / _bandwidth(chip))
    operations = {str(kind): number for kind, number in cost.operations(batch).items()}
    return Floor(
        precision, batch, 1000 * whole, 1000 * least, waiting / whole if whole else 0.0, operations,
        cost.moved_bytes(batch), cost.least_bytes(batch), source,
    )  # fmt: skip


def of_engine(compiled: Compiled, cost: GraphCost, chip: Chip, batch: int, *, precision: str) -> Floor:
    """The floor of an engine's kernels, sizes and work scaled from the batch that they are known for.

    Args:
        compiled: the engine.
        cost: of its graph, for what no fusion can beat.
        chip: the GPU's published rates.
        batch: images a call.
        precision: of the graph, to be named.
    """
    census = compiled.census
    times, whole_ms, known = census.kernel_times_s(chip, batch), census.model_ms(chip, batch), census.multiply_adds
    assert times is not None
    assert whole_ms is not None
    assert known is not None
    assert census.activation_bytes is not None
    assert census.weight_bytes is not None
    assert census.batch is not None
    kernels = sum(map(max, times))
    waiting = sum(memory for compute, memory in times if memory >= compute)
    moved = census.weight_bytes + census.activation_bytes * batch // census.batch
    least = max(sum(compute for compute, _ in times), cost.least_bytes(batch) / _bandwidth(chip))
    operations = {kind: 2 * number * batch // census.batch for kind, number in known.items()}
    source = f"{compiled.path.name}, as compiled" + ("" if batch == census.batch else f" for {census.batch}")
    return Floor(
        precision, batch, whole_ms, 1000 * least, waiting / kernels if kernels else 0.0, operations, moved,
        cost.least_bytes(batch), source, census.launches,
    )  # fmt: skip


def target_with_figures(name: str) -> tuple[Target, Chip]:
    """A target by name, and its chip.

    Raises:
        UsageError: no such target, or a compute capability alone, which has no rates.
    """
    target = targets.find(name)
    if target.chip is None:
        products = ", ".join(targets.TARGETS)
        raise UsageError(f"{name} is no product: a roofline needs its rates.", f"Name one: {products}.")
    return target, target.chip


def _kernel_s(kernel: Kernel, chip: Chip, batch: int) -> tuple[float, float]:
    operations = {kind: 2 * batch * number for kind, number in kernel.multiply_adds.items()}
    moved = kernel.weight_bytes + batch * (kernel.read_bytes + kernel.written_bytes)
    return _compute_s(operations, chip), moved / _bandwidth(chip)


def _compute_s(operations: dict[CostPrecision, int], chip: Chip) -> float:
    rates = {"fp32": chip.tflops_fp32, "fp16": chip.tflops_fp16, "int8": chip.tops_int8}
    return sum(number / (1e12 * rates[kind]) for kind, number in operations.items())


def _bandwidth(chip: Chip) -> float:
    return 1e9 * chip.bandwidth_gb_s
