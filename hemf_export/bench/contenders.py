"""Entries of the lineup as what can be timed: the file loaded, its runner started, its tolerance known.

PyTorch runs a network as it is, channels-last, in AMP or compiled; ONNX Runtime on the CPU, or by its CUDA or TensorRT
provider; engines run themselves. float32 is float32 everywhere: TF32, which PyTorch takes for convolutions on newer
GPUs, is off. ONNX Runtime goes on with the CPU, silently, where a provider doesn't start: here that is a refusal.
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
_FATAL = 4  # ONNX Runtime's log severity: what it says besides is in our own message
Prepare = Callable[[NDArray[np.generic]], Workload]
# What logits may differ by from float32's, given the largest of those. Of INT8 this only tells a file of the same model
# from another: how good it is, its manifest says, and it was kept for that. bfloat16 has two to three digits.
TOLERANCES: dict[str, Callable[[float], float]] = {
    "fp32": lambda _: onnx_export.TOLERANCE,
    "fp16": Bounds().logit_bound,
    "bf16": lambda largest: max(0.1, 0.1 * largest),
    "int8": lambda largest: max(0.5, 0.5 * largest),
    "int8-cpu": lambda largest: max(0.5, 0.5 * largest),
}


@dataclass(frozen=True)
class TorchMode:
    """How PyTorch runs a network.

    Args:
        channels_last: memory of images and of convolutions' weights.
        amp: products in float16 on a GPU, in bfloat16 on a CPU.
        compiled: by torch.compile (inductor): `default`, or `reduce-overhead`, which launches CUDA graphs.
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
    """Images (N, 3, H, W) on `device` → logits there, without gradients. The model is moved, and is the function's own.

    A compiled one compiles at its first run of each batch size.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
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
        warnings.simplefilter("ignore")  # about parts of PyTorch that it imports itself
        compiled = torch.compile(model, mode=kind, dynamic=False)

    def call(images: Tensor) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logits: Tensor = compiled(images)
                return logits
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            if "compiler" in reason.lower():
                raise MissingCapabilityError(
                    f"torch.compile finds no C++ compiler: {reason}", "Install g++, or name another: CXX=…."
                ) from error
            raise HemfError(f"torch.compile fails: {reason}") from error

    return call


class ProviderRunner:
    """An ONNX file in ONNX Runtime on a GPU, TF32 off; batches lie on the host or on the GPU.

    Args:
        path: the file.
        provider: that computes it; what it can't compute goes to CUDA and then to the CPU, as everywhere.
        fp16: let TensorRT take float16 where the graph is in float16; see `OrtWorkload` for batches on the GPU.
        output: what the file's numbers are.

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
        options.intra_op_num_threads = processors.threads()  # of what stays on the CPU
        providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})]
        if provider == "TensorrtExecutionProvider":
            providers.insert(0, (provider, {"trt_fp16_enable": str(fp16)}))
        try:
            with contextlib.redirect_stdout(printed):  # it prints there why it falls back, between our results
                if hasattr(onnxruntime, "preload_dlls"):
                    onnxruntime.preload_dlls()  # CUDA's libraries as PyTorch's packages bring them
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
        """Compute scores on the host from the file's input on the host."""
        return self.output.scores(self._session.run([self._output], {self._input: batch})[0], len(batch))

    def bound(self, batch: NDArray[np.generic]) -> Any:
        """Bind a batch to an input and an output that stay on the GPU."""
        onnxruntime = runtime()
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, onnxruntime.OrtValue.ortvalue_from_numpy(batch, "cuda", 0))
        binding.bind_output(self._output, "cuda")
        return binding

    def run_bound(self, binding: Any) -> None:
        """Compute a binding; returns when its output is there."""
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


class OrtWorkload:
    """A batch that lies on the GPU, of one `ProviderRunner`."""

    def __init__(self, runner: ProviderRunner, batch: NDArray[np.generic]) -> None:
        self._runner, self._binding, self._images = runner, runner.bound(batch), len(batch)

    def run(self) -> None:
        """Compute the logits; they and the input stay on the GPU."""
        self._runner.run_bound(self._binding)

    def logits(self) -> NDArray[np.float32]:
        """Copy the last run's logits to the host."""
        return self._runner.output.scores(self._binding.copy_outputs_to_cpu()[0], self._images)


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
    kept_input = kept or entry.input

    def ready(pixels: NDArray[np.uint8]) -> Workload:
        return prepare(entry.input.of_pixels(pixels, kept_input))

    precision = entry.precision if entry.precision in ("fp32", "fp16", "int8") else None
    tolerance = _tolerance(entry.precision, entry.output)
    return Contender(entry.name, ready, tolerance, precision, entry.device == "cuda", entry.transfers)


def _tolerance(precision: str, output: ModelOutput) -> Callable[[float], float]:
    """What scores may differ by, given the largest; FP16 has a bound of its own for probabilities."""
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
