"""The path from a checkpoint or an ONNX file to an engine: export if needed, convert, prove, build."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from calibration.job import Listener
from engines import backends
from engines.backends import BackendName
from engines.batches import BatchProfile
from engines.build import Engine, build_engine
from engines.census import Census
from engines.options import BuildOptions
from engines.targets import Target
from hemf import artifacts
from hemf.errors import BadInputError
from hemf.reading import PLAIN, Reading
from hemf_export import compiled_precision, golden_images, int8_choice, model_kind, onnx_file, proven_graph
from hemf_export.compiled_precision import CompiledPrecision
from hemf_export.description import Description
from hemf_export.onnx_export import Step
from hemf_export.proven_graph import ProvenGraph, Wanted
from hemf_export.trial_engine import Compiler

# NVIDIA names the RTX 2080 Ti as its example of compute capability 7.5, and says nothing of the T4.
RTX_ON_T4 = (
    "TensorRT-RTX engines for sm_75 are promised for GeForce RTX 20; NVIDIA does not name the T4. "
    "Check the engine on the T4, or build there with --backend tensorrt."
)


@dataclass(frozen=True)
class Request:
    """What to build; see `hemf-export trt --help`.

    Args:
        model: a checkpoint or an ONNX file.
        target: GPU or compute capability.
        output: the engine; None for a name beside the graph's.
        backend: which TensorRT.
        profiles: batch sizes; none for those of the graph, or the default.
        options: how to build; its profiles don't count.
        golden: images to check the engine with; 0 for none.
        wanted: precision, and what it may lose.
        classes: names for a checkpoint that has none.
        reading: how a checkpoint is read.
        tune: try each pass that brings the graph to the backend's form.
        strict_precision: refuse an engine that computes a product in another type than its graph has.
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


@dataclass(frozen=True)
class Made:
    """What was built, and from what.

    Args:
        source: the float32 file, or the one that had its precision already.
        graph: that the engine is built from.
        engine: with its census.
        notes: what a user should know.
        precision: what became of the graph's INT8; None where it has none, or the kernels aren't known.
    """

    source: Path
    graph: ProvenGraph
    engine: Engine
    notes: tuple[str, ...]
    precision: CompiledPrecision | None = None


def make(
    request: Request,
    listener: Listener,
    *,
    step: Step | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Made:
    """Provide the proven graph and build its engine.

    Raises:
        BadInputError: the model, the images, or a batch that the graph doesn't have.
        CheckFailedError: a bound or the budget is missed, or `strict_precision` finds what it refuses; nothing of the
            engine is written.
        MissingCapabilityError: no builder for the target here.
    """
    model = request.model
    if model_kind.kind_of(model) == "engine":
        raise BadInputError(f"{model} is an engine already.", "An ONNX file of ours or a checkpoint is needed.")
    # What this machine lacks is told before minutes of work.
    backend = backends.choose(request.backend, request.target)
    backends.load(backend)
    request.options.require(backend, backends.gpu_capability())
    if request.output is not None:
        artifacts.check_writable(request.output)
        artifacts.check_distinct(model, request.output)
    else:
        artifacts.check_folder(model.parent)
    folder = model.parent if request.output is None else request.output.parent
    profile = (request.profiles or (BatchProfile(),))[0]
    compiler = Compiler(backend, request.target, profile.optimum, request.tune)
    wanted = dataclasses.replace(request.wanted, folder=folder, compiler=compiler)
    source, graph = proven_graph.provide(model, request.classes, wanted, listener, step, reading=request.reading)
    options = dataclasses.replace(request.options, profiles=_profiles(request.profiles, graph.path, graph.description))
    taken, given = onnx_file.ends(graph.path)
    fields = {**graph.description.to_dict(), "input": taken, "output": given, **graph.fields}
    output = request.output or graph.path.with_name(f"{model_kind.stem(graph.path)}.{request.target.name}.engine")
    golden = None
    if request.golden:
        with (step or (lambda text: nullcontext()))("Computing golden images"):
            golden = golden_images.make(graph.path, graph.description, request.wanted.images, request.golden)
    asked = compiled_precision.read(graph.path)
    compared: list[CompiledPrecision | None] = []

    def judge(census: Census | None) -> dict[str, Any]:
        found = None if census is None else compiled_precision.compare(asked, census)
        if request.strict_precision:
            compiled_precision.require_kept(found, census, asked, graph.path.name)
        compared.append(found)
        return {"compiled_precision": None if found is None else found.to_dict()}

    engine = build_engine(
        graph.path, output, backend=backend, target=request.target, options=options, fields=fields, golden=golden,
        blocks=asked.blocks, judge=judge, progress=progress,
    )  # fmt: skip
    (precision,) = compared
    broken = None if precision is None else compiled_precision.remark(precision.to_dict())
    notes = [*graph.notes, *engine.notes, *([broken] if broken else [])]
    if gain := int8_choice.of_manifest(graph.fields.get("proof_of_the_graph", {})):
        notes += [remark] if (remark := int8_choice.elsewhere(gain, backend, request.target.sm)) else []
    if backend == "tensorrt-rtx" and request.target.name == "t4":
        notes.append(RTX_ON_T4)
    return Made(source, graph, engine, tuple(notes), precision)


def _profiles(wanted: tuple[BatchProfile, ...], path: Path, description: Description) -> tuple[BatchProfile, ...]:
    fixed = description.batch
    if fixed is None:
        return wanted or (BatchProfile(),)
    own = (BatchProfile(fixed, fixed, fixed),)
    if wanted and wanted != own:
        raise BadInputError(
            f"{path} has the fixed batch {fixed}; the profile {', '.join(map(str, wanted))} asks for others.",
            "Export it with --batch dynamic, or leave out --batch.",
        )
    return own
