"""A float32 ONNX file to quantize: one of ours, or any image classifier with one image input.

Preparing a graph for quantization changes it: an older opset is lifted, norms are folded, blocks are rewritten for a
backend, shape arithmetic becomes constants. `check_prepared` compares it with its file on a few images, before hours of
calibration. The proof at the end is against the file as well, so a change of meaning can't hide; here it is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.session import Session
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import Layout
from hemf_export.metrics.comparison import compare
from hemf_export.models import discover, graph_output, onnx_model
from hemf_export.models.description import Description, InputType
from hemf_export.models.model_file import ModelFile, OnnxFile

_ONNX = ("", "ai.onnx")  # its own domain
_SHOWN = 3  # operators in a message
CHECK_IMAGES = 4  # that a prepared graph is compared with its file on
# Shares of the scores' variation between images and of the largest score: other float32 summation orders give less.
_OF_SPREAD, _ROUNDING = 5e-3, 1e-5


@dataclass(frozen=True)
class Assumptions:
    """Statements of the user about a file that isn't ours; None for the default.

    Args:
        mean: mean per channel, of values in 0 … 1.
        std: standard deviation per channel, of values in 0 … 1.
        mode: "crop" or "squash"; see `images.images.Preprocess`.
        classes: class names, in the order of the outputs.
        gives: whether the output is logits or probabilities, where its operators don't tell.
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
    """A parsed float32 file.

    Args:
        file: the file, which is the reference for all graphs made from it.
        proto: its content, with external weights loaded.
        notes: remarks for the user on how it was read.
    """

    file: OnnxFile
    proto: onnx.ModelProto
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> Description:
        """Description in the file, or the assumed one."""
        return self.file.description

    @property
    def sha256(self) -> str:
        """Hash of the file and its external weights."""
        return self.file.content_sha256

    def session(self) -> Session:
        """Load the file itself, unchanged, in ONNX Runtime.

        Raises:
            BadInputError: ONNX Runtime can't load it.
        """
        return Session(self.file.path, stream=True, output=self.file.description.output)


@dataclass(frozen=True)
class PreparationCheck:
    """Comparison of a prepared graph with the file that it was read from.

    Args:
        images: number of images.
        max_logit_difference: largest absolute difference of a score.
        notes: remarks for the user.
    """

    images: int
    max_logit_difference: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {"images": self.images, "max_logit_difference": self.max_logit_difference}


@dataclass(frozen=True)
class _Taken:
    """Input of a file that isn't ours.

    Args:
        image: its shape for one image, (3, S, S) or (S, S, 3).
        batch: fixed batch size; None for any.
        raw: whether it takes pixels, uint8.
    """

    image: tuple[int, int, int]
    batch: int | None
    raw: bool

    @property
    def side(self) -> int:
        """Side of the image in pixels."""
        return self.image[1]

    @property
    def layout(self) -> Layout | None:
        """Order of the axes, where it isn't that of the type."""
        channels_last = self.image[0] != 3
        return None if channels_last == self.raw else "NHWC" if channels_last else "NCHW"


