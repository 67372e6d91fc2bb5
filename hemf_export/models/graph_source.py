"""A float32 ONNX file to calibrate: one of ours, or any image classifier with one image input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from hemf_export.calibration.session import Session
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.images import Preprocess
from hemf_export.models import graph_output, onnx_file
from hemf_export.models.description import Description
from hemf_export.models.onnx_file import OnnxFile

_ONNX = ("", "ai.onnx")  # its own domain
_SHOWN = 3  # operators in a message


@dataclass(frozen=True)
class Assumptions:
    """What a file that isn't ours doesn't say.

    Args:
        mean: per channel, of values in 0 … 1.
        std: the same.
        mode: "crop" or "squash"; see `images.images.Preprocess`.
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
        file: run as it lies there, it is the reference of what is made from it. Its description is what it says of
            itself, or what is assumed of it.
        proto: its content, weights in other files included.
        notes: what a user should know of how it was read.
    """

    file: OnnxFile
    proto: onnx.ModelProto
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> Description:
        """What the file says of itself, or what is assumed of it."""
        return self.file.description

    @property
    def sha256(self) -> str:
        """Hash of the file and its weights."""
        return self.file.content_sha256

    def session(self) -> Session:
        """The file itself in ONNX Runtime, nothing of it changed.

        Raises:
            BadInputError: ONNX Runtime doesn't take it.
        """
        return Session(self.file.path, stream=True, output=self.file.output)


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
    file = OnnxFile.open(path)
    if file.is_ours:
        if any(value is not None for value in vars(assumptions).values()):
            raise BadInputError(
                f"{path} says itself how it is preprocessed and what its classes are.",
                "Leave out `mean`, `std`, `mode` and `classes`.",
            )
        proto = file.read()
        if file.precision != "fp32":
            raise BadInputError(f"{path} is {file.precision} already.", "Start from the float32 file.")
        return Source(file, proto)
    proto = file.read()
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
        hint = "Name both, the one that a low number stands for first: `classes=(a, b)`."
        raise BadInputError(
            f"{len(classes)} class names for the {what} of {path}.",
            hint if found.output.single else "Name each: `classes=(a, b, c)`.",
        )
    notes = [f"{path.name} is not a file of hemf-export: blocks are groups of its nodes.", *found.notes]
    if assumptions.mean is None or assumptions.std is None:
        notes.append(f"It doesn't tell its preprocessing: mean {mean} and std {std} are assumed (`mean`, `std`).")
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
        checkpoint_sha256=file.content_sha256,
        versions=artifacts.versions(),
        output_type=found.output.kind,
    )
    return Source(file.assuming(description), proto, tuple(notes))


def read_origin(path: Path, made: Sequence[Description]) -> Source:
    """Parse the float32 file that files of ours were made from; see `origin`.

    Raises:
        BadInputError: see `read`; another's file that none of them was made from.
    """
    file = OnnxFile.open(path)
    if file.is_ours:
        return read(path)
    file = origin(file, made)
    return Source(file, file.read())


def origin(file: OnnxFile, made: Sequence[Description]) -> OnnxFile:
    """Describe another's float32 file by the files that were made from it.

    Args:
        file: that isn't ours.
        made: what files of ours say of themselves: classes and preprocessing are theirs.

    Raises:
        BadInputError: none of them was made from it.
    """
    own = next((description for description in made if description.checkpoint_sha256 == file.content_sha256), None)
    if own is None:
        raise BadInputError(
            f"{file.path} is not a file of hemf-export, and none of the files beside it was made from it.",
            f"Make one: `quantize({str(file.path)!r}, precision='fp16', images=DATA)`.",
        )
    return file.assuming(dataclasses.replace(own, precision="fp32"))


def _image_input(path: Path, proto: onnx.ModelProto) -> tuple[int, int | None]:
    """Side of the image in pixels, and the fixed batch or None."""
    inputs = onnx_file.inputs(proto.graph)
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
