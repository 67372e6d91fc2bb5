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
from hemf import artifacts, checkpoint, folders, names
from hemf.errors import BadInputError, MissingCapabilityError
from hemf_export import onnx_file, self_test
from hemf_export.description import Description
from hemf_export.discover import CHECKPOINT_SUFFIXES, ENGINE_SUFFIXES
from hemf_export.predictor import BATCH, Prediction, Predictor, softmax
from hemf_export.runners import OnnxRunner, TorchRunner

__all__ = ["BATCH", "Prediction", "Predictor", "load", "softmax"]


def load(path: str | os.PathLike[str], classes: Sequence[str] | None = None, *, for_proof: bool = False) -> Predictor:
    """Read a model: a checkpoint (ours or the authors'), an ONNX file of ours of any precision, or an engine.

    An engine is tried on its golden images first.

    Args:
        path: the file.
        classes: class names, for a checkpoint that has none; for a file that has, they must agree.
        for_proof: as a proof needs it. Float16 in an ONNX file is emulated: a CPU would compute it in float32 and hide
            what it does to the logits. Weights that are not finite are the proof's to find, not refused.

    Raises:
        BadInputError: anything wrong with the file, or of another kind; a manifest beside it that disagrees.
        CheckFailedError: an engine that doesn't compute what its graph does.
        MissingCapabilityError: an engine that can't run here.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise BadInputError(f"No file at {path}.", "A checkpoint, an ONNX file or an engine is needed.")
    if suffix == ".onnx":
        return _onnx(path, classes, emulated=for_proof)
    if suffix in CHECKPOINT_SUFFIXES:
        return _checkpoint(path, classes, finite=not for_proof)
    if suffix in ENGINE_SUFFIXES:
        return _engine(path, classes)
    known = ", ".join((*CHECKPOINT_SUFFIXES, ".onnx", *ENGINE_SUFFIXES))
    hint = f"Known by their names: {known}."
    if suffix in folders.EXTENSIONS:
        hint = "The model's file comes first, then the images."
    raise BadInputError(f"{path} is not a checkpoint, an ONNX file or an engine.", hint)


def _checkpoint(path: Path, classes: Sequence[str] | None, *, finite: bool) -> Predictor:
    saved = checkpoint.load(path, classes=classes)
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
    runner = OnnxRunner(emulation.of_file(proto) if emulated else path, name)
    return Predictor(
        runner.name, described.classes, described.preprocess, described.precision, runner,
        checkpoint_sha256=described.checkpoint_sha256, emulated=emulated, input_type=described.input_type,
        fixed_batch=described.batch, source_size=described.source_size,
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
    )  # fmt: skip


def _require_classes(path: Path, described: Description, classes: Sequence[str] | None) -> None:
    if classes is not None and not names.same(classes, described.classes):
        raise BadInputError(
            f"{path} has the classes {', '.join(described.classes)}, not {', '.join(classes)}.", "Leave out --classes."
        )
