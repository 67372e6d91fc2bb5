"""Run an ONNX file or a TensorRT-RTX engine in Triton's Python backend; copied unchanged by hemf-export.

The server needs numpy, and onnxruntime or tensorrt_rtx. Beside this file are the model, its manifest, whose SHA-256 is
checked before the model is used, and hemf_runner.py, which runs it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from hemf_runner import Runner
from numpy.typing import NDArray

_TAKEN = ctypes.c_char_p(b"used_dltensor")  # kept alive here, as the capsule doesn't copy it
_TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


class Handed:
    """Array passed to Triton by DLPack: a backend built for NumPy 1 would read NumPy 2's arrays as empty."""

    def __init__(self, values: NDArray[np.floating[Any]]) -> None:
        self._values = values

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()

    def __dlpack__(self, **_: Any) -> Any:
        self._capsule = self._values.__dlpack__()
        return self._capsule

    def mark_used(self) -> None:
        """Rename the capsule as NumPy expects: with Triton's name for it, NumPy would log an error per response."""
        ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(self._capsule), _TAKEN)


def _tensor(name: str, values: NDArray[np.floating[Any]]) -> Any:
    handed = Handed(np.ascontiguousarray(values))
    tensor = triton.Tensor.from_dlpack(name, handed)
    handed.mark_used()
    return tensor


class TritonPythonModel:
    """Instance of the model, whose methods Triton calls from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model, or raise an error for Triton with the reason."""
        config = json.loads(args["model_config"])
        folder = Path(__file__).resolve().parent
        path = next(path for name in ("model.onnx", "model.plan") if (path := folder / name).is_file())
        data = path.read_bytes()
        manifest = json.loads(path.with_name(path.name + ".json").read_bytes())
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise triton.TritonModelException(f"{path} is not the file that its manifest describes")
        settings = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        try:
            self._runner = Runner(data, manifest, settings, gpu)
        except Exception as error:
            raise triton.TritonModelException(f"{path} can't be run: {error}") from error
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._type = _TYPES[config["output"][0]["data_type"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests of a batch together, and return the logits of each."""
        try:
            # By DLPack, as below: as_numpy of a backend built for NumPy 1 silently misreads NumPy 2's arrays.
            given = [np.from_dlpack(triton.get_input_tensor_by_name(request, self._input)) for request in requests]
            logits = self._logits(np.concatenate(given)).astype(self._type, copy=False)
        except Exception as error:  # noqa: BLE001 - one batch fails, and the server continues
            return [triton.InferenceResponse([], triton.TritonError(str(error))) for _ in requests]
        ends = np.cumsum([len(one) for one in given])[:-1]
        return [triton.InferenceResponse([_tensor(self._output, part)]) for part in np.split(logits, ends)]

    def finalize(self) -> None:
        """Unload the model."""
        self._runner.close()

    def _logits(self, batch: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        """Compute the logits of any batch, split if it is too large for the model and padded if too small."""
        sizes = self._runner.sizes
        if not sizes:
            return self._runner.run(batch)
        largest = max(high for _, high in sizes)
        parts: list[NDArray[np.floating[Any]]] = []
        start = 0
        while start < len(batch):
            part = batch[start : start + largest]
            count = min(max(len(part), low) for low, high in sizes if len(part) <= high)
            filled = np.concatenate([part, np.repeat(part[-1:], count - len(part), axis=0)])
            parts.append(self._runner.run(filled)[: len(part)])
            start += len(part)
        return np.concatenate(parts)
