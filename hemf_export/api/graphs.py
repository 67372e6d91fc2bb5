"""Checkpoint → ONNX file → FP16 or INT8 → engine, each proven against the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hemf_export.api.results import EngineFile, OnnxFile, PathLike
from hemf_export.files.progress import SILENT, Progress


def export_onnx(
    checkpoint: PathLike, output: PathLike | None = None, *, opset: int = 20, batch: int | None = None,
    input: Literal["float32", "uint8"] = "float32", source_size: str | None = None, images: PathLike | None = None,
    tolerance: float = 1e-4, form: Literal["cpu", "tensorrt", "tensorrt-rtx"] = "cpu",
    classes: Sequence[str] | None = None, weights: str | None = None, image_size: int | None = None,
    progress: Progress = SILENT,
) -> OnnxFile:  # fmt: skip
    """Export a checkpoint to one self-contained ONNX file, and prove its logits against PyTorch's before it is kept.

    Args:
        checkpoint: ours (.pt, .safetensors), the HEMF authors', or another trainer's with the network's weights in it.
        output: the ONNX file; None for one beside the checkpoint.
        opset: 17 to 23.
        batch: a fixed batch size; None for any.
        input: "float32" takes normalized images (N, 3, H, W); "uint8" raw RGB pixels (N, H, W, 3).
        source_size: "HEIGHTxWIDTH" of raw images that the file itself resizes and crops.
        images: folder of images to prove on; None for seeded noise.
        tolerance: the largest difference of a logit.
        form: the backend whose kernels the graph is brought to.
        classes: class names, for a checkpoint that has none.
        weights: which set of weights of a training checkpoint, such as "ema".
        image_size: input size in pixels, for a checkpoint that leaves it open.
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
        opset=opset, batch=batch, input_type=input, tolerance=tolerance, form=form, images=_path(images),
        source_size=None if source_size is None else SourceSize.parse(source_size),
    )  # fmt: skip
    source = Path(checkpoint)
    exported = export(
        source, _path(output) or default_output(source), options, classes=_names(classes),
        reading=Reading(weights, image_size), progress=progress,
    )  # fmt: skip
    return OnnxFile(exported.path, _manifest(exported.path), exported.notes)


def quantize(
    onnx: PathLike, images: PathLike | None = None, output: PathLike | None = None, *,
    precision: Literal["fp16", "int8"] = "fp16", max_drop: float | None = None, min_agreement: float | None = None,
    metric: Literal["accuracy", "balanced-accuracy"] = "accuracy", max_logit_diff: float | None = None,
    for_: Literal["auto", "tensorrt", "tensorrt-rtx", "cpu"] = "auto", target: str = "t4", batch: int = 8,
    progress: Progress = SILENT, **options: Any,
) -> OnnxFile:  # fmt: skip
    """Make an FP16 or INT8 graph of a float32 ONNX file, and prove it before it is kept.

    Args:
        onnx: a float32 ONNX file: ours, or any image classifier with one image input.
        images: real images, a data folder (calibrates on train/, judges on val/) or class folders. INT8 needs them;
            FP16 takes ranges from them, or without any goes by the graph's structure.
        output: the file; None for `NAME.fp16.onnx` or `NAME.int8.onnx` beside the float32 one.
        precision: "fp16", or "int8" within a budget: FP16 is the answer where INT8 isn't 5 % faster.
        max_drop: the most that accuracy may drop on held-out images, in percentage points.
        min_agreement: the least share of images that must keep their class, 0 to 1.
        metric: what `max_drop` is measured in.
        max_logit_diff: FP16: the largest difference of a logit; None for 0.05 or 1 % of the largest logit.
        for_: the backend whose kernels the graph is brought to; "auto" chooses as `build_engine` does.
        target: GPU or compute capability ("sm_86") that the engine is for.
        batch: images per call that engines are compared at.
        progress: receives each step, and what is known of blocks on the way.
        **options: more fields of `hemf_export.precision.quantize.Request`: `held_out`, `count`, `judges`, `seed`,
            `method`, `allow_single_class`, `with_sensitivity`, `force`, `reuse`.

    Raises:
        BadInputError: the file or the images.
        CheckFailedError: every graph misses the bound or the budget; no file is kept.

    Examples:
        >>> half = hemf_export.quantize("best.onnx", "data")
        >>> half.precision
        'fp16'
    """
    from hemf_export.calibration.budget import Budget
    from hemf_export.engines import backends, targets
    from hemf_export.files import artifacts
    from hemf_export.precision import quantize as quantization
    from hemf_export.precision.bounds import Bounds
    from hemf_export.precision.trial_engine import Compiler

    gpu = targets.find(target)
    in_int8 = precision == "int8"
    budget = None
    if max_drop is not None or (in_int8 and min_agreement is not None):
        budget = Budget(max_drop, min_agreement if in_int8 else None, metric)
    request = quantization.Request(
        Path(onnx), precision, _path(images), _path(output), budget=budget,
        compiler=Compiler(backends.choose("auto", gpu) if for_ == "auto" else for_, gpu, batch),
        bounds=Bounds(max_logit_diff, None if in_int8 else min_agreement), cache=artifacts.cache_folder(), **options,
    )  # fmt: skip
    quantized = quantization.make(request, progress)
    return OnnxFile(quantized.path, dict(quantized.manifest), quantized.notes)


