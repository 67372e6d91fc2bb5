"""Build an engine from a checkpoint or an ONNX file: export if need be, quantize and prove, build, check the kernels.

Existing files:

- `NAME.fp16.onnx` or `NAME.int8.onnx` of this float32 file, for the same backend, is used, with a note, unless the
  request names options (images, bounds, a budget, tuning) that it wasn't made with: that is an error. So an engine can
  be built from the graph that `quantize` proved on images, without naming the images again.
- A float32 file is exported from a checkpoint only where there is none; one of another checkpoint, or with another
  input, is an error.
- An engine of another graph, or built with other options, is an error; one of the same checkpoint whose graph this call
  has replaced is replaced too.

With `force` all of these are made again and replaced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hemf_export.calibration.budget import Budget
from hemf_export.calibration.int8 import MethodChoice
from hemf_export.checkpoints.reading import PLAIN, Reading
from hemf_export.engines import backends
from hemf_export.engines import build as engine_files
from hemf_export.engines.backends import BackendName
from hemf_export.engines.build import Engine
from hemf_export.engines.census import Census
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.engines.targets import Target
from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models import file_kinds, proof
from hemf_export.models.description import Description
from hemf_export.models.model_file import ModelFile, OnnxFile
from hemf_export.models.proof import Proof
from hemf_export.precision import (
    compiled_precision,
    earlier_file,
    golden_images,
    int8_choice,
    quantization_request,
    quantize,
)
from hemf_export.precision.bounds import Bounds
from hemf_export.precision.compiled_precision import CompiledPrecision
from hemf_export.precision.earlier_file import Recipe, WouldReplaceError
from hemf_export.precision.trial_engine import Compiler

# NVIDIA names the RTX 2080 Ti as its example of compute capability 7.5, and says nothing of the T4.
RTX_ON_T4 = (
    "TensorRT-RTX engines for sm_75 are promised for GeForce RTX 20; NVIDIA does not name the T4. "
    "Check the engine on the T4, or build there with `backend='tensorrt'`."
)
_REPLACE = (
    "To build from a graph that is there, name it instead of the model; to keep it, write elsewhere with "
    "`output='OTHER/NAME.engine'`, whose folder gets the graph too; to replace it, say `force`."
)
_OF_THE_GRAPH = ("form", "types", "conversion", "int8", "int8_gain", "fine_tuning")  # copied into the engine's manifest


@dataclass(frozen=True)
class Wanted:
    """Precision of an engine, and its bounds.

    Args:
        precision: None for a file that has its precision already.
        images: folder of images to calibrate and prove on; int8 needs them, fp16 is made by structure without.
        samples: largest number of held-out images to prove float16 on; None for `quantization_request.HELD_OUT_IMAGES`.
        bounds: bounds of float16.
        budget: budget of int8.
        method: calibration method of int8.
        cache: folder of cached results; None for none.
    """

    precision: Literal["fp16", "int8", "fp32"] | None = "fp16"
    images: Path | None = None
    samples: int | None = None
    bounds: Bounds = field(default_factory=Bounds)
    budget: Budget = field(default_factory=Budget)
    method: MethodChoice = "auto"
    cache: Path | None = None


@dataclass(frozen=True)
class Request:
    """Request for an engine.

    Args:
        model: a checkpoint or an ONNX file.
        target: GPU or compute capability.
        output: the engine; None for a name derived from the graph's.
        backend: TensorRT or TensorRT-RTX.
        profiles: optimization profiles of the batch; empty for the graph's batch, or the default.
        options: build options; their profiles are ignored.
        golden: number of golden images; 0 for none.
        wanted: precision and its bounds.
        classes: class names for a checkpoint that has none.
        reading: how a checkpoint is read.
        tune: try each pass that brings the graph to the backend's form.
        strict_precision: fail where the engine computes a product in another type than its graph has.
        force: make everything again, and replace files that were made otherwise.
    """

    model: Path
    target: Target
    output: Path | None = None
    backend: Literal["auto"] | BackendName = "auto"
    profiles: tuple[BatchProfile, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    golden: int = golden_images.IMAGES
    wanted: Wanted = field(default_factory=Wanted)
    classes: tuple[str, ...] | None = None
    reading: Reading = PLAIN
    strict_precision: bool = False
    tune: bool = False
    force: bool = False


@dataclass(frozen=True)
class ProvenGraph:
    """Strongly typed graph to build an engine from.

    Args:
        source: the float32 file that it was made from, or the graph itself if it was given.
        path: file of the graph.
        description: description in the file.
        proof: its comparison with what it was made from.
        manifest: manifest of the file.
        notes: remarks for the user.
        is_new: whether this call made it.
    """

    source: Path
    path: Path
    description: Description
    proof: Proof
    manifest: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    is_new: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """Fields that an engine's manifest has of its graph."""
        kept = {name: self.manifest[name] for name in _OF_THE_GRAPH if name in self.manifest}
        return {proof.KEY: self.proof.to_dict(), **kept}