def read(path: Path, assumptions: Assumptions | None = None) -> Source:
    """Parse a float32 file, ours or not.

    Args:
        path: the file.
        assumptions: what the user states about a file that isn't ours; None for the defaults.

    Raises:
        BadInputError: not an ONNX file, not float32, not one image input and one row of scores, external weights that
            are refused, or assumptions about a file of ours, which has a description.
    """
    assumptions = assumptions or Assumptions()
    file = OnnxFile.open(path)
    if file.is_ours:
        if any(value is not None for value in vars(assumptions).values()):
            raise BadInputError(
                f"{path} records its own preprocessing and classes.",
                "Leave out `mean`, `std`, `mode` and `classes`.",
            )
        proto = file.read()
        if file.description.precision != "fp32":
            raise BadInputError(f"{path} is {file.description.precision} already.", "Start from the float32 file.")
        return Source(file, proto)
    proto = file.read()
    taken = _image_input(path, proto)
    if taken.raw and (assumptions.mean is not None or assumptions.std is not None):
        raise BadInputError(
            f"{path} takes pixels as they are, uint8: what it does with them is inside it.",
            "Leave out `mean` and `std`.",
        )
    batch, session = taken.batch, Session(path)
    recognized = graph_output.recognize(
        proto, taken.image, batch, lambda images: session.run(images)[0], name=str(path), given=assumptions.gives,
        raw=taken.raw,
    )  # fmt: skip
    onnx_model.state_output(proto, recognized.sizes, batch)
    standard = Preprocess.for_size(taken.side, assumptions.mode or "crop")
    mean, std = assumptions.mean or standard.mean, assumptions.std or standard.std
    if taken.raw:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    classes = assumptions.classes or tuple(f"class_{index}" for index in range(recognized.classes))
    if len(classes) != recognized.classes:
        what = "two classes of the one output" if recognized.output.single else f"{recognized.classes} outputs"
        hint = "Name both, the one that a low number stands for first: `classes=(a, b)`."
        raise BadInputError(
            f"{len(classes)} class names for the {what} of {path}.",
            hint if recognized.output.single else "Name each: `classes=(a, b, c)`.",
        )
    notes = [f"{path.name} is not a file of hemf-export: blocks are groups of its nodes.", *recognized.notes]
    if not taken.raw and (assumptions.mean is None or assumptions.std is None):
        notes.append(f"It doesn't state its preprocessing: mean {mean} and std {std} are assumed (`mean`, `std`).")
    if foreign := sorted({f"{node.domain}:{node.op_type}" for node in proto.graph.node if node.domain not in _ONNX}):
        notes.append(
            f"{', '.join(foreign[:_SHOWN])} are not operators of ONNX but of one runtime: they stay in float32, and "
            "TensorRT takes none of them. Take the file that this one was optimized from."
        )
    description = Description(
        name=path.stem,
        classes=classes,
        preprocess=Preprocess(taken.side, standard.mode, standard.resize, mean, std),
        precision="fp32",
        input_type="uint8" if taken.raw else "float32",
        batch=batch,
        checkpoint_sha256=file.content_sha256,
        versions=artifacts.versions(),
        output_type=recognized.output.kind,
        layout=taken.layout,
    )
    return Source(file.assuming(description), proto, tuple(notes))


def read_origin(path: Path, derived: Sequence[Description]) -> Source:
    """Parse the float32 file that files of ours were made from; see `origin`.

    Raises:
        BadInputError: see `read` and `origin`.
    """
    file = OnnxFile.open(path)
    if file.is_ours:
        return read(path)
    file = origin(file, derived)
    return Source(file, file.read())


def origin(file: OnnxFile, derived: Sequence[Description]) -> OnnxFile:
    """Describe a float32 file that isn't ours by the files that were made from it.

    Args:
        file: an ONNX file that isn't ours.
        derived: descriptions of files of ours, which give classes and preprocessing.

    Raises:
        BadInputError: none of them was made from it.
    """
    own = next((description for description in derived if description.checkpoint_sha256 == file.content_sha256), None)
    if own is None:
        raise BadInputError(
            f"{file.path} is not a file of hemf-export, and none of the files beside it was made from it.",
            f"Make one: `quantize({str(file.path)!r}, precision='fp16', images=DATA)`.",
        )
    return file.assuming(dataclasses.replace(own, precision="fp32"))


def known_beside(file: ModelFile) -> ModelFile:
    """Describe a float32 ONNX file that isn't ours by a file in its folder that was made from it.

    Any other file is returned as it is.

    Raises:
        BadInputError: several were made from it, with other classes or preprocessing.
    """
    if not isinstance(file, OnnxFile) or file.is_ours:
        return file
    beside = discover.onnx_files(file.path.parent)
    made = [each for each in beside if each.description.checkpoint_sha256 == file.content_sha256]
    if not made:
        return file  # what asks for its description says what is missing
    first = made[0].description
    for other in made[1:]:
        if (other.description.classes, other.description.preprocess) != (first.classes, first.preprocess):
            raise BadInputError(
                f"{made[0].name} and {other.name} were made from {file.path} with other classes or preprocessing.",
                "Move one of them to another folder.",
            )
    return origin(file, [first])


