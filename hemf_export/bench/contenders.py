"""Open the entries of a lineup for timing: load the file, start its runner, set its tolerance.

PyTorch runs a network eagerly, channels-last, in AMP or compiled; ONNX Runtime runs files on the CPU, or by its CUDA or
TensorRT provider; engines run in TensorRT. float32 is float32 everywhere: TF32, PyTorch's default for convolutions on
newer GPUs, is off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hemf_export import engines
from hemf_export.bench.lineup import ENGINE_KINDS, TORCH_KINDS, Entry
from hemf_export.bench.provider_runner import OrtWorkload, ProviderRunner
from hemf_export.files.errors import HemfError, MissingCapabilityError
from hemf_export.files.gpu_memory import is_out_of_memory
from hemf_export.files.model_output import ModelOutput
from hemf_export.images.model_input import ModelInput
from hemf_export.models.model_file import CheckpointFile
from hemf_export.models.runners import OnnxRunner
from hemf_export.networks.network import memory_format
from hemf_export.precision.bounds import Bounds, float32_bound
from hemf_export.timing import failures
from hemf_export.timing.measurement import Contender
from hemf_export.timing.workloads import HostWorkload, TensorWorkload, Workload

if TYPE_CHECKING:
    from hemf_export.engines.runner import EngineRunner

Prepare = Callable[[NDArray[np.generic]], Workload]
# Tolerance of logits against float32, given the largest one. For INT8 it only tells the same model from another: its
# accuracy is in its manifest. bfloat16 has two to three digits.
TOLERANCES: dict[str, Callable[[float], float]] = {
    "bf16": lambda largest: max(0.1, 0.1 * largest),
    "int8": lambda largest: max(0.5, 0.5 * largest),
    "int8-cpu": lambda largest: max(0.5, 0.5 * largest),
}


@dataclass(frozen=True)
class TorchMode:
    """Mode in which PyTorch runs a network.

    Args:
        channels_last: memory format of images and of convolutions' weights.
        amp: autocast, to float16 on a GPU and to bfloat16 on a CPU.
        compiled: mode of torch.compile (inductor): `default`, or `reduce-overhead`, which launches CUDA graphs.
    """

    channels_last: bool = False
    amp: bool = False
    compiled: str | None = None


TORCH_MODES = {
    "eager": TorchMode(),
    "channels-last": TorchMode(channels_last=True),
    "amp": TorchMode(channels_last=True, amp=True),
    "compile": TorchMode(compiled="default"),
    "compile-amp": TorchMode(channels_last=True, amp=True, compiled="default"),
    "compile-graph": TorchMode(channels_last=True, amp=True, compiled="reduce-overhead"),
}


def torch_function(model: nn.Module, mode: TorchMode, device: str) -> Callable[[Tensor], Tensor]:
    """Return a function from images (N, 3, H, W) to logits on `device`, without gradients, which takes over the model.

    A compiled one compiles on its first run of each batch size. Callers run it in `train.float32.exact_float32`.
    """
    moved = model.eval().to(device)
    if mode.channels_last:
        if memory_format(model) != torch.channels_last:
            raise HemfError("this network doesn't run in channels-last memory: it views feature maps as vectors")
        moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    call: Callable[[Tensor], Tensor] = _compiled(moved, mode.compiled) if mode.compiled else moved

    def compute(images: Tensor) -> Tensor:
        with torch.inference_mode(), _autocast(mode, device):
            return call(images)

    return compute


def _autocast(mode: TorchMode, device: str) -> AbstractContextManager[object]:
    if not mode.amp:
        return nullcontext()
    return torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16)


def _compiled(model: nn.Module, kind: str) -> Callable[[Tensor], Tensor]:
    from torch._dynamo.exc import TorchDynamoException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about PyTorch's own imports
        compiled = torch.compile(model, mode=kind, dynamic=False)

    def call(images: Tensor) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logits: Tensor = compiled(images)
                return logits
        except RuntimeError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            missing = next((line for line in lines if "compiler" in line.lower()), "")
            # Triton compiles C to launch its kernels, as late as their first launch (triton/runtime/build.py).
            if "Failed to find C compiler" in missing:
                raise MissingCapabilityError(
                    f"torch.compile finds no C compiler: {missing}", "Install gcc, or name another: CC=…."
                ) from error
            if not isinstance(error, TorchDynamoException) or is_out_of_memory(error):
                raise
            if missing:
                raise MissingCapabilityError(
                    f"torch.compile finds no C++ compiler: {missing}", "Install g++, or name another: CXX=…."
                ) from error
            raise HemfError(f"torch.compile fails: {lines[0]}") from error

    return call


class _Opened:
    """An entry's runner, until it is closed.

    Args:
        prepare: a batch of network input → a workload.
        release: frees what isn't freed with `prepare`.
    """

    def __init__(self, prepare: Prepare, release: Callable[[], None] = lambda: None) -> None:
        self._prepare: Prepare | None = prepare
        self._release = release

    def prepare(self, batch: NDArray[np.generic]) -> Workload:
        """Make a workload of a batch."""
        assert self._prepare is not None, "it is open"
        return self._prepare(batch)

    def close(self) -> None:
        """Drop the model, and with it its memory."""
        if self._prepare is not None:
            self._prepare = None
            self._release()
            self._release = lambda: None


def open_entry(entry: Entry, *, threads: int, kept: ModelInput | None = None) -> Contender:
    """Load a file and start its runner.

    Args:
        entry: entry of the lineup.
        threads: threads within an operator of a runner on the CPU; PyTorch's are set for the whole process.
        kept: form of the images that it will get; None for the file's own input.

    Raises:
        HemfError: the file can't be used, or its runner fails; a MissingCapabilityError if this machine can't run it.
    """
    on_gpu = entry.device == "cuda"
    with failures.guarded(on_gpu=on_gpu):
        opened = _torch(entry) if entry.kind in TORCH_KINDS else _file(entry, threads)
    kept_input = kept or entry.input

    def ready(pixels: NDArray[np.uint8]) -> Workload:
        return opened.prepare(entry.input.of_pixels(pixels, kept_input))

    precision = entry.precision if entry.precision in ("fp32", "fp16", "int8") else None
    tolerance = _tolerance(entry.precision, entry.output)
    return Contender(entry.name, ready, tolerance, precision, on_gpu, entry.transfers, opened.close)


def _tolerance(precision: str, output: ModelOutput) -> Callable[[float], float]:
    """Return the tolerance of scores as a function of the largest one; FP16 has another for probabilities."""
    if precision == "fp16":
        return lambda largest: Bounds().score_bound(output, largest)
    if precision == "fp32":
        gpu = torch.cuda.is_available()  # on which the first runner computes, even where this one doesn't
        return lambda largest: float32_bound(largest, on_gpu=gpu)
    return TOLERANCES[precision]


def _torch(entry: Entry) -> _Opened:
    saved = CheckpointFile.open(entry.path, reading=entry.description.reading).load()
    saved.check_finite()
    mode = TORCH_MODES[entry.kind]
    compute = torch_function(saved.model(), mode, entry.device)
    return _Opened(
        lambda batch: TensorWorkload(
            compute, batch, entry.device, transfers=entry.transfers is not False, channels_last=mode.channels_last,
            overwritten=mode.compiled == "reduce-overhead",
        ),
        torch.compiler.reset if mode.compiled else lambda: None,
    )  # fmt: skip


def _file(entry: Entry, threads: int) -> _Opened:
    if entry.kind == "ort-cpu":
        on_cpu = OnnxRunner(entry.path, threads=threads, output=entry.output)
        return _Opened(lambda batch: HostWorkload(on_cpu, batch))
    if entry.kind in ENGINE_KINDS:
        return _engine(engines.load(entry.path, cuda_graphs=entry.kind == "engine"), entry)
    provider = ProviderRunner(
        entry.path, "CUDAExecutionProvider" if entry.kind == "ort-cuda" else "TensorrtExecutionProvider",
        precision=entry.precision, output=entry.output,
    )  # fmt: skip
    if entry.transfers:
        return _Opened(lambda batch: HostWorkload(provider, batch))
    return _Opened(lambda batch: OrtWorkload(provider, batch))


def _engine(runner: EngineRunner, entry: Entry) -> _Opened:
    if entry.transfers:
        return _Opened(lambda batch: HostWorkload(runner, batch), runner.close)
    return _Opened(lambda batch: TensorWorkload(runner.infer, batch, entry.device, transfers=False), runner.close)


@contextmanager
def all_sizes_compiled(entries: Sequence[Entry]) -> Iterator[None]:
    """Let torch.compile compile each mode for each batch size.

    TorchDynamo keeps 8 versions of a function by default (`torch._dynamo.config.recompile_limit`), here of the
    network's `forward` in all modes together: three modes at three batch sizes are 9. Beyond that it runs eagerly, and
    only logs so.
    """
    if not any(TORCH_MODES[entry.kind].compiled for entry in entries if entry.kind in TORCH_KINDS):
        yield
        return
    from torch._dynamo import config

    limit = config.accumulated_recompile_limit
    with config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
        yield
