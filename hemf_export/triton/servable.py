"""Describe a file that Triton can serve, an ONNX file or an engine, from its manifest and its own bytes, and choose the
backend that runs it. Nothing is run here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx

from hemf_export.engines import preflight
from hemf_export.engines.machine import Machine
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, HemfError, UsageError
from hemf_export.models import graph_output, onnx_model
from hemf_export.models.description import Description
from hemf_export.models.model_file import EngineFile, ModelFile, OnnxFile
from hemf_export.triton.options import BackendName, Device, Options

Flavour = Literal["onnx", "tensorrt", "tensorrt-rtx"]
# Triton's type names by TensorRT's and ONNX's, and numpy's.
_TENSORRT_TYPES = {"FLOAT": "TYPE_FP32", "HALF": "TYPE_FP16", "UINT8": "TYPE_UINT8"}
_ONNX_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}
NUMPY_TYPES: dict[str, type[np.generic]] = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}
# Name of the model file in a version's folder, by flavour.
FILE_NAMES: dict[Flavour, str] = {"onnx": "model.onnx", "tensorrt": "model.plan", "tensorrt-rtx": "model.plan"}
# File that each backend opens there.
OPENED: dict[BackendName, str] = {"tensorrt": "model.plan", "onnxruntime": "model.onnx", "python": "model.py"}
_RUNS: dict[BackendName, tuple[Flavour, ...]] = {
    "tensorrt": ("tensorrt",),
    "onnxruntime": ("onnx",),
    "python": ("onnx", "tensorrt-rtx"),
}


@dataclass(frozen=True)
class Tensor:
    """Input or output of a model.

    Args:
        name: name in the graph.
        dims: shape without the batch.
        dtype: Triton's name of its type, such as TYPE_FP32.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.dims)}"


@dataclass(frozen=True)
class Servable:
    """Model file that Triton can serve.

    Args:
        file: an ONNX file or an engine.
        flavour: its format; for an engine, the TensorRT that it is for.
        manifest: manifest beside the file; for an ONNX file without one, its metadata.
        input: input for images.
        output: output of logits.
        profiles: batch sizes of an engine's optimization profiles; empty for an ONNX file.
    """

    file: OnnxFile | EngineFile
    flavour: Flavour
    manifest: dict[str, Any]
    input: Tensor
    output: Tensor
    profiles: tuple[BatchProfile, ...] = ()

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @property
    def description(self) -> Description:
        """Description of the model, from its file or manifest."""
        return self.file.description

    @property
    def sha256(self) -> str:
        """SHA-256 of the file as read."""
        return str(self.manifest["sha256"])

    @property
    def fixed_batch(self) -> int | None:
        """Only batch size that it takes; None for several."""
        if self.flavour == "onnx":
            return self.description.batch
        only = {size for one in self.profiles for size in (one.minimum, one.maximum)}
        return only.pop() if len(only) == 1 else None

    @property
    def largest_batch(self) -> int | None:
        """Largest batch size; None if unlimited."""
        if self.flavour == "onnx":
            return self.description.batch
        return max(profile.maximum for profile in self.profiles)

    def takes(self, count: int) -> bool:
        """Return whether it runs a batch of exactly `count`."""
        if self.flavour == "onnx":
            return self.fixed_batch in (None, count)
        return any(profile.minimum <= count <= profile.maximum for profile in self.profiles)

    @property
    def batches(self) -> str:
        """Batch sizes in words: `profile 1:8:32`, `batch 4`, `any batch`."""
        if self.profiles:
            return f"profile{'s' * (len(self.profiles) > 1)} {', '.join(map(str, self.profiles))}"
        return "any batch" if self.fixed_batch is None else f"batch {self.fixed_batch}"


def read(path: Path) -> Servable:
    """Read a model file's description, and compare its hash with its manifest.

    Raises:
        BadInputError: neither one of our ONNX files nor an engine with its manifest, or changed since.
    """
    file = ModelFile.open(path)
    if isinstance(file, OnnxFile):
        return _onnx(file)
    if isinstance(file, EngineFile):
        return _engine(file)
    raise BadInputError(
        f"{path} can't be served: it is {file.title}.", f"Export it first: `export_onnx({str(path)!r})`"
    )


