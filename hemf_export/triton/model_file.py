"""A file that Triton may serve, an ONNX file or an engine, as its manifest and its own bytes describe it. Not run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from engines import preflight
from engines.batches import BatchProfile
from engines.machine import Machine
from engines.options import BuildOptions
from hemf import artifacts
from hemf.errors import BadInputError, HemfError
from hemf_export import graph_output, model_kind, onnx_file
from hemf_export.description import Description

Flavour = Literal["onnx", "tensorrt", "tensorrt-rtx"]
# Triton's names of types, by TensorRT's and ONNX's, and what numpy calls them.
_TENSORRT_TYPES = {"FLOAT": "TYPE_FP32", "HALF": "TYPE_FP16", "UINT8": "TYPE_UINT8"}
_ONNX_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}
NUMPY_TYPES: dict[str, type[np.generic]] = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Args:
        name: in the graph.
        dims: without the batch.
        dtype: as Triton calls it, TYPE_FP32.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.dims)}"


@dataclass(frozen=True)
class ModelFile:
    """A model that can be served.

    Args:
        path: of the file.
        flavour: what it is.
        manifest: beside it; of an ONNX file without one, what its metadata say.
        description: of the model.
        input: of images.
        output: of logits.
        profiles: batch sizes that an engine takes; an ONNX file takes its fixed batch alone, or any.
    """

    path: Path
    flavour: Flavour
    manifest: dict[str, Any]
    description: Description
    input: Tensor
    output: Tensor
    profiles: tuple[BatchProfile, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the file, as it was read."""
        return str(self.manifest["sha256"])

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it takes; None for several."""
        if self.flavour == "onnx":
            return self.description.batch
        only = {size for one in self.profiles for size in (one.minimum, one.maximum)}
        return only.pop() if len(only) == 1 else None

    @property
    def largest_batch(self) -> int | None:
        """The most images at once; None where there is no bound."""
        if self.flavour == "onnx":
            return self.description.batch
        return max(profile.maximum for profile in self.profiles)

    def takes(self, count: int) -> bool:
        """Whether it runs a batch of exactly `count`."""
        if self.flavour == "onnx":
            return self.fixed_batch in (None, count)
        return any(profile.minimum <= count <= profile.maximum for profile in self.profiles)

    @property
    def batches(self) -> str:
        """In words: `profile 1:8:32`, `batch 4`, `any batch`."""
        if self.profiles:
            return f"profile{'s' * (len(self.profiles) > 1)} {', '.join(map(str, self.profiles))}"
        return "any batch" if self.fixed_batch is None else f"batch {self.fixed_batch}"


def read(path: Path) -> ModelFile:
    """Read what a model file is, its hash compared with its manifest.

    Raises:
        BadInputError: neither one of our ONNX files nor an engine with its manifest, or changed since.
    """
    kind = model_kind.kind_of(path)
    if kind == "checkpoint":
        raise BadInputError(
            f"{path} can't be served: it is a checkpoint.",
            f"Export it first: hemf-export onnx {shlex.quote(str(path))}",
        )
    return _onnx(path) if kind == "onnx" else _engine(path)


def _onnx(path: Path) -> ModelFile:
    proto, description = onnx_file.read(path)
    manifest = artifacts.read_manifest(path) or {
        "manifest": artifacts.MANIFEST_FORMAT,
        "file": path.name,
        "size_bytes": path.stat().st_size,
        "sha256": artifacts.sha256(path),
        "kind": "onnx",
        **description.to_dict(),
    }
    weights = {initializer.name for initializer in proto.graph.initializer}
    (images,) = (value for value in proto.graph.input if value.name not in weights)
    (logits,) = proto.graph.output
    return ModelFile(path, "onnx", manifest, description, _tensor(images), _tensor(logits))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    return Tensor(value.name, tuple(dim.dim_value for dim in tensor.shape.dim[1:]), _ONNX_TYPES[tensor.elem_type])


def _engine(path: Path) -> ModelFile:
    looked = preflight.look(path, Machine())
    # Where it will run is another machine: what this one lacks says nothing.
    wrong = (check.error for check in looked.checks if check.what in ("file", "manifest", "plan header"))
    for error in wrong:
        if error is not None:
            raise error
    assert looked.header is not None, "a plan without a header is refused"
    manifest = looked.manifest
    description = Description.from_manifest(path, manifest)
    hint = f"Build it again: {preflight.rebuild_command(manifest)}"
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
    made = ModelFile(path, looked.header.backend, manifest, description, into, out, profiles)
    width = description.output.width(len(description.classes))
    if not graph_output.is_row((None, *made.output.dims), width, None):
        raise BadInputError(
            f"The manifest of {path} has {len(description.classes)} classes and an output of {list(made.output.dims)}.",
            hint,
        )
    return made
