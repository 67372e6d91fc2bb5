"""Open the entries of a lineup for timing: load the file, start its runner, set its tolerance.

PyTorch runs a network eagerly, channels-last, in AMP or compiled; ONNX Runtime runs files on the CPU, or by its CUDA or
TensorRT provider; engines run in TensorRT. float32 is float32 everywhere: TF32, PyTorch's default for convolutions on
newer GPUs, is off. If a provider doesn't start, ONNX Runtime silently falls back to the CPU: here that is an error.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemf_export import engines
from hemf_export.bench.lineup import ENGINE_KINDS, TORCH_KINDS, Entry
from hemf_export.calibration.session import loadable, runtime
from hemf_export.export import onnx_export
from hemf_export.files import processors
from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError
from hemf_export.files.gpu_memory import is_out_of_memory
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.images.model_input import ModelInput
from hemf_export.models.model_file import CheckpointFile
from hemf_export.models.runners import OnnxRunner
from hemf_export.networks.model import HEMF
from hemf_export.precision.bounds import Bounds
from hemf_export.timing.measurement import Contender
from hemf_export.timing.workloads import HostWorkload, TensorWorkload, Workload

if TYPE_CHECKING:
    from hemf_export.engines.runner import EngineRunner

Provider = Literal["CUDAExecutionProvider", "TensorrtExecutionProvider"]
_FATAL = 4  # ONNX Runtime's log severity: other errors are in our own messages
Prepare = Callable[[NDArray[np.generic]], Workload]
# Tolerance of logits against float32, given the largest one. For INT8 it only tells the same model from another: its
# accuracy is in its manifest. bfloat16 has two to three digits.
TOLERANCES: dict[str, Callable[[float], float]] = {
    "fp32": lambda _: onnx_export.TOLERANCE,
    "fp16": Bounds().logit_bound,
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


def torch_function(model: HEMF, mode: TorchMode, device: str) -> Callable[[Tensor], Tensor]:
    """Return a function from images (N, 3, H, W) to logits on `device`, without gradients, which takes over the model.

    A compiled one compiles on its first run of each batch size. Callers run it in `train.float32.exact_float32`.
    """
    moved = model.eval().to(device)
    if mode.channels_last:
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


def _compiled(model: HEMF, kind: str) -> Callable[[Tensor], Tensor]:
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


class ProviderRunner:
    """Runner of an ONNX file in ONNX Runtime on a GPU, TF32 off, for batches on the host or on the GPU.

    Args:
        path: the file.
        provider: execution provider; nodes that it can't run fall back to CUDA and then to the CPU.
        fp16: let TensorRT use float16 where the graph is in float16; see `OrtWorkload` for batches on the GPU.
        output: kind of the file's output.

    Raises:
        MissingCapabilityError: the provider doesn't start here.
        BadInputError: ONNX Runtime doesn't take the file.
    """

    def __init__(self, path: Path, provider: Provider, *, fp16: bool = False, output: ModelOutput = LOGITS) -> None:
        onnxruntime = runtime()
        self.output = output
        self.name = f"{provider}, {path.name}"
        if provider not in onnxruntime.get_available_providers():
            raise MissingCapabilityError(
                f"This ONNX Runtime is built without {provider}.", "Install onnxruntime-gpu in place of onnxruntime."
            )
        printed = io.StringIO()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = processors.threads()  # for nodes on the CPU
        providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})]
        if provider == "TensorrtExecutionProvider":
            providers.insert(0, (provider, {"trt_fp16_enable": str(fp16)}))
        try:
            with contextlib.redirect_stdout(printed):  # it prints the reason for a fallback to stdout
                if hasattr(onnxruntime, "preload_dlls"):
                    onnxruntime.preload_dlls()  # CUDA libraries from PyTorch's packages
                self._session = onnxruntime.InferenceSession(loadable(path), options, providers=providers)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInputError(f"ONNX Runtime doesn't take {path}: {reason}", "Export it again.") from error
        if provider not in self._session.get_providers():
            raise MissingCapabilityError(
                f"ONNX Runtime's {provider} doesn't start here: its CUDA, cuDNN or TensorRT libraries are not found.",
                "Install those that this ONNX Runtime names: onnxruntime.ai/docs/execution-providers.",
            )
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Compute scores (n, classes) from network input, both on the host."""
        return self.output.scores(self._session.run([self._output], {self._input: batch})[0], len(batch))

    def bound(self, batch: NDArray[np.generic]) -> Any:
        """Bind a batch to an input and an output that stay on the GPU."""
        onnxruntime = runtime()
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, onnxruntime.OrtValue.ortvalue_from_numpy(batch, "cuda", 0))
        binding.bind_output(self._output, "cuda")
        return binding

    def run_bound(self, binding: Any) -> None:
        """Run a binding; return when its output is complete."""
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


class OrtWorkload:
    """Batch on the GPU for one `ProviderRunner`."""

    def __init__(self, runner: ProviderRunner, batch: NDArray[np.generic]) -> None:
        self._runner, self._binding, self._images = runner, runner.bound(batch), len(batch)

    def run(self) -> None:
        """Compute the logits; input and logits stay on the GPU."""
        self._runner.run_bound(self._binding)

    def logits(self) -> NDArray[np.float32]:
        """Copy the last run's logits to the host."""
        return self._runner.output.scores(self._binding.copy_outputs_to_cpu()[0], self._images)


def open_entry(entry: Entry, *, threads: int, kept: ModelInput | None = None) -> Contender:
    """Load a file and start its runner.

    Args:
        entry: entry of the lineup.
        threads: threads within an operator of a runner on the CPU; PyTorch's are set for the whole process.
        kept: form of the images that it will get; None for the file's own input.

    Raises:
        HemfError: the file can't be used; a MissingCapabilityError if this machine can't run it.
    """
    prepare = _torch(entry) if entry.kind in TORCH_KINDS else _file(entry, threads)
    kept_input = kept or entry.input

    def ready(pixels: NDArray[np.uint8]) -> Workload:
        return prepare(entry.input.of_pixels(pixels, kept_input))

    precision = entry.precision if entry.precision in ("fp32", "fp16", "int8") else None
    tolerance = _tolerance(entry.precision, entry.output)
    return Contender(entry.name, ready, tolerance, precision, entry.device == "cuda", entry.transfers)


def _tolerance(precision: str, output: ModelOutput) -> Callable[[float], float]:
    """Return the tolerance of scores as a function of the largest one; FP16 has another for probabilities."""
    if precision == "fp16":
        return lambda largest: Bounds().score_bound(output, largest)
    return TOLERANCES[precision]


def _torch(entry: Entry) -> Prepare:
    saved = CheckpointFile.open(entry.path, reading=entry.description.reading).load()
    saved.check_finite()
    mode = TORCH_MODES[entry.kind]
    compute = torch_function(saved.model(), mode, entry.device)
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
