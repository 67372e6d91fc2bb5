"""Layers of a built engine on its GPU: their precisions by TensorRT's engine inspector, their times by its profiler.

The graph says what was asked for; the layers are what the builder made of it, after fusion. With a profiler, layers run
one after the other, each synchronized: together they take longer than a call does.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hemf_export.engines import kernels
from hemf_export.engines.census import PEAKS, Census, Rates
from hemf_export.engines.contexts import Contexts
from hemf_export.engines.device import Device
from hemf_export.engines.execution import Execution
from hemf_export.engines.kernels import Kernel
from hemf_export.engines.runtime import Loaded
from hemf_export.engines.targets import Chip
from hemf_export.engines.tensors import Interface, interface
from hemf_export.files.errors import HemfError

if TYPE_CHECKING:
    from tensorrt_bindings import Bindings, IExecutionContext

RUNS = 50
_DEFAULT_STREAM = 0  # CUDA's handle of it
_Entry = TypeVar("_Entry", "Layer", Kernel)
_COMPUTED = ("fp32", "fp16", "bf16", "int8")
# The type that a tactic computes in, as its name says: `sm75_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc…`,
# `turing_h1688cudnn_256x64_ldg8…`, `trt_turing_fp32_icudnn_int8x4…`, `sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n…`.
_TACTICS = {
    "int8": re.compile(r"int8|i8i8|i8816|imma"),
    "bf16": re.compile(r"bf16"),
    "fp16": re.compile(r"f16f16|fp16|_h\d*884|_h\d*1688|hmma|_hgemm"),
    "fp32": re.compile(r"f32f32|tf32|fp32|_scudnn|_sgemm|_ffma"),
}
_LEAST_MATCHED = 3  # kernels: fewer have no order to speak of


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Args:
        name: of the nodes that were fused in it.
        kind: TensorRT's name for what it does.
        precision: type of its first output: fp32, fp16, bf16, int8; "unknown" where the inspector doesn't say.
    """

    name: str
    kind: str
    precision: str


@dataclass(frozen=True)
class Inspection:
    """Report of TensorRT's inspector on an engine.

    Args:
        layers: in order.
        kernels: with their tensors.
        note: why precisions may be unknown; None where the inspector had all that it needs.
    """

    layers: list[Layer]
    kernels: list[Kernel]
    note: str | None = None


def inspect(loaded: Loaded) -> Inspection:
    """List the layers of an engine, in order, and its kernels with their tensors, as the inspector reports them.

    If an engine has dynamic shapes, the inspector shows formats, and with them precisions, only for an execution
    context whose input shapes are set (NvInferRuntime.h, IEngineInspector::setExecutionContext). So each profile is
    inspected at its optimum. A context takes memory of the GPU: where TensorRT creates none, the engine alone is
    inspected.
    """
    texts: list[str] = []
    note: str | None = None
    try:
        shape = interface(loaded.engine, loaded.path)
        for index in range(len(shape.profiles)):
            texts.append(_report(loaded, _context_at(loaded, shape, index)))
    except HemfError as error:
        note = f"Precisions of layers may be unknown: {error.message}"
    if note is not None:
        texts.append(_report(loaded, None))
    return Inspection(_best([parse(text) for text in texts]), _best([kernels.parse_json(text) for text in texts]), note)


def _context_at(loaded: Loaded, shape: Interface, profile: int) -> IExecutionContext:
    """Create a context for the optimum of a profile."""
    context = Contexts(loaded).new()
    if context is None:
        raise HemfError(f"TensorRT gives no execution context: {loaded.reason()}.")
    batch = shape.profiles[profile].optimum
    ready = (profile == 0 or context.set_optimization_profile_async(profile, _DEFAULT_STREAM)) and (
        context.set_input_shape(shape.input.name, (batch, *shape.input.shape))
    )
    if not ready:
        raise HemfError(f"TensorRT refuses optimization profile {profile} at a batch of {batch}: {loaded.reason()}.")
    return context


def _report(loaded: Loaded, context: IExecutionContext | None) -> str:
    trt = loaded.backend.bindings
    inspector = loaded.engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _best(reports: list[list[_Entry]]) -> list[_Entry]:
    """Take each entry from the first report that knows its types; all reports list the same entries."""
    first, *others = reports
    if any(len(other) != len(first) for other in others):
        return first
    return [next((one for one in entries if _is_known(one)), entries[0]) for entries in zip(*reports, strict=True)]


def _is_known(entry: Layer | Kernel) -> bool:
    if isinstance(entry, Layer):
        return entry.precision != kernels.UNKNOWN
    return all(tensor.dtype != kernels.UNKNOWN for tensor in entry.outputs)


def parse(text: str) -> list[Layer]:
    """Parse the inspector's JSON; an engine that was built without detailed profiling verbosity has names alone."""
    try:
        entries = json.loads(text).get("Layers")
    except (ValueError, AttributeError):
        return []
    return [_layer(entry) for entry in entries] if isinstance(entries, list) else []


def table(layers: list[Layer]) -> dict[str, dict[str, int]]:
    """Count the layers of each kind by precision, the most frequent kind first."""
    counts = Counter(layer.kind for layer in layers)
    pairs = Counter((layer.kind, layer.precision) for layer in layers)
    return {
        kind: {precision: pairs[kind, precision] for precision in sorted({key[1] for key in pairs if key[0] == kind})}
        for kind, _ in counts.most_common()
    }


