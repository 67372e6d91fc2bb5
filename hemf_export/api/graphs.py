"""Export a checkpoint to ONNX, convert it to FP16 or INT8, fine-tune INT8 weights and build engines, each proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemf_export.api.results import (
    EngineFile,
    ExportedFile,
    FineTunedFile,
    OnnxFile,
    PathLike,
    QuantizedFile,
    names_of,
    path_of,
)
from hemf_export.files.errors import UsageError
from hemf_export.files.progress import SILENT, Progress

if TYPE_CHECKING:
    from hemf_export.finetuning.recipe import FineTuning

SAY_THE_PRECISION = "Say the precision: `precision='fp16'`, or `precision='int8', images=DIR`, or `precision='fp32'`."
STRONGLY_TYPED = "Engines are strongly typed: their precision is that of the graph."


def export_onnx(
    checkpoint: PathLike, output: PathLike | None = None, *, opset: int = 20, batch: int | None = None,
    input: Literal["float32", "uint8"] = "float32", source_size: str | None = None, images: PathLike | None = None,
    tolerance: float = 1e-4, form: Literal["cpu", "tensorrt", "tensorrt-rtx"] = "cpu",
    classes: Sequence[str] | None = None, weights: str | None = None, image_size: int | None = None,
    factory: str | None = None,
    progress: Progress = SILENT,
) -> ExportedFile:  # fmt: skip
    """Export a checkpoint to one self-contained ONNX file, and prove its logits against PyTorch's before it is kept.

    Args:
        checkpoint: ours (.pt, .safetensors), the HEMF authors', or another trainer's with the network's weights in it.
        output: the ONNX file; None for one beside the checkpoint.
        opset: 17 to 23.
        batch: fixed batch size; None for a dynamic batch.
        input: "float32" takes normalized images (N, 3, H, W); "uint8" raw RGB pixels (N, H, W, 3).
        source_size: "HEIGHTxWIDTH" of raw images that the file itself resizes and crops.
        images: folder of images to prove on; None for seeded noise.
        tolerance: largest absolute difference of a logit from PyTorch's.
        form: backend that the graph is optimized for.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint, such as "ema".
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        progress: receives each step.

    Raises:
        BadInputError: the checkpoint or the images.
        CheckFailedError: a logit differs by more than the tolerance; no file is kept.

    Examples:
        >>> onnx = hemf_export.export_onnx("best.pt", images="data/test")
        >>> onnx.path.name, onnx.precision
        ('best.onnx', 'fp32')
    """
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.export.onnx_export import Options, default_output, export
    from hemf_export.images.model_input import SourceSize

    options = Options(
        opset=opset, batch=batch, input_type=input, tolerance=tolerance, form=form, images=path_of(images),
        source_size=None if source_size is None else SourceSize.parse(source_size),
    )  # fmt: skip
    source = Path(checkpoint)
    exported = export(
        source, default_output(source) if output is None else Path(output), options, classes=names_of(classes),
        reading=Reading(weights, image_size, factory), progress=progress,
    )  # fmt: skip
    return ExportedFile(
        exported.path, _manifest(exported.path), exported.notes, description=exported.description,
        nodes=exported.nodes, rewriting=str(exported.rewriting), proven_on=exported.parity.source,
        batches=exported.parity.batches,
    )  # fmt: skip


def quantize(
    onnx: PathLike, images: PathLike | None = None, output: PathLike | None = None, *,
    precision: Literal["fp16", "int8"] = "fp16", max_drop: float | None = None, min_agreement: float | None = None,
    metric: Literal["accuracy", "balanced-accuracy"] = "accuracy", max_logit_difference: float | None = None,
    form: Literal["auto", "tensorrt", "tensorrt-rtx", "cpu"] = "auto", target: str = "t4", batch: int = 8,
    held_out: PathLike | None = None, count: int = 512, held_out_count: int | None = None, seed: int = 0,
    allow_single_class: bool = False, method: Literal["auto", "max", "entropy", "percentile", "mse"] = "auto",
    sensitivity: bool = False, mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None, preprocess: Literal["crop", "squash"] | None = None,
    classes: Sequence[str] | None = None, gives: Literal["logits", "probabilities"] | None = None,
    force: bool = False, cache: bool = True, progress: Progress = SILENT,
) -> QuantizedFile:  # fmt: skip
    """Make an FP16 or INT8 graph of a float32 ONNX file, and prove it before it is kept.

    Args:
        onnx: a float32 ONNX file: ours, or any image classifier with one image input.
        images: real images, a data folder (train/ calibrates, val/ is held out) or class folders. INT8 needs them;
            FP16 uses ranges measured on them, or without images the graph's structure.
        output: the file; None for `NAME.fp16.onnx` or `NAME.int8.onnx` beside the float32 one.
        precision: "fp16" or "int8". With a budget, "int8" gives an FP16 file unless INT8 is at least 5 % faster.
        max_drop: largest drop of the metric on held-out images, in percentage points.
        min_agreement: smallest share of images that keep their class, 0 to 1.
        metric: metric that `max_drop` applies to.
        max_logit_difference: FP16: largest absolute difference of a logit; None for 0.05 or 1 % of the largest logit.
        form: backend that the graph is optimized for; "auto" chooses as `build_engine` does.
        target: GPU or compute capability ("sm_86") that the engine is for.
        batch: batch size at which engines are compared.
        held_out: another folder for the held-out set.
        count: largest number of calibration images.
        held_out_count: largest number of held-out images; None for 64, or 512 with a budget.
        seed: random seed of the selection of images.
        allow_single_class: allow calibration images of one class only.
        method: INT8: calibration method; "auto" tries all.
        sensitivity: INT8: measure the sensitivity of every block, even without a budget.
        mean: mean of each channel, 0 to 1, for another exporter's file; None for 0.5.
        std: standard deviation of each channel, likewise.
        preprocess: "crop" or "squash", likewise; None for "crop".
        classes: class names, likewise; two for a single output, the negative class first.
        gives: kind of its output, likewise, if the graph doesn't show it.
        force: replace a file that was made from another one or with other options.
        cache: store results, and reuse those of earlier runs.
        progress: receives each step, and the results for blocks as events.

    Raises:
        BadInputError: the file or the images, or an existing file that was made with other options.
        CheckFailedError: every graph misses the bound or the budget; no file is kept.

    Examples:
        >>> half = hemf_export.quantize("best.onnx", "data")
        >>> half.precision
        'fp16'
    """
    from hemf_export.calibration.budget import Budget
    from hemf_export.engines import backends, targets
    from hemf_export.files import artifacts
    from hemf_export.models.graph_source import Assumptions
    from hemf_export.precision import quantize as quantization
    from hemf_export.precision.bounds import Bounds
    from hemf_export.precision.quantization_request import Request
    from hemf_export.precision.trial_engine import Compiler

    in_int8 = precision == "int8"
    if form == "cpu" and not in_int8:
        raise UsageError("`form='cpu'` needs `precision='int8'`: a CPU gains nothing from FP16.")
    if not in_int8 and (sensitivity or method != "auto"):
        raise UsageError(f"{'`sensitivity`' if sensitivity else '`method`'} needs `precision='int8'`.")
    if in_int8 and max_logit_difference is not None:
        raise UsageError("`max_logit_difference` needs `precision='fp16'`; int8 has `max_drop` and `min_agreement`.")
    gpu = targets.find(target)
    budget = None
    if max_drop is not None or (in_int8 and min_agreement is not None):
        budget = Budget(max_drop, min_agreement if in_int8 else None, metric)
    request = Request(
        Path(onnx), precision, path_of(images), path_of(output), held_out=path_of(held_out), count=count,
        held_out_count=held_out_count, seed=seed, allow_single_class=allow_single_class, method=method, budget=budget,
        with_sensitivity=sensitivity,
        compiler=Compiler(backends.choose("auto", gpu) if form == "auto" else form, gpu, batch),
        bounds=Bounds(max_logit_difference, None if in_int8 else min_agreement),
        assumptions=Assumptions(mean, std, preprocess, names_of(classes), gives),
        cache=artifacts.cache_folder() if cache else None, force=force,
    )  # fmt: skip
    quantized = quantization.make(request, progress)
    plan = quantized.plan
    return QuantizedFile(
        quantized.path, dict(quantized.manifest), quantized.notes, target=gpu.name, budget=budget,
        reports=quantized.reports,
        sensitivities=() if plan is None else plan.sensitivities,
        int8_blocks=frozenset() if plan is None else frozenset(product.block for product in plan.chosen),
    )  # fmt: skip


def finetune(
    onnx: PathLike, data: PathLike, output: PathLike | None = None, *, reference: PathLike | None = None,
    recipe: FineTuning | Mapping[str, Any] | None = None, held_out: PathLike | None = None,
    max_drop: float | None = None, min_agreement: float | None = None,
    metric: Literal["accuracy", "balanced-accuracy"] = "accuracy", device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int = 0, weights: str | None = None, image_size: int | None = None, factory: str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> FineTunedFile:  # fmt: skip
    """Fine-tune the weights of an INT8 file with its quantization in place, and prove the file before it is kept.

    The graph and its INT8 ranges don't change; the best epoch on held-out images is kept. The result is a new model,
    close to the checkpoint: `verify` shows how close.

    Args:
        onnx: an INT8 file made by `quantize`.
        data: labelled images: a data folder (train/ trains, val/ is held out), or class folders.
        output: the file; None for `NAME.qat.int8.onnx` beside the INT8 one.
        reference: the checkpoint that it was made from; None looks for it beside the file.
        recipe: a FineTuning, or the fields that differ from its defaults: `{"epochs": 10}`.
        held_out: another folder for the held-out set.
        max_drop: keep the file only if accuracy drops at most this, in percentage points.
        min_agreement: keep the file only if at least this share of the images keep their class.
        metric: metric that `max_drop` applies to.
        device: device to train on.
        workers: number of data loader processes; use some for a GPU.
        weights: which set of weights of a training checkpoint the reference is.
        image_size: input size in pixels, for a reference that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        force: replace a file that was made from another one or with other options.
        progress: receives each epoch's figures as an event.

    Raises:
        BadInputError: the file, the checkpoint or the images.
        CheckFailedError: no epoch was better than the file itself, or the budget is missed; no file is kept.
        MissingCapabilityError: CUDA was requested and isn't available.

    Examples:
        >>> int8 = hemf_export.quantize("best.onnx", "data", precision="int8", form="cpu")
        >>> tuned = hemf_export.finetune(int8, "data", recipe={"epochs": 1})  # doctest: +SKIP
    """
    from hemf_export.calibration.budget import Budget
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.finetuning import finetune as finetuning
    from hemf_export.finetuning.recipe import FineTuning

    asked = max_drop is not None or min_agreement is not None
    if not asked and metric != "accuracy":
        raise UsageError("`metric` needs `max_drop`.")
    request = finetuning.Request(
        source=Path(onnx), data=Path(data), reference=path_of(reference), output=path_of(output),
        held_out=path_of(held_out), device=device, workers=workers, reading=Reading(weights, image_size, factory),
        force=force,
        recipe=recipe if isinstance(recipe, FineTuning) else FineTuning(**(recipe or {})),
        budget=Budget(max_drop, min_agreement, metric) if asked else None,
    )  # fmt: skip
    tuned = finetuning.make(request, progress)
    return FineTunedFile(
        tuned.path, tuned.manifest, tuned.notes, before=tuned.before, after=tuned.after, epoch=tuned.tuned.epoch
    )


def build_engine(
    model: PathLike, output: PathLike | None = None, *, precision: Literal["fp16", "int8", "fp32"] | None = None,
    images: PathLike | None = None, target: str = "t4", backend: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto",
    batches: Sequence[str] = (), golden: int = 4, max_logit_difference: float | None = None,
    min_agreement: float | None = None, max_drop: float | None = None,
    metric: Literal["accuracy", "balanced-accuracy"] = "accuracy",
    method: Literal["auto", "max", "entropy", "percentile", "mse"] = "auto", samples: int | None = None,
    tune: bool = False, strict_precision: bool = False, workspace_mib: int = 2048,
    optimization_level: int | None = None, hardware_compatible: bool | None = None, version_compatible: bool = False,
    stripped: bool = False, timing_cache: bool = True, classes: Sequence[str] | None = None, weights: str | None = None,
    image_size: int | None = None, factory: str | None = None, force: bool = False, progress: Progress = SILENT,
) -> EngineFile:  # fmt: skip
    """Build a TensorRT engine, and count its kernels.

    Engines are strongly typed: their precision is that of the graph, which is made and proven first if `precision` is
    given.

    Args:
        model: an FP16 or INT8 file made by `quantize`; with `precision`, a float32 file, or a checkpoint to export.
        output: the engine; None for `NAME.TARGET.engine` beside the graph.
        precision: None builds the file as it is. "fp16" makes an FP16 graph first, as `quantize` does; "int8" an INT8
            graph if that is 5 % faster within `max_drop`, else an FP16 one; "fp32" builds the float32 graph.
        images: folder of real images to measure ranges on, to prove the graph and for golden images. INT8 needs them;
            None for FP16 by structure and seeded noise.
        target: GPU or compute capability, which need not be in this machine.
        backend: "auto" uses TensorRT on a GPU of the target's kind, else TensorRT-RTX, which needs no GPU.
        batches: "MIN:OPT:MAX" batch sizes of each optimization profile; none for "1:8:32", or the file's own.
        golden: number of golden images kept beside the engine for its self-test; 0 for none.
        max_logit_difference: FP16: largest absolute difference of a logit; None for 0.05 or 1 % of the largest logit.
        min_agreement: smallest share of images that keep their class, 0 to 1.
        max_drop: INT8: largest drop of the metric on held-out images, in percentage points; None for 0.5.
        metric: metric that `max_drop` applies to.
        method: INT8: calibration method.
        samples: FP16: largest number of held-out images to prove the graph on; None for 64.
        tune: try each rewriting pass for the backend, and keep those that gain.
        strict_precision: refuse an engine that computes INT8 products of the graph in another type.
        workspace_mib: limit of a layer's scratch memory, in MiB.
        optimization_level: builder optimization level, 0 to 5; None for TensorRT's default.
        hardware_compatible: TensorRT: make it run on every GPU of the compute capability, without some of the fastest
            kernels; False for the model that builds it alone. None for False where that is the target, else True.
        version_compatible: make it run in later versions of TensorRT too; not for TensorRT-RTX, nor with `stripped`.
        stripped: leave out the weights, which come from the ONNX file beside it.
        timing_cache: begin with the kernel timings of earlier builds, and keep them for the next (TensorRT).
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint.
        image_size: input size in pixels, for a checkpoint that leaves it open.
        factory: `package.module:function` of a network of your own, for a checkpoint of it; see `train`.
        force: make graph and engine again, and replace files that were made with other options.
        progress: receives each phase of the build.

    Raises:
        UsageError: options that exclude each other.
        BadInputError: the file, batches that it doesn't take, or an existing file that was made with other options.
        CheckFailedError: the graph misses a bound, or the engine is refused by `strict_precision`.
        MissingCapabilityError: no builder for the target on this machine.

    Examples:
        >>> engine = hemf_export.build_engine("best.fp16.onnx", batches=["1:1:1"])
        >>> engine.path.name
        'best.fp16.t4.engine'
    """
    from hemf_export.calibration.budget import Budget
    from hemf_export.checkpoints.reading import Reading
    from hemf_export.engines import targets
    from hemf_export.engines.options import BatchProfile, BuildOptions
    from hemf_export.files import artifacts
    from hemf_export.models.model_file import ModelFile
    from hemf_export.precision import build_engine as building
    from hemf_export.precision.bounds import Bounds

    source, in_int8 = Path(model), precision == "int8"
    if precision is None and ModelFile.open(source).kind == "checkpoint":
        raise UsageError(SAY_THE_PRECISION, STRONGLY_TYPED)
    if in_int8 and images is None:
        raise UsageError(
            "`precision='int8'` needs real images: `images=DIR`.", "Its ranges and its accuracy are measured on them."
        )
    if in_int8 and max_logit_difference is not None:
        raise UsageError(
            "`max_logit_difference` needs `precision='fp16'`; `precision='int8'` has `max_drop` and `min_agreement`."
        )
    if not in_int8 and (max_drop is not None or method != "auto"):
        raise UsageError(f"{'`max_drop`' if max_drop is not None else '`method`'} needs `precision='int8'`.")
    if tune and precision not in ("fp16", "int8"):
        raise UsageError(
            "`tune` chooses the form of the graph that `precision='fp16'` or `precision='int8'` makes.",
            "Say one of them.",
        )
    gpu = targets.find(target)
    options = BuildOptions(
        workspace_mib=workspace_mib, optimization_level=optimization_level, hardware_compatible=hardware_compatible,
        version_compatible=version_compatible, stripped=stripped, timing_cache=timing_cache,
    )  # fmt: skip
    profiles = tuple(BatchProfile.parse(text) for text in batches)
    wanted = building.Wanted(
        precision=precision, images=path_of(images), samples=samples,
        bounds=Bounds(max_logit_difference, min_agreement),
        budget=Budget(0.5 if max_drop is None else max_drop, min_agreement, metric), method=method,
        cache=artifacts.cache_folder(),
    )  # fmt: skip
    request = building.Request(
        model=source, target=gpu, output=path_of(output), backend=backend, profiles=profiles, options=options,
        golden=golden, wanted=wanted, classes=names_of(classes), reading=Reading(weights, image_size, factory),
        strict_precision=strict_precision, tune=tune, force=force,
    )  # fmt: skip
    built = building.make(request, progress)
    graph = OnnxFile(built.graph.path, dict(built.graph.manifest), built.graph.notes)
    return EngineFile(built.engine.path, dict(built.engine.manifest), built.notes, graph=graph)


def _manifest(path: Path) -> dict[str, Any]:
    from hemf_export.files import artifacts

    return artifacts.read_manifest(path) or {}