def check_prepared(
    model: ir.Model, original: Session, batches: Sequence[NDArray[np.generic]], *, alone: bool
) -> PreparationCheck:
    """Compare a prepared graph with its file, and the file with itself at another batch size.

    Args:
        model: the prepared float32 graph.
        original: the file itself.
        batches: network input of a few images.
        alone: whether the file takes any batch size, and so each image alone.

    Raises:
        BadInputError: the graph computes something else than the file, or the file isn't deterministic or finite.
    """
    reference = _logits(original, batches)
    count, noun = len(reference), original.output.noun
    if not np.isfinite(reference).all():
        raise BadInputError(f"{original.name} itself gives logits that are not finite on {count} images.")
    allowed = _rounding(reference)
    difference = _largest_difference(_logits(original, batches), reference)
    if not difference <= allowed:
        raise BadInputError(
            f"{original.name} gives different {noun}s in each run: one differs by {difference:.3g} on the same images.",
            "It has an operator that draws random numbers: export the model after model.eval().",
        )
    largest = _largest_difference(_logits(Session(model, output=original.output), batches), reference)
    if not largest <= allowed:
        raise BadInputError(
            f"{original.name}, brought to the opset and form that FP16 and INT8 need, is another model: "
            f"a {noun} differs by {largest:.3g} on {count} images.",
            "An operator of it has another meaning in newer opsets: export the model again with opset 19 or newer.",
        )
    if not (alone and original.any_batch):
        return PreparationCheck(count, largest)
    singles = [batch[place : place + 1] for batch in batches for place in range(len(batch))]
    difference = _largest_difference(_logits(original, singles), reference)
    if difference <= allowed:
        return PreparationCheck(count, largest)
    note = (
        f"{original.name} gives other logits for an image alone than in a batch of {count} (up to "
        f"{difference:.3g}): it was traced with a fixed batch. What is proven here is a batch of 4."
    )
    return PreparationCheck(count, largest, (note,))


def _logits(session: Session, batches: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
    return np.concatenate([session.logits(batch) for batch in batches])


def _rounding(reference: NDArray[np.float32]) -> float:
    """Largest difference from the reference's scores that float32 rounding explains.

    It is relative to how much the scores vary between images, which may be little beside the scores themselves.
    """
    exact = reference.astype(np.float64)
    spread = float(np.abs(exact - exact.mean(0)).max())
    return max(_OF_SPREAD * spread, _ROUNDING * float(np.abs(exact).max()))


def _largest_difference(candidate: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    return compare(candidate, reference).logit_difference.max


def _image_input(path: Path, proto: onnx.ModelProto) -> _Taken:
    """Read the input from the file's signature.

    Raises:
        BadInputError: not one image input and one output.
    """
    inputs = onnx_model.inputs(proto.graph)
    signatures = (
        [onnx_model.signature(value) for value in inputs],
        [onnx_model.signature(value) for value in proto.graph.output],
    )
    problem = BadInputError(
        f"{path}: found the inputs {'; '.join(signatures[0]) or 'none'} and the outputs "
        f"{'; '.join(signatures[1]) or 'none'}; expected one input, (N, 3, S, S) or (N, S, S, 3), float32 or uint8, "
        "and one output, a row of numbers an image.",
        "Export it with one image input of a fixed square size, and the output of its classes alone.",
    )
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise problem
    kind = signatures[0][0].partition(" ")[0]
    if kind not in get_args(InputType):
        raise problem
    sizes = inputs[0].type.tensor_type.shape.dim
    if len(sizes) and sizes[0].HasField("dim_value") and sizes[0].dim_value == 0:
        raise BadInputError(f"{path}: the batch of its input is 0.", "Export it with a batch that is named, or of 1.")
    image = onnx_model.sizes(inputs[0])
    if image is None or len(image) != 4:
        raise problem
    batch, first, side, last = image
    if side is None or {(first, side, last)}.isdisjoint({(3, side, side), (side, side, 3)}):
        raise problem
    return _Taken((3, side, side) if first == 3 else (side, side, 3), batch, kind == "uint8")