def _layer(entry: Any) -> Layer:
    if not isinstance(entry, Mapping):
        return Layer(str(entry), kernels.UNKNOWN, kernels.UNKNOWN)
    return Layer(str(entry.get("Name", "")), str(entry.get("LayerType", kernels.UNKNOWN)), _precision(entry))


def _precision(entry: Mapping[str, Any]) -> str:
    """Return the type of the first output, or where that is hidden what the weights' type or the tactic's name says."""
    outputs = entry.get("Outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], Mapping) else {}
    # TensorRT 10 has the type in the format, 11 beside it.
    found = kernels.dtype_of(" ".join(str(first.get(key, "")) for key in ("Datatype", "Format/Datatype", "Format")))
    if found != kernels.UNKNOWN:
        return found
    weights = entry.get("Weights")
    if isinstance(weights, Mapping) and (of_weights := kernels.dtype_of(str(weights.get("Type", "")))) in _COMPUTED:
        return of_weights
    tactic = str(entry.get("TacticName", ""))
    return next((precision for precision, words in _TACTICS.items() if words.search(tactic)), kernels.UNKNOWN)


@dataclass(frozen=True)
class TimedKernel:
    """A kernel's measured time beside the model's.

    Args:
        kernel: its name.
        measured_ms: the median.
        modelled_ms: with its launch.
    """

    kernel: str
    measured_ms: float
    modelled_ms: float


@dataclass(frozen=True)
class Agreement:
    """Measured times beside the model's.

    Args:
        matched: number of kernels that both have.
        unmatched: number of measured layers that the census doesn't name.
        measured_ms: sum over the matched kernels.
        modelled_ms: likewise.
        correlation: Spearman's rank correlation; None where too few are matched.
        kernels: the matched kernels, the largest difference first.
    """

    matched: int
    unmatched: int
    measured_ms: float
    modelled_ms: float
    correlation: float | None
    kernels: tuple[TimedKernel, ...]


def measure_times(loaded: Loaded, device: Device, batch: int, *, runs: int = RUNS) -> dict[str, float]:
    """Measure the milliseconds of each layer: name → median over runs, in the order of execution.

    Args:
        loaded: an engine that may run here.
        device: its GPU.
        batch: images per call; has to fit a profile.
        runs: how many to measure, after a warm-up run.

    Raises:
        BadInputError: a batch that fits no profile.
        HemfError: TensorRT can't run it, or reports no times.
    """
    profiler = _profiler(loaded.backend.bindings)
    shape = interface(loaded.engine, loaded.path)

    contexts = Contexts(loaded)

    def new_context() -> IExecutionContext | None:
        context = contexts.new()
        if context is not None:
            context.profiler = profiler
        return context

    shape.parts(batch)
    execution = Execution(new_context, shape, device, cuda_graphs=False, reason=loaded.reason)
    images = torch.zeros((batch, *shape.input.shape), dtype=shape.input.dtype)
    execution.run(images)
    profiler.times.clear()
    for _ in range(runs):
        execution.run(images)
    if not profiler.times:
        raise HemfError(f"{loaded.backend.name} {loaded.backend.version} reports no times of layers.")
    # A name that a run reports several times, as of a layer in parts, counts with the sum.
    return {name: statistics.median(times) * len(times) / runs for name, times in profiler.times.items()}


def compare_times(
    times: Mapping[str, float], census: Census, chip: Chip, batch: int, *, rates: Rates = PEAKS
) -> Agreement:
    """Compare measured times with the model's, kernel by kernel.

    Args:
        times: from `measure_times`.
        census: of the engine, with sizes; where those are a twin's, few names may match.
        chip: the GPU's published rates.
        batch: images per call of the measurement.
        rates: what share of the published rates the model assumes.
    """
    modelled = _modelled(census, chip, batch, rates)
    pairs = [TimedKernel(name, measured, modelled[name]) for name, measured in times.items() if name in modelled]
    return Agreement(
        len(pairs), len(times) - len(pairs), sum(one.measured_ms for one in pairs),
        sum(one.modelled_ms for one in pairs), _correlation(pairs),
        tuple(sorted(pairs, key=lambda one: -abs(one.measured_ms - one.modelled_ms))),
    )  # fmt: skip


def _modelled(census: Census, chip: Chip, batch: int, rates: Rates) -> dict[str, float]:
    seconds = census.kernel_times_s(chip, batch) or []
    totals: defaultdict[str, float] = defaultdict(float)
    for kernel, both in zip(census.sized, seconds, strict=False):
        totals[kernel.name] += 1000 * (rates.kernel_s(*both) + rates.launch_s)
    return dict(totals)


def _correlation(pairs: Sequence[TimedKernel]) -> float | None:
    if len(pairs) < _LEAST_MATCHED:
        return None
    from scipy.stats import spearmanr

    value = float(spearmanr([one.measured_ms for one in pairs], [one.modelled_ms for one in pairs]).statistic)
    return None if value != value else value  # where all are alike


def _profiler(trt: Bindings) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: defaultdict[str, list[float]] = defaultdict(list)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name].append(float(ms))

    return Profiler()