def build_engine(
    onnx: PathLike, output: PathLike | None = None, *, target: str = "t4",
    backend: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto", batches: Sequence[str] = ("1:8:32",),
    golden: int = 4, images: PathLike | None = None, strict_precision: bool = False, force: bool = False,
    progress: Progress = SILENT, **options: Any,
) -> EngineFile:  # fmt: skip
    """Build a TensorRT engine from an ONNX file that has its precision already, and count the kernels compiled.

    Args:
        onnx: an FP16 or INT8 file of `quantize`, or a float32 file to be built as it is.
        output: the engine; None for `NAME.TARGET.engine` beside the file.
        target: GPU or compute capability, which need not be in this machine.
        backend: "auto" takes TensorRT on a GPU of the target's kind, else TensorRT-RTX, which needs none.
        batches: "MIN:OPT:MAX" batch sizes of each optimization profile.
        golden: images kept beside the engine, to test it with on its target; 0 for none.
        images: folder that the golden images are taken from; None for seeded noise.
        strict_precision: refuse an engine that computes INT8 products of the graph in another type.
        force: replace an engine that was built with other options.
        progress: receives each phase of the build.
        **options: fields of `hemf_export.engines.options.BuildOptions`, such as `workspace_mib`.

    Raises:
        BadInputError: the file, or batches that it doesn't take.
        CheckFailedError: what `strict_precision` refuses.
        MissingCapabilityError: no builder for the target here.

    Examples:
        >>> engine = hemf_export.build_engine("best.fp16.onnx", batches=["1:1:1"])
        >>> engine.path.name
        'best.fp16.t4.engine'
    """
    from hemf_export.engines import targets
    from hemf_export.engines.batches import BatchProfile
    from hemf_export.engines.options import BuildOptions
    from hemf_export.models.model_file import ModelFile
    from hemf_export.models.onnx_file import OnnxFile as StoredOnnx
    from hemf_export.precision import build_engine as building

    file = ModelFile.open(Path(onnx))
    precision: Literal["fp32"] | None = None
    if isinstance(file, StoredOnnx) and file.precision == "fp32":
        precision = "fp32"
    request = building.Request(
        model=file.path, target=targets.find(target), output=_path(output), backend=backend,
        profiles=tuple(BatchProfile.parse(text) for text in batches), options=BuildOptions(**options), golden=golden,
        wanted=building.Wanted(precision, images=_path(images)), strict_precision=strict_precision, force=force,
    )  # fmt: skip
    built = building.make(request, progress)
    return EngineFile(built.engine.path, dict(built.engine.manifest), built.notes, graph=built.graph.path)


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _names(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if classes is None else tuple(classes)


def _manifest(path: Path) -> dict[str, Any]:
    from hemf_export.files import artifacts

    return artifacts.read_manifest(path) or {}
