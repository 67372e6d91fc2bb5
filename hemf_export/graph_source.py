"""A float32 ONNX file to calibrate: one of ours, or any image classifier with one image input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from calibration.session import Session
from hemf import artifacts
from hemf.errors import BadInputError
from hemf.images import Preprocess
from hemf_export import graph_output, onnx_file
from hemf_export.description import Description


@dataclass(frozen=True)
class Assumptions:
    """What a file that isn't ours doesn't say.

    Args:
        mean: per channel, of values in 0 … 1.
        std: the same.
        mode: "crop" or "squash"; see `hemf.images.Preprocess`.
        classes: names, in the order of the outputs.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    mode: Literal["crop", "squash"] | None = None
    classes: tuple[str, ...] | None = None


def read(path: Path, assumptions: Assumptions) -> tuple[onnx.ModelProto, Description, tuple[str, ...]]:
    """The parsed file, what it is, and what a user should know of how it was read.

    Raises:
        BadInputError: not an ONNX file, not float32, not one image input and one row of logits out, external data, or
            assumptions about a file that tells itself.
    """
    if path.is_file() and onnx_file.is_ours(path):
        if any(value is not None for value in vars(assumptions).values()):
            raise BadInputError(
                f"{path} says itself how it is preprocessed and what its classes are.",
                "Leave out --mean, --std, --preprocess and --classes.",
            )
        proto, description = onnx_file.read(path)
        if description.precision != "fp32":
            raise BadInputError(f"{path} is {description.precision} already.", "Start from the float32 file.")
        return proto, description, ()
    proto = onnx_file.read_any(path)
    side, batch = _image_input(path, proto)
    session = Session(path)
    found = graph_output.recognize(proto, (3, side, side), batch, lambda images: session.run(images)[0], name=str(path))
    onnx_file.state_output(proto, found.sizes, batch)
    standard = Preprocess.for_size(side, assumptions.mode or "crop")
    mean, std = assumptions.mean or standard.mean, assumptions.std or standard.std
    classes = assumptions.classes or tuple(f"class_{index}" for index in range(found.classes))
    if len(classes) != found.classes:
        what = "two classes of the one output" if found.output.single else f"{found.classes} outputs"
        hint = "Name both, the one that a low number stands for first: --classes a,b."
        raise BadInputError(
            f"{len(classes)} class names for the {what} of {path}.",
            hint if found.output.single else "Name each: --classes a,b,c.",
        )
    notes = [f"{path.name} is not a file of hemf-export: blocks are groups of its nodes.", *found.notes]
    if assumptions.mean is None or assumptions.std is None:
        notes.append(f"It doesn't tell its preprocessing: mean {mean} and std {std} are assumed (--mean, --std).")
    description = Description(
        name=path.stem,
        classes=classes,
        preprocess=Preprocess(side, standard.mode, standard.resize, mean, std),
        precision="fp32",
        input_type="float32",
        batch=batch,
        checkpoint_sha256=artifacts.sha256(path),
        versions=artifacts.versions(),
        output_type=found.output.kind,
    )
    return proto, description, tuple(notes)


def _image_input(path: Path, proto: onnx.ModelProto) -> tuple[int, int | None]:
    """Side of the image in pixels, and the fixed batch or None."""
    weights = {initializer.name for initializer in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    signatures = (
        [onnx_file.signature(value) for value in inputs],
        [onnx_file.signature(value) for value in proto.graph.output],
    )
    problem = BadInputError(
        f"{path}: found the inputs {'; '.join(signatures[0]) or 'none'} and the outputs "
        f"{'; '.join(signatures[1]) or 'none'}; expected one input, float32 (N, 3, S, S), and one output, a row of "
        "numbers an image.",
        "Export it with one image input of a fixed square size, and the output of its classes alone.",
    )
    if len(inputs) != 1 or len(proto.graph.output) != 1 or not signatures[0][0].startswith("float32"):
        raise problem
    image = onnx_file.sizes(inputs[0])
    if image is None or len(image) != 4 or image[1] != 3 or image[2] != image[3] or image[2] is None:
        raise problem
    return image[2], image[0]
