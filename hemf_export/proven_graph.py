"""The strongly typed graph that an engine is built from: made and proven now, or a file that was proven before."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from calibration.budget import Budget
from calibration.int8 import MethodChoice
from calibration.job import Listener
from hemf import artifacts
from hemf.errors import BadInputError, UsageError
from hemf.reading import PLAIN, Reading
from hemf_export import console, fp16, int8_choice, model_kind, onnx_export, onnx_file, precision
from hemf_export.description import Description
from hemf_export.fp16 import Bounds
from hemf_export.onnx_export import Step
from hemf_export.trial_engine import Compiler


@dataclass(frozen=True)
class Wanted:
    """The precision of an engine and what it may lose; see `hemf-export trt --help`.

    Args:
        precision: None takes a file that has one already.
        images: to prove on; int8 needs them.
        samples: at most so many of them prove float16.
        bounds: of float16.
        budget: of int8.
        method: of int8's ranges.
        cache: folder of earlier results; None for none.
        folder: that made graphs go to; None for the model's.
        compiler: what graphs are for.
    """

    precision: Literal["fp16", "int8", "fp32"] | None = "fp16"
    images: Path | None = None
    samples: int = fp16.IMAGES
    bounds: Bounds = field(default_factory=Bounds)
    budget: Budget = field(default_factory=Budget)
    method: MethodChoice = "auto"
    cache: Path | None = None
    folder: Path | None = None
    compiler: Compiler = field(default_factory=Compiler)


@dataclass(frozen=True)
class ProvenGraph:
    """A float16 or int8 file that may become an engine.

    Args:
        path: of the file.
        description: what it says of itself.
        fields: of the engine's manifest: how it was proven.
        rows: the same for people.
        notes: what a user should know.
    """

    path: Path
    description: Description
    fields: dict[str, Any]
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


def provide(
    model: Path,
    classes: tuple[str, ...] | None,
    wanted: Wanted,
    listener: Listener,
    step: Step | None = None,
    *,
    reading: Reading = PLAIN,
) -> tuple[Path, ProvenGraph]:
    """The float32 file that `model` is or gives, and the graph to build; a checkpoint is exported first.

    Raises:
        BadInputError: the model or the images.
        CheckFailedError: a bound or the budget is missed.
    """
    step = step or (lambda text: nullcontext())
    kind = model_kind.kind_of(model)
    if kind == "onnx" and reading != PLAIN:
        raise UsageError(f"{model} is an ONNX file: --weights and --image-size are for checkpoints.", "Leave them out.")
    if wanted.precision is None:
        return model, _ready(model)
    notes: tuple[str, ...] = ()
    source = model
    if kind == "checkpoint":
        source = (wanted.folder or model.parent) / onnx_export.default_output(model).name
        exported = onnx_export.export(
            model, source, onnx_export.Options(images=wanted.images), classes=classes, reading=reading, step=step
        )
        notes = exported.notes
    if wanted.precision == "fp16":
        graph = _float16(source, wanted, step)
    elif wanted.precision == "int8":
        graph = _int8(source, wanted, listener)
    else:
        graph = _ready(source, "fp32")
    return source, ProvenGraph(graph.path, graph.description, graph.fields, graph.rows, (*notes, *graph.notes))


def _float16(source: Path, wanted: Wanted, step: Step) -> ProvenGraph:
    target = (wanted.folder or source.parent) / f"{model_kind.stem(source)}.fp16.onnx"
    half = fp16.convert(
        source,
        target,
        images=wanted.images,
        count=wanted.samples,
        bounds=wanted.bounds,
        compiler=wanted.compiler,
        step=step,
    )
    proof, converted = half.parity, half.conversion
    noun = half.description.output.noun
    accuracy = "" if proof.accuracy is None else f", accuracy {proof.accuracy[0]:.2%} (float32 {proof.accuracy[1]:.2%})"
    rows = (
        ("graph", f"{half.path.name}, {len(converted.islands)} of {converted.nodes} nodes in float32"),
        ("rewritten for", str(half.rewriting)),
        ("proven on", f"{proof.images} images of {proof.source}"),
        ("float16 against float32", f"largest {noun} difference {proof.max_difference:.2e} (bound {half.bound:.3g})"),
        ("top-1 agreement", f"{proof.agreement:.2%}{accuracy}"),
    )
    fields = {
        "parity_of_the_graph": {**proof.to_dict(), "float16_emulated": True},
        "file_as_written": half.written,
        "form": half.form,
    }
    return ProvenGraph(half.path, half.description, fields, rows, half.notes)


def _int8(source: Path, wanted: Wanted, listener: Listener) -> ProvenGraph:
    if wanted.images is None:
        raise BadInputError("INT8 needs real images: its ranges are taken from them.", "Say --images DIR.")
    request = precision.Request(
        source=source, precision="int8", images=wanted.images, budget=wanted.budget, method=wanted.method,
        cache=wanted.cache, folder=wanted.folder, compiler=wanted.compiler,
    )  # fmt: skip
    made = precision.make(request, listener)
    return ProvenGraph(
        made.path, made.description, _figures(made.manifest), _rows(made.path, made.manifest), made.notes
    )


def _ready(path: Path, precision: Literal["fp32"] | None = None) -> ProvenGraph:
    """A file that is built as it is: it has its precision already, which a float32 one has only if that was said."""
    _, description = onnx_file.read(path)
    if precision is not None and description.precision != precision:
        raise UsageError(f"{path} is {description.precision}, not {precision}.", f"Leave out --{precision}.")
    if description.precision == "fp32" and precision is None:
        raise UsageError(
            f"{path} is float32: say the precision, --fp16, or --int8 --images DIR, or --fp32.",
            "Engines are strongly typed: their precision is that of the graph.",
        )
    if description.precision == "int8-cpu":
        raise BadInputError(
            f"{path} is an INT8 graph for a CPU, whose types TensorRT doesn't fuse.",
            "Make one without --for cpu: hemf-export calibrate.",
        )
    manifest = artifacts.read_manifest(path)
    if manifest is None:
        raise BadInputError(
            f"{path} has no manifest: nothing tells how it was proven.", "Make it again: hemf-export calibrate."
        )
    return ProvenGraph(path, description, _figures(manifest), _rows(path, manifest))


def _figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a graph's manifest says of its proof, for the engine's."""
    names = (
        "figures",
        "parity",
        "file_as_written",
        "budget",
        "held_out_images",
        "calibration_images",
        "types",
        "int8_gain",
        "form",
        "fine_tuning",
    )
    return {"proof_of_the_graph": {name: manifest[name] for name in names if name in manifest}}


def _rows(path: Path, manifest: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = [("graph", f"{path.name}, {console.size(path.stat().st_size)}")]
    found = manifest.get("figures") or manifest.get("parity") or {}
    if "types" in manifest:
        rows.append(("products", ", ".join(f"{count} {kind}" for kind, count in manifest["types"]["products"].items())))
    if "int8" in manifest:
        rows.append(("work in INT8", f"{manifest['int8']['share_of_multiply_adds']:.1%} of the multiply-adds"))
    if (gain := int8_choice.of_manifest(manifest)) is not None:
        rows.append(("INT8 beside FP16", int8_choice.beside(gain)))
    if "drop" in found:
        low, high = found["drop_interval"]
        accuracy = f"{found['accuracy']:.2%} (float32 {found['reference_accuracy']:.2%})"
        rows.append(("accuracy", f"{accuracy}, drop {found['drop']:.2f} points (95 %: {low:.2f} to {high:.2f})"))
    if "agreement" in found:
        rows.append(("agreement", f"{found['agreement']:.2%} of {found['images']} images"))
    return tuple(rows)
