"""Triton's backends: which of them runs a model file, what the file is called for it, and where it runs."""

from __future__ import annotations

from typing import Literal, get_args

from hemf.errors import BadInputError, UsageError
from hemf_export.triton.model_file import Flavour, ModelFile
from hemf_export.triton.options import BackendName, Device, Options

# The file that a version's folder has for each flavour.
FILE_NAMES: dict[Flavour, str] = {"onnx": "model.onnx", "tensorrt": "model.plan", "tensorrt-rtx": "model.plan"}
# And what Triton opens in it.
OPENED: dict[BackendName, str] = {"tensorrt": "model.plan", "onnxruntime": "model.onnx", "python": "model.py"}
_RUNS: dict[BackendName, tuple[Flavour, ...]] = {
    "tensorrt": ("tensorrt",),
    "onnxruntime": ("onnx",),
    "python": ("onnx", "tensorrt-rtx"),
}


def choose(model: ModelFile, wanted: Literal["auto"] | BackendName) -> BackendName:
    """The backend for a model file.

    Raises:
        BadInputError: the backend doesn't take such a file; the message says which does.
    """
    if wanted == "auto":
        if model.flavour == "tensorrt-rtx":
            raise BadInputError(
                f"{model.path} is an engine of TensorRT-RTX, which Triton's tensorrt backend doesn't take.",
                "Serve it with --backend python, or build with TensorRT on the target: hemf-export trt --backend "
                "tensorrt.",
            )
        return "tensorrt" if model.flavour == "tensorrt" else "onnxruntime"
    if refusal := mismatch(model, wanted):
        raise BadInputError(refusal, f"Take --backend {' or '.join(backends_of(model.flavour))}.")
    return wanted


def mismatch(model: ModelFile, backend: str) -> str | None:
    """Why a backend doesn't run a model file, in words; None where it does."""
    if backend not in get_args(BackendName):
        return f"the backend is {backend!r}, which is none of {', '.join(get_args(BackendName))}"
    if backend in backends_of(model.flavour):
        return None
    what = {"onnx": "an ONNX file", "tensorrt": "a TensorRT plan", "tensorrt-rtx": "an engine of TensorRT-RTX"}
    return f"{model.path} is {what[model.flavour]}, which the {backend} backend doesn't take."


def backends_of(flavour: Flavour) -> list[BackendName]:
    """The backends that run files of a flavour."""
    return [backend for backend, taken in _RUNS.items() if flavour in taken]


def device(model: ModelFile, options: Options) -> Device:
    """Where the model runs.

    Raises:
        UsageError: an engine on a CPU, or an INT8 file for a CPU on a GPU.
    """
    if model.flavour != "onnx":
        if options.device == "cpu":
            raise UsageError(f"{model.path} is an engine: it runs on a GPU only.", "Leave out --device.")
        return "gpu"
    if options.device == "gpu" and model.description.precision == "int8-cpu":
        raise UsageError(
            f"{model.path} is quantized for ONNX Runtime on a CPU.", "Take the fp16 or fp32 file for a GPU."
        )
    return options.device or "cpu"