@dataclass(frozen=True)
class BuiltEngine:
    """Result of a build.

    Args:
        graph: the graph that the engine is built from.
        engine: the engine, with its census.
        notes: remarks for the user.
        precision: INT8 of the engine beside the graph's; None without INT8, or where the kernels aren't known.
    """

    graph: ProvenGraph
    engine: Engine
    notes: tuple[str, ...]
    precision: CompiledPrecision | None = None


def make(request: Request, progress: Progress = SILENT) -> BuiltEngine:
    """Provide the proven graph and build its engine.

    Raises:
        BadInputError: the model, the images, or a batch that the graph doesn't have.
        WouldReplaceError: a file that was made otherwise would be replaced.
        CheckFailedError: a bound or the budget is exceeded, or `strict_precision` fails; no engine is written.
        MissingCapabilityError: this machine has no builder for the target.
    """
    try:
        return _make(request, progress)
    except WouldReplaceError as error:
        raise WouldReplaceError(error.message, _REPLACE) from error


def _make(request: Request, progress: Progress) -> BuiltEngine:
    model = request.model
    if ModelFile.open(model).kind == "engine":
        raise BadInputError(f"{model} is an engine already.", "An ONNX file of ours or a checkpoint is needed.")
    # Report what this machine lacks before minutes of work.
    backend = backends.choose(request.backend, request.target)
    backends.load(backend)
    request.options.require(backend, backends.gpu_capability())
    if request.output is not None:
        artifacts.check_writable(request.output)
        artifacts.check_distinct(model, request.output)
    else:
        artifacts.check_folder(model.parent)
    graph = provide(request, backend, progress)
    profiles = _profiles(request.profiles, graph.path, graph.description)
    options = dataclasses.replace(request.options, profiles=profiles)
    output = request.output or graph.path.with_name(f"{file_kinds.stem(graph.path)}.{request.target.name}.engine")
    if not request.force:
        own = {
            "checkpoint_sha256": graph.description.checkpoint_sha256,
            "backend": backend,
            "compute_capability": request.target.sm,
            **options.to_dict(),
        }
        recipe = Recipe(graph.path.name, artifacts.sha256(graph.path), own)
        earlier_file.require_replaceable(output, recipe, new_parent=graph.is_new)
    input_name, output_name = OnnxFile.open(graph.path).ends
    fields = {**graph.description.to_dict(), "input": input_name, "output": output_name, **graph.fields}
    golden = None
    if request.golden:
        with progress.task("Computing golden images"):
            golden = golden_images.make(graph.path, graph.description, request.wanted.images, request.golden)
    asked = compiled_precision.read(graph.path)
    compared: list[CompiledPrecision | None] = []

    def judge(census: Census | None) -> dict[str, Any]:
        compiled = None if census is None else compiled_precision.compare(asked, census)
        if request.strict_precision:
            compiled_precision.require_kept(compiled, census, asked, graph.path.name)
        compared.append(compiled)
        return {"compiled_precision": None if compiled is None else compiled.to_dict()}

    engine = engine_files.build_engine(
        graph.path, output, backend=backend, target=request.target, options=options, fields=fields, golden=golden,
        blocks=asked.blocks, judge=judge, progress=progress,
    )  # fmt: skip
    (precision,) = compared
    broken = None if precision is None else compiled_precision.remark(precision.to_dict())
    notes = [*graph.notes, *engine.notes, *([broken] if broken else [])]
    if gain := int8_choice.of_manifest(graph.manifest):
        notes += [remark] if (remark := int8_choice.elsewhere(gain, backend, request.target.sm)) else []
    if backend == "tensorrt-rtx" and request.target.name == "t4":
        notes.append(RTX_ON_T4)
    return BuiltEngine(graph, engine, tuple(notes), precision)


