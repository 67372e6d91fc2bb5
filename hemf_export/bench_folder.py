"""What `bench` compares: the files named, or what lies in the folder, with the checkpoint they are from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hemf import artifacts, checkpoint
from hemf.errors import BadInputError
from hemf.images import Preprocess
from hemf_export import discover, fp16, onnx_export, onnx_file
from hemf_export.bench import Contender
from hemf_export.onnx_file import Description, Precision
from hemf_export.runners import OnnxRunner, TorchRunner

# What logits may differ by from float32's, given the largest of those. Of INT8 this only tells a file of the same model
# from another: how good it is, its manifest says, and it was kept for that.
_TOLERANCES: dict[Precision, Callable[[float], float]] = {
    "fp32": lambda _: onnx_export.TOLERANCE,
    "fp16": fp16.Bounds().logit_bound,
    "int8": lambda largest: max(0.5, 0.5 * largest),
    "int8-cpu": lambda largest: max(0.5, 0.5 * largest),
}


@dataclass(frozen=True)
class Field:
    """Everything that takes part, the reference first.

    Args:
        contenders: in the order of the report.
        preprocess: theirs, the same for all.
        batch: the fixed batch of their files, or None.
        checkpoint_sha256: what all were made from.
        notes: what a user should know.
    """

    contenders: tuple[Contender, ...]
    preprocess: Preprocess
    batch: int | None
    checkpoint_sha256: str
    notes: tuple[str, ...]


def gather(files: tuple[Path, ...], folder: Path, *, threads: int) -> Field:
    """Read what is to be compared.

    Args:
        files: ONNX files and a checkpoint; empty for what lies in `folder`.
        folder: looked through for the files, and for the checkpoint by its hash.
        threads: for each runner.

    Raises:
        BadInputError: nothing to compare, or files of different models.
    """
    graphs = (
        [path for path in files if path.suffix == ".onnx"] if files else [p for p, _ in discover.onnx_files(folder)]
    )
    checkpoints = [path for path in files if path.suffix != ".onnx"]
    if not graphs and not checkpoints:
        raise BadInputError(
            f"No ONNX file of ours lies in {folder.resolve()}.", "Make one: hemf-export onnx CKPT, or name files."
        )
    described = [(path, _describe(path)) for path in graphs]
    hashes = {description.checkpoint_sha256 for _, description in described}
    hashes |= {artifacts.sha256(path) for path in checkpoints if path.is_file()}
    if len(hashes) > 1 or len(checkpoints) > 1:
        names = ", ".join(path.name for path in (*checkpoints, *graphs))
        raise BadInputError(
            f"These are made from {len(hashes)} different checkpoints: {names}.", "Name files of one model."
        )
    notes: list[str] = []
    if not checkpoints:
        near = {folder, *(path.parent for path in graphs)}
        found = [path for place in sorted(near) if (path := discover.checkpoint_of(place, next(iter(hashes))))]
        checkpoints = found[:1]
    if not checkpoints:
        notes.append("The checkpoint these files were made from is not here: PyTorch is not timed.")
    contenders, preprocess = [], None
    if checkpoints:
        saved = checkpoint.load(checkpoints[0])
        preprocess = saved.preprocess
        contenders.append(
            Contender(
                TorchRunner(saved.model(), f"PyTorch, {checkpoints[0].name}"), preprocess.normalize, lambda _: 0.0
            )
        )
    for path, description in sorted(described, key=lambda item: item[1].precision != "fp32"):
        contenders.append(_contender(path, description, threads))
        preprocess = description.preprocess
    if any(description.precision in ("fp16", "int8") for _, description in described):
        notes.append("float16 is emulated on this CPU: the latency of FP16 and INT8 here says nothing about a GPU.")
    batches = {description.batch for _, description in described} - {None}
    if len(batches) > 1:
        raise BadInputError(
            f"The files have different fixed batches: {', '.join(map(str, sorted(filter(None, batches))))}."
        )
    assert preprocess is not None
    return Field(tuple(contenders), preprocess, next(iter(batches), None), next(iter(hashes)), tuple(notes))


def _describe(path: Path) -> Description:
    return onnx_file.read(path)[1]


def _contender(path: Path, description: Description, threads: int) -> Contender:
    runner = OnnxRunner(path, f"ONNX Runtime, {path.name}", threads=threads)
    raw = description.input_type == "uint8"
    tolerance = _TOLERANCES[description.precision]
    return Contender(runner, (lambda pixels: pixels) if raw else description.preprocess.normalize, tolerance)
