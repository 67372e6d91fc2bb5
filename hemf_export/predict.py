"""Images → classes and probabilities, with a checkpoint, one of our ONNX files, or an engine.

    from hemf_export import predict
    model = predict.load("run/best.onnx")
    print(model.predict(["a.png"]))

How a file computes its logits is its runner's business; how images become its input, its description says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import engines
from calibration import emulation
from hemf import artifacts, checkpoint, names
from hemf.errors import BadInputError, MissingCapabilityError
from hemf.reading import PLAIN, Reading
from hemf_export import graph_source, model_kind, onnx_file, self_test
from hemf_export.description import Description
from hemf_export.predictor import BATCH, Prediction, Predictor, softmax
from hemf_export.runners import OnnxRunner, TorchRunner

__all__ = ["BATCH", "Prediction", "Predictor", "load", "softmax"]


def load(
    path: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    reading: Reading = PLAIN,
    for_proof: bool = False,
) -> Predictor:
    """Read a model: a checkpoint (ours or another trainer's), an ONNX file of ours of any precision, or an engine.

    An engine is tried on its golden images first.

    Args:
        path: the file.
        classes: class names, for a checkpoint that has none; for a file that has, they must agree.
        reading: how a checkpoint is read; of other files the image size must agree, and there is one set of weights.
        for_proof: as a proof needs it. Float16 in an ONNX file is emulated: a CPU would compute it in float32 and hide
            what it does to the logits. Weights that are not finite are the proof's to find, not refused.

    Raises:
        BadInputError: anything wrong with the file, or of another kind; a manifest beside it that disagrees.
        CheckFailedError: an engine that doesn't compute what its graph does.
        MissingCapabilityError: an engine that can't run here.
    """
    path = Path(path)
    kind = model_kind.kind_of(path)
    if kind == "checkpoint":
        return _checkpoint(path, classes, reading, finite=not for_proof)
    model = _onnx(path, classes, emulated=for_proof) if kind == "onnx" else _engine(path, classes)
    _require_reading(path, model, reading)
    return model


def load_origin(path: Path, made: Sequence[Description]) -> Predictor:
    """Another's float32 ONNX file, run as it lies there, to compare files of ours with that were made from it.

    Args:
        path: the file.
        made: what the files say of themselves: classes and preprocessing are theirs.

    Raises:
        BadInputError: none of them was made from it, or ONNX Runtime doesn't take it.
    """
    source = graph_source.read_origin(path, made)
    described = source.description
    runner = OnnxRunner(path, f"ONNX Runtime, {path.name}", output=described.output)
    return Predictor(
        runner.name, described.classes, described.preprocess, described.precision, runner,
        checkpoint_sha256=described.checkpoint_sha256, fixed_batch=described.batch, output_type=described.output_type,
    )  # fmt: skip


def _checkpoint(path: Path, classes: Sequence[str] | None, reading: Reading, *, finite: bool) -> Predictor:
    saved = checkpoint.load(path, classes=classes, reading=reading)
    if finite:
        saved.check_finite()
    runner = TorchRunner(saved.model(), f"PyTorch, {path.name}")
    return Predictor(
        runner.name, saved.classes, saved.preprocess, "fp32", runner, checkpoint_sha256=saved.sha256, notes=saved.notes
    )


def _onnx(path: Path, classes: Sequence[str] | None, *, emulated: bool) -> Predictor:
    proto, described = onnx_file.read(path)
    _require_classes(path, described, classes)
    emulated = emulated and described.precision in ("fp16", "int8")
    name = f"ONNX Runtime, {path.name}" + ", float16 emulated" * emulated
    runner = OnnxRunner(emulation.of_file(proto) if emulated else path, name, output=described.output)
    return Predictor(
        runner.name, described.classes, described.preprocess, described.precision, runner,
        checkpoint_sha256=described.checkpoint_sha256, emulated=emulated, input_type=described.input_type,
        fixed_batch=described.batch, source_size=described.source_size, output_type=described.output_type,
    )  # fmt: skip


def _engine(path: Path, classes: Sequence[str] | None) -> Predictor:
    if not artifacts.manifest_path(path).is_file():
        raise BadInputError(
            f"{path} has no manifest: nothing tells its classes and preprocessing.",
            "Take the manifest along with it, or build it again: hemf-export trt.",
        )
    try:
        runner = engines.load(path)
    except MissingCapabilityError as error:
        raise MissingCapabilityError(
            error.message, f"{error.hint or ''} The ONNX file that it was built from runs on a CPU.".strip()
        ) from error
    described = Description.from_manifest(path, runner.manifest)
    _require_classes(path, described, classes)
    tried = self_test.of(runner, path)
    notes = () if tried else (f"{path.name} has no golden images: nothing shows that it computes what its graph does.",)
    sizes = runner.interface
    return Predictor(
        runner.name, described.classes, described.preprocess, described.precision, runner,
        checkpoint_sha256=described.checkpoint_sha256, input_type=described.input_type,
        fixed_batch=sizes.smallest if sizes.smallest == sizes.largest else None,
        filled=sizes.filled, notes=(*notes, *runner.notes), source_size=described.source_size,
        output_type=described.output_type,
    )  # fmt: skip


def _require_classes(path: Path, described: Description, classes: Sequence[str] | None) -> None:
    if classes is not None and not names.same(classes, described.classes):
        raise BadInputError(
            f"{path} has the classes {', '.join(described.classes)}, not {', '.join(classes)}.", "Leave out --classes."
        )


def _require_reading(path: Path, model: Predictor, reading: Reading) -> None:
    """Raise BadInputError where a file that isn't a checkpoint is asked for other weights or images than its own."""
    if reading.weights is not None:
        raise BadInputError(f"{path} has one set of weights.", "--weights is for a checkpoint: leave it out.")
    if reading.image_size not in (None, model.preprocess.size):
        raise BadInputError(
            f"{path} takes images of {model.preprocess.size} pixels, not {reading.image_size}.",
            "Leave out --image-size.",
        )
