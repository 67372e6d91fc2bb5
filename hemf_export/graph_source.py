"""A float32 ONNX file to calibrate: one of ours, or any image classifier with one image input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from calibration.session import Session
from hemf import artifacts
from hemf.errors import BadInputError, UsageError
from hemf.images import Preprocess
from hemf_export import graph_output, onnx_file
from hemf_export.description import Description

_ONNX = ("", "ai.onnx")  # its own domain
_SHOWN = 3  # operators in a message


@dataclass(frozen=True)
class Assumptions:
    """What a file that isn't ours doesn't say.

    Args:
        mean: per channel, of values in 0 … 1.
        std: the same.
        mode: "crop" or "squash"; see `hemf.images.Preprocess`.
        classes: names, in the order of the outputs.
        gives: what its output's numbers are, where its operators don't tell.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    mode: Literal["crop", "squash"] | None = None
    classes: tuple[str, ...] | None = None
    gives: graph_output.Given | None = None

    def __post_init__(self) -> None:
        beyond = [
            f"{name} {','.join(f'{value / 255:.4g}' for value in values)} instead of "
            f"{','.join(f'{value:g}' for value in values)}"
            for name, values in (("mean", self.mean), ("std", self.std))
            if values is not None and max(values) > 1
        ]
        if beyond:
            raise UsageError(
                "The mean and the standard deviation are of values between 0 and 1: pixels are divided by 255 first.",
                f"For a network that takes 0 to 255, divide both by 255: {'; '.join(beyond)}.",
            )


@dataclass(frozen=True)
class Source:
    """A float32 file, parsed.

    Args:
        path: of the file: run as it lies there, it is the reference of what is made from it.
        proto: its content, weights in other files included.
        description: what it says of itself, or what is assumed of it.
        sha256: of the file and its weights.
        notes: what a user should know of how it was read.
    """

    path: Path
    proto: onnx.ModelProto
    description: Description
    sha256: str
    notes: tuple[str, ...] = ()

    def session(self) -> Session:
        """The file itself in ONNX Runtime, nothing of it changed.

        Raises:
            BadInputError: ONNX Runtime doesn't take it.
        """
        return Session(self.path, stream=True, output=self.description.output)


def read(path: Path, assumptions: Assumptions | None = None) -> Source:
    """Parse a float32 file, ours or not.

    Args:
        path: of the file.
        assumptions: about a file that isn't ours; None for the defaults.

    Raises:
        BadInputError: not an ONNX file, not float32, not one image input and one row of logits out, weights that are
            not contained, or assumptions about a file that tells itself.
    """
    assumptions = assumptions or Assumptions()
    if path.is_file() and onnx_file.is_ours(path):
        if any(value is not None for value in vars(assumptions).values()):
            raise BadInputError(
                f"{path} says itself how it is preprocessed and what its classes are.",
                "Leave out --mean, --std, --preprocess and --classes.",
            )
        proto, description = onnx_file.read(path)
        if description.precision != "fp32":
            raise BadInputError(f"{path} is {description.precision} already.", "Start from the float32 file.")
        return Source(path, proto, description, artifacts.sha256(path))
    proto = onnx_file.read_any(path)
    sha256 = onnx_file.sha256(path)
    side, batch = _image_input(path, proto)
    session = Session(path)
    found = graph_output.recognize(
        proto, (3, side, side), batch, lambda images: session.run(images)[0], name=str(path), given=assumptions.gives
    )
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
    if foreign := sorted({f"{node.domain}:{node.op_type}" for node in proto.graph.node if node.domain not in _ONNX}):
        notes.append(
            f"{', '.join(foreign[:_SHOWN])} are not operators of ONNX but of one runtime: they stay in float32, and "
            "TensorRT takes none of them. Take the file that this one was optimized from."
        )
    description = Description(
        name=path.stem,
        classes=classes,
        preprocess=Preprocess(side, standard.mode, standard.resize, mean, std),
        precision="fp32",
        input_type="float32",
        batch=batch,
        checkpoint_sha256=sha256,
        versions=artifacts.versions(),
        output_type=found.output.kind,
    )
    return Source(path, proto, description, sha256, tuple(notes))


def read_origin(path: Path, made: Sequence[Description]) -> Source:
    """Parse the float32 file that files of ours were made from; what it doesn't say itself, they do.

    Args:
        path: of the file: one of ours, or another's.
        made: what the files say of themselves.

    Raises:
        BadInputError: see `read`; another's file that none of them was made from.
    """
    if not path.is_file() or onnx_file.is_ours(path):
        return read(path)
    sha256 = onnx_file.sha256(path)
    own = next((description for description in made if description.checkpoint_sha256 == sha256), None)
    if own is None:
        raise BadInputError(
            f"{path} is not a file of hemf-export, and none of the files beside it was made from it.",
            f"Make one: hemf-export calibrate {path} --precision fp16 --images DATA.",
        )
    described = dataclasses.replace(own, precision="fp32")
    return Source(path, onnx_file.read_any(path), described, sha256)


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
    sizes = inputs[0].type.tensor_type.shape.dim
    if len(sizes) and sizes[0].HasField("dim_value") and sizes[0].dim_value == 0:
        raise BadInputError(f"{path}: the batch of its input is 0.", "Export it with a batch that is named, or of 1.")
    image = onnx_file.sizes(inputs[0])
    if image is None or len(image) != 4 or image[1] != 3 or image[2] != image[3] or image[2] is None:
        raise problem
    return image[2], image[0]
