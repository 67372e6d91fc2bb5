"""Run ONNX files in ONNX Runtime's providers for NVIDIA GPUs, CUDA and TensorRT.

If a provider doesn't start, or fails in a run, ONNX Runtime prints so and goes on with CUDA or the CPU. Here that is an
error: the times would go by the wrong name.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hemf_export.calibration.session import loadable, runtime
from hemf_export.engines import backends, targets
from hemf_export.files import processors
from hemf_export.files.errors import HemfError, MissingCapabilityError
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.timing import failures

Provider = Literal["CUDAExecutionProvider", "TensorrtExecutionProvider"]
_FATAL = 4  # ONNX Runtime's log severity: other errors are in our own messages
_LIBRARIES: dict[Provider, str] = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}


class ProviderRunner:
    """Runner of an ONNX file in ONNX Runtime on a GPU, TF32 off, for batches on the host or on the GPU.

    Args:
        path: the file.
        provider: execution provider; nodes that it doesn't take run in CUDA's, or else on the CPU.
        precision: precision of the file. TensorRT's provider needs to be told of float16 and int8: a graph with
            QuantizeLinear is refused otherwise ("int8 is not configured in the builder").
        output: kind of the file's output; see `OrtWorkload` for batches on the GPU.

    Raises:
        MissingCapabilityError: the provider doesn't start here, or computes float32 in TF32.
        HemfError: it doesn't take the file.
    """

    def __init__(
        self, path: Path, provider: Provider, *, precision: str = "fp32", output: ModelOutput = LOGITS
    ) -> None:
        onnxruntime = runtime()
        self.output = output
        self.name = f"{provider}, {path.name}"
        self._provider: Provider = provider
        if provider not in onnxruntime.get_available_providers():
            raise MissingCapabilityError(
                f"This ONNX Runtime is built without {provider}.", "Install onnxruntime-gpu in place of onnxruntime."
            )
        if provider == "TensorrtExecutionProvider" and precision == "fp32":
            _require_no_tf32()
        _load_libraries(provider)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = processors.threads()  # for nodes on the CPU
        try:
            with failures.guarded(on_gpu=True):
                self._session = onnxruntime.InferenceSession(
                    loadable(path), options, providers=_providers(provider, precision), enable_fallback=0
                )
        except HemfError as error:
            missing = _missing_library(provider)
            if missing is None:
                raise
            raise _not_started(provider, missing) from error
        self._session.disable_fallback()  # in runs
        self._require_provider()
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def infer(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """Compute scores (n, classes) from network input, both on the host."""
        scores = self._session.run([self._output], {self._input: batch})[0]
        self._require_provider()
        return self.output.scores(scores, len(batch))

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
        self._require_provider()

    def _require_provider(self) -> None:
        if self._session.get_providers()[0] != self._provider:
            raise _not_started(self._provider, _missing_library(self._provider))


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


def _providers(provider: Provider, precision: str) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session, in order, with their options."""
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    if provider == "CUDAExecutionProvider":
        return [cuda]
    reduced = {"trt_fp16_enable": str(precision != "fp32"), "trt_int8_enable": str(precision == "int8")}
    return [("TensorrtExecutionProvider", reduced), cuda]


def _require_no_tf32() -> None:
    """Refuse float32 in TensorRT's provider on a GPU with TF32, which it then uses.

    TensorRT's flag for TF32 is on by default, and the provider has no option that clears it, up to ONNX Runtime 1.31
    (microsoft/onnxruntime#26029). NVIDIA's libraries obey the environment variable, which they read once.
    """
    if targets.abilities(torch.cuda.get_device_capability()).tf32 and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        raise MissingCapabilityError(
            "ONNX Runtime's TensorRT provider computes float32 in TF32 on this GPU, and has no option against it; "
            "NVIDIA_TF32_OVERRIDE=0, set before the program starts, turns TF32 off.",
        )


def _load_libraries(provider: Provider) -> None:
    """Load the libraries that pip has installed, where the provider's loader wouldn't look for them."""
    onnxruntime = runtime()
    with failures.guarded(on_gpu=True):
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's, from PyTorch's packages
        if provider == "TensorrtExecutionProvider":
            with suppress(ImportError, OSError):
                importlib.import_module("tensorrt")  # which loads libnvinfer


def _missing_library(provider: Provider) -> str | None:
    """Return the library that a provider needs and the loader doesn't find, by loading it once more; None if unknown.

    ONNX Runtime itself only logs it, and says "Please install TensorRT libraries" or nothing.
    """
    folder = Path(runtime().__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / _LIBRARIES[provider]))
    except OSError as error:
        found = re.match(r"(lib\S+): cannot open shared object file", str(error))
        return found[1] if found else None
    return None


def _not_started(provider: Provider, missing: str | None) -> MissingCapabilityError:
    """Say what a provider lacks, and how to get it."""
    told = f"ONNX Runtime's {provider} doesn't start here"
    if missing is None:
        return MissingCapabilityError(f"{told}.", "Its requirements: onnxruntime.ai/docs/execution-providers.")
    found = re.match(r"libnv(?:infer|onnxparser)\w*\.so\.(\d+)", missing)
    if found:
        major, installed = found[1], backends.installed_version("tensorrt")
        here = "no tensorrt" if installed is None else f"tensorrt {installed}"
        return MissingCapabilityError(
            f"{told}: it is made for TensorRT {major} ({missing} is not found), and {here} is installed.",
            f"pip install 'tensorrt=={major}.*', which replaces another one.",
        )
    return MissingCapabilityError(
        f"{told}: {missing} is not found.",
        "This ONNX Runtime is made for the CUDA of that number: install a build of torch for it, or "
        "'onnxruntime-gpu[cuda,cudnn]'.",
    )
