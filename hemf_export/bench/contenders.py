"""An entry of the lineup → what can be timed: its file loaded, its runner started, its tolerance known."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import engines
from hemf import checkpoint
from hemf.model_input import ModelInput
from hemf.model_output import ModelOutput
from hemf_export import fp16, onnx_export
from hemf_export.bench import torch_modes
from hemf_export.bench.entry import ENGINE_KINDS, TORCH_KINDS, Entry
from hemf_export.bench.measurement import Contender
from hemf_export.bench.provider_runner import OrtWorkload, ProviderRunner
from hemf_export.bench.workloads import HostWorkload, TensorWorkload, Workload
from hemf_export.runners import OnnxRunner

if TYPE_CHECKING:
    from engines.runner import EngineRunner

Prepare = Callable[[NDArray[np.generic]], Workload]

# What logits may differ by from float32's, given the largest of those. Of INT8 this only tells a file of the same model
# from another: how good it is, its manifest says, and it was kept for that. bfloat16 has two to three digits.
TOLERANCES: dict[str, Callable[[float], float]] = {
    "fp32": lambda _: onnx_export.TOLERANCE,
    "fp16": fp16.Bounds().logit_bound,
    "bf16": lambda largest: max(0.1, 0.1 * largest),
    "int8": lambda largest: max(0.5, 0.5 * largest),
    "int8-cpu": lambda largest: max(0.5, 0.5 * largest),
}


def open_entry(entry: Entry, *, threads: int, kept: ModelInput | None = None) -> Contender:
    """Load a file and start its runner.

    Args:
        entry: which.
        threads: of a runner on the CPU, within an operator; PyTorch's own are set for the process.
        kept: what is kept of the images that it will be given; None for what the file itself takes.

    Raises:
        HemfError: the file can't be taken; a MissingCapabilityError where this machine can't run it.
    """
    prepare = _torch(entry) if entry.kind in TORCH_KINDS else _file(entry, threads)
    given = kept or entry.input

    def ready(pixels: NDArray[np.uint8]) -> Workload:
        return prepare(entry.input.of_pixels(pixels, given))

    precision = entry.precision if entry.precision in ("fp32", "fp16", "int8") else None
    tolerance = _tolerance(entry.precision, entry.output)
    return Contender(entry.name, ready, tolerance, precision, entry.device == "cuda", entry.transfers)


def _tolerance(precision: str, output: ModelOutput) -> Callable[[float], float]:
    """What scores may differ by, given the largest: of probabilities FP16 has a bound of its own."""
    if precision == "fp16":
        return lambda largest: fp16.Bounds().score_bound(output, largest)
    return TOLERANCES[precision]


def _torch(entry: Entry) -> Prepare:
    saved = checkpoint.load(entry.path, reading=entry.reading)
    saved.check_finite()
    mode = torch_modes.MODES[entry.kind]
    compute = torch_modes.function(saved.model(), mode, entry.device)
    return lambda batch: TensorWorkload(
        compute, batch, entry.device, transfers=entry.transfers is not False, channels_last=mode.channels_last
    )


def _file(entry: Entry, threads: int) -> Prepare:
    if entry.kind == "ort-cpu":
        on_cpu = OnnxRunner(entry.path, threads=threads, output=entry.output)
        return lambda batch: HostWorkload(on_cpu, batch)
    if entry.kind in ENGINE_KINDS:
        return _engine(engines.load(entry.path, cuda_graphs=entry.kind == "engine"), entry)
    provider = ProviderRunner(
        entry.path, "CUDAExecutionProvider" if entry.kind == "ort-cuda" else "TensorrtExecutionProvider",
        fp16=entry.precision != "fp32", output=entry.output,
    )  # fmt: skip
    if entry.transfers:
        return lambda batch: HostWorkload(provider, batch)
    return lambda batch: OrtWorkload(provider, batch)


def _engine(runner: EngineRunner, entry: Entry) -> Prepare:
    if entry.transfers:
        return lambda batch: HostWorkload(runner, batch)
    return lambda batch: TensorWorkload(runner.infer, batch, entry.device, transfers=False)
