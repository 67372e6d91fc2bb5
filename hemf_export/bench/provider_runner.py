"""An ONNX file in ONNX Runtime on a GPU, by its CUDA or TensorRT provider; batches on the host or on the GPU.

ONNX Runtime goes on with the CPU, silently, where a provider doesn't start: here that is a refusal.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration.session import loadable, runtime
from hemf import processors
from hemf.errors import BadInputError, MissingCapabilityError
from hemf.model_output import LOGITS, ModelOutput

Provider = Literal["CUDAExecutionProvider", "TensorrtExecutionProvider"]
_FATAL = 4  # its log's severity: what it says besides is in our own message


class ProviderRunner:
    """One session. float32 is float32: TF32 is off.

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
        said = io.StringIO()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = processors.threads()  # of what stays on the CPU
        providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})]
        if provider == "TensorrtExecutionProvider":
            providers.insert(0, (provider, {"trt_fp16_enable": str(fp16)}))
        try:
            with contextlib.redirect_stdout(said):  # it prints there why it falls back, between our results
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
        """The file's input on the host → scores on the host."""
        return self.output.scores(self._session.run([self._output], {self._input: batch})[0], len(batch))

    def bound(self, batch: NDArray[np.generic]) -> Any:
        """A binding whose input and output stay on the GPU."""
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
        """Input and logits on the GPU."""
        self._runner.run_bound(self._binding)

    def logits(self) -> NDArray[np.float32]:
        """Of the last run."""
        return self._runner.output.scores(self._binding.copy_outputs_to_cpu()[0], self._images)