def _onnx(file: OnnxFile) -> Servable:
    graph = file.read().graph
    manifest = file.manifest or {
        "manifest": artifacts.MANIFEST_FORMAT,
        "file": file.name,
        "size_bytes": file.path.stat().st_size,
        "sha256": file.sha256,
        "kind": "onnx",
        **file.description.to_dict(),
    }
    (images,), (logits,) = onnx_model.inputs(graph), graph.output
    return Servable(file, "onnx", manifest, _tensor(images), _tensor(logits))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    return Tensor(value.name, tuple(dim.dim_value for dim in tensor.shape.dim[1:]), _ONNX_TYPES[tensor.elem_type])


def _engine(file: EngineFile) -> Servable:
    path = file.path
    looked = preflight.look(path, Machine())
    # It will run on another machine: what this one lacks doesn't matter.
    wrong = (check.error for check in looked.checks if check.what in ("file", "manifest", "plan header"))
    for error in wrong:
        if error is not None:
            raise error
    assert looked.header is not None, "a plan without a header is refused"
    manifest = looked.manifest
    description = file.description
    hint = f"Build it again: {preflight.rebuild_call(manifest)}"
    try:
        tensors = {mode: [one for one in manifest["tensors"] if one["mode"] == mode] for mode in ("input", "output")}
        ((images,), (logits,)) = tensors["input"], tensors["output"]
        profiles = BuildOptions.from_dict(manifest["build"]).profiles
        stripped = bool(manifest["build"].get("stripped"))
        into, out = (
            Tensor(str(one["name"]), tuple(int(size) for size in one["shape"][1:]), _TENSORRT_TYPES[one["type"]])
            for one in (images, logits)
        )
    except (HemfError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"The manifest of {path} doesn't tell its input, output and batches: {type(error).__name__} {error}.", hint
        ) from error
    if stripped:
        raise BadInputError(f"{path} has no weights: Triton can't serve a stripped engine.", hint)
    model = Servable(file, looked.header.backend, manifest, into, out, profiles)
    width = description.output.width(len(description.classes))
    if not graph_output.is_row((None, *model.output.dims), width, None):
        raise BadInputError(
            f"The manifest of {path} has {len(description.classes)} classes and an output of {list(out.dims)}.",
            hint,
        )
    return model


def choose_backend(model: Servable, wanted: Literal["auto"] | BackendName) -> BackendName:
    """Choose the backend for a model file.

    Raises:
        BadInputError: the backend doesn't take such a file; the message says which does.
    """
    if wanted == "auto":
        if model.flavour == "tensorrt-rtx":
            raise BadInputError(
                f"{model.path} is an engine of TensorRT-RTX, which Triton's tensorrt backend doesn't take.",
                "Serve it with `backend='python'`, or build with TensorRT on the target: "
                "`build_engine(backend='tensorrt')`.",
            )
        return "tensorrt" if model.flavour == "tensorrt" else "onnxruntime"
    if refusal := backend_mismatch(model, wanted):
        raise BadInputError(refusal, f"Take `backend={' or '.join(backends_of(model.flavour))}`.")
    return wanted


def backend_mismatch(model: Servable, backend: str) -> str | None:
    """Return why a backend doesn't run a model file, in words; None if it does."""
    if backend not in get_args(BackendName):
        return f"the backend is {backend!r}, which is none of {', '.join(get_args(BackendName))}"
    if backend in backends_of(model.flavour):
        return None
    what = {"onnx": "an ONNX file", "tensorrt": "a TensorRT plan", "tensorrt-rtx": "an engine of TensorRT-RTX"}
    return f"{model.path} is {what[model.flavour]}, which the {backend} backend doesn't take."


def backends_of(flavour: Flavour) -> list[BackendName]:
    """Return the backends that run files of a flavour."""
    return [backend for backend, flavours in _RUNS.items() if flavour in flavours]


def device_of(model: Servable, options: Options) -> Device:
    """Return the device that the model runs on.

    Raises:
        UsageError: an engine on a CPU, or an INT8 file for a CPU on a GPU.
    """
    if model.flavour != "onnx":
        if options.device == "cpu":
            raise UsageError(f"{model.path} is an engine: it runs on a GPU only.", "Leave out `device`.")
        return "gpu"
    if options.device == "gpu" and model.description.precision == "int8-cpu":
        raise UsageError(
            f"{model.path} is quantized for ONNX Runtime on a CPU.", "Take the fp16 or fp32 file for a GPU."
        )
    return options.device or "cpu"