def provide(request: Request, backend: BackendName, progress: Progress) -> ProvenGraph:
    """Provide the graph to build from; a checkpoint is exported first.

    Raises:
        BadInputError: the model or the images.
        WouldReplaceError: a file that was made otherwise would be replaced.
        CheckFailedError: a bound or the budget is exceeded.
    """
    wanted, model = request.wanted, request.model
    kind = ModelFile.open(model).kind
    if kind == "onnx" and request.reading.given:
        raise UsageError(
            f"{model} is an ONNX file: `weights`, `image_size` and `factory` are for checkpoints.", "Leave them out."
        )
    if kind == "onnx" and request.classes is not None:
        _ = ModelFile.open(model, classes=request.classes).description  # refuses other classes than the file's
    if wanted.precision is None:
        return _ready(model)
    folder = model.parent if request.output is None else request.output.parent
    source = model
    notes: tuple[str, ...] = ()
    if kind == "checkpoint":
        source, notes = _float32(request, folder, progress)
    if wanted.precision == "fp32":
        graph = _ready(source, "fp32")
        return dataclasses.replace(graph, notes=notes)
    profile = (request.profiles or (BatchProfile(),))[0]
    in_int8 = wanted.precision == "int8"
    file = quantize.make(
        quantization_request.Request(
            source=source, precision="int8" if in_int8 else "fp16", images=wanted.images, folder=folder,
            held_out_count=None if in_int8 else wanted.samples, method=wanted.method if in_int8 else "auto",
            budget=wanted.budget if in_int8 else None, bounds=Bounds() if in_int8 else wanted.bounds,
            compiler=Compiler(backend, request.target, profile.optimum, request.tune),
            cache=wanted.cache, force=request.force, reuse=True,
        ),
        progress,
    )  # fmt: skip
    notes = (*notes, *file.notes)
    return ProvenGraph(source, file.path, file.description, file.proof, file.manifest, notes, is_new=not file.reused)


def _float32(request: Request, folder: Path, progress: Progress) -> tuple[Path, tuple[str, ...]]:
    """Provide the float32 file of a checkpoint, an existing one or a new export, with remarks for the user."""
    model = request.model
    place = folder / onnx_export.default_output(model).name
    if place.exists() and not request.force:
        manifest = artifacts.read_manifest(place)
        differences = _other_export(request, place)
        if manifest is None or differences:
            what = differences or "no manifest tells how it was made"
            raise WouldReplaceError(f"{place} is there already: {what}. An export of {model.name} would replace it.")
        return place, (f"{place} exists already, exported from this {model.name}: it is used.",)
    options = onnx_export.Options(images=request.wanted.images)
    exported = onnx_export.export(
        model, place, options, classes=request.classes, reading=request.reading, progress=progress
    )
    return exported.path, exported.notes


def _other_export(request: Request, place: Path) -> str:
    """How an existing file differs from an export of the request's checkpoint, in words; empty if it doesn't."""
    _, there = OnnxFile.open(place).read_ours()
    checkpoint = artifacts.sha256(request.model)
    if there.checkpoint_sha256 != checkpoint:
        return f"it was made from another checkpoint (SHA-256 {there.checkpoint_sha256[:12]}, now {checkpoint[:12]})"
    if there.precision != "fp32":
        return f"it is {there.precision}"
    if there.input_type != "float32" or there.batch is not None:
        return f"it takes {'raw pixels' if there.input_type != 'float32' else f'batches of {there.batch} alone'}"
    if there.reading != request.reading:
        return "the checkpoint was read otherwise for it (weights or image size)"
    if request.classes is not None and there.classes != request.classes:
        return f"its classes are {', '.join(there.classes)}"
    return ""


def _ready(path: Path, precision: Literal["fp32"] | None = None) -> ProvenGraph:
    """Use a file as it is, which has its precision already; float32 only if it was asked for."""
    _, description = OnnxFile.open(path).read_ours()
    if precision is not None and description.precision != precision:
        raise UsageError(
            f"{path} is {description.precision}, not {precision}.", f"Leave out `precision={precision!r}`."
        )
    if description.precision == "fp32" and precision is None:
        raise UsageError(
            f"{path} is float32, and an engine's precision is that of its graph: say which.",
            "Say `precision='fp16'`, or `precision='int8', images=DIR`, or `precision='fp32'`.",
        )
    if description.precision == "int8-cpu":
        raise BadInputError(
            f"{path} is an INT8 graph for a CPU, whose types TensorRT doesn't fuse.",
            "Make one without `form='cpu'`: `quantize()`.",
        )
    manifest = artifacts.read_manifest(path)
    evidence = proof.of_manifest(manifest)
    if manifest is None or evidence is None:
        raise BadInputError(f"{path} has no manifest: nothing tells how it was proven.", "Make it again: `quantize()`.")
    return ProvenGraph(path, path, description, evidence, manifest)


def _profiles(wanted: tuple[BatchProfile, ...], path: Path, description: Description) -> tuple[BatchProfile, ...]:
    fixed = description.batch
    if fixed is None:
        return wanted or (BatchProfile(),)
    own = (BatchProfile(fixed, fixed, fixed),)
    if wanted and wanted != own:
        raise BadInputError(
            f"{path} has the fixed batch {fixed}; the profile {', '.join(map(str, wanted))} asks for others.",
            "Export it with `batch='dynamic'`, or leave out `batch`.",
        )
    return own
