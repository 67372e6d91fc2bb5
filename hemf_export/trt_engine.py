"""The path from a checkpoint or a float32 ONNX file to an engine: export if needed, convert, prove, build."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engines import backends
from engines.backends import BackendName
from engines.batches import BatchProfile
from engines.build import Engine, build_engine
from engines.targets import Target
from hemf import artifacts
from hemf.errors import BadInputError
from hemf_export import fp16, onnx_export
from hemf_export.fp16 import Bounds, Float16File
from hemf_export.onnx_export import Step

# NVIDIA names the RTX 2080 Ti as its example of compute capability 7.5, and says nothing of the T4.
RTX_ON_T4 = (
    "TensorRT-RTX engines for sm_75 are promised for GeForce RTX 20; NVIDIA does not name the T4. "
    "Check the engine on the T4, or build there with --backend tensorrt."
)


@dataclass(frozen=True)
class Request:
    """What to build; see `hemf-export trt --help`."""

    model: Path
    target: Target
    output: Path | None = None
    backend: Literal["auto"] | BackendName = "auto"
    profile: BatchProfile | None = None
    images: Path | None = None
    samples: int = fp16.IMAGES
    bounds: Bounds = field(default_factory=Bounds)
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Made:
    """What was built, and from what."""

    source: Path
    half: Float16File
    engine: Engine
    notes: tuple[str, ...]


def make(
    request: Request, *, step: Step | None = None, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Made:
    """Export `request.model` if it is a checkpoint, convert it to float16, prove that, and build the engine.

    Raises:
        BadInputError: the model, the images, or a batch that the graph doesn't have.
        CheckFailedError: float16 misses a bound; no engine is built.
        MissingCapabilityError: no builder for the target here.
    """
    step = step or (lambda text: nullcontext())
    model = request.model
    if not model.is_file():
        raise BadInputError(f"No file at {model}.", "An ONNX file of ours or a checkpoint is needed.")
    stem = model.with_suffix("")
    half_path = stem.with_name(f"{stem.name}.fp16.onnx")
    output = request.output or stem.with_name(f"{stem.name}.fp16.{request.target.name}.engine")
    # What this machine lacks is told before minutes of work.
    backend = backends.choose(request.backend, request.target)
    backends.load(backend)
    artifacts.check_writable(output)
    artifacts.check_distinct(model, output)
    notes: list[str] = []
    source = model
    if model.suffix != ".onnx":
        source = stem.with_name(f"{stem.name}.onnx")
        options = onnx_export.Options(images=request.images)
        exported = onnx_export.export(model, source, options, classes=request.classes, step=step)
        notes.extend(exported.notes)
    half = fp16.convert(
        source, half_path, images=request.images, count=request.samples, bounds=request.bounds, step=step
    )
    profile = _profile(request.profile, half)
    description = half.description.to_dict()
    fields = {
        **description,
        "input": onnx_export.INPUT_NAME,
        "output": onnx_export.OUTPUT_NAME,
        "parity_of_the_graph": half.parity.to_dict(),
    }
    engine = build_engine(
        half.path, output, backend=backend, target=request.target, profile=profile, fields=fields, progress=progress
    )
    if backend == "tensorrt-rtx" and request.target.name == "t4":
        notes.append(RTX_ON_T4)
    return Made(source, half, engine, tuple(notes))


def _profile(wanted: BatchProfile | None, half: Float16File) -> BatchProfile:
    fixed = half.description.batch
    if fixed is None:
        return wanted or BatchProfile()
    own = BatchProfile(fixed, fixed, fixed)
    if wanted is not None and wanted != own:
        raise BadInputError(
            f"{half.path} has the fixed batch {fixed}; the profile {wanted} asks for others.",
            "Export it with --batch dynamic, or leave out --batch.",
        )
    return own
