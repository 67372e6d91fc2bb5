"""Parsed ONNX models: the description that ours carry, and the names, types and shapes of inputs and outputs.

Files are parsed with protobuf alone, and checked before a native parser sees them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from hemf_export.files.errors import BadInputError
from hemf_export.models import graph_output
from hemf_export.models.description import Description

KEY = "hemf"  # metadata key of our description


def parse(path: Path) -> onnx.ModelProto:
    """Parse a file; what it describes, and where its weights are, is not checked.

    Raises:
        BadInputError: it can't be read, or is not a whole ONNX file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}.") from error
    damaged = f"{path} is not a whole ONNX file: "
    if not data:
        raise BadInputError(damaged + "it is empty.", "Export it again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise BadInputError(damaged + "it can't be parsed.", "It may be cut short: export it again.") from error
    if not model.graph.node or not model.opset_import:
        raise BadInputError(damaged + "it has no graph.", "Export it again.")
    return model


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Metadata of a model: key → value."""
    return {prop.key: prop.value for prop in model.metadata_props}


def description_of(path: Path, metadata: dict[str, str]) -> Description:
    """Read the description in a file's metadata.

    Raises:
        BadInputError: there is none, or it can't be read.
    """
    if KEY not in metadata:
        raise BadInputError(
            f"{path} has no hemf-export metadata.",
            "Of a checkpoint, `export_onnx(CKPT)` makes such a file; of another's float32 ONNX file, "
            "`quantize(FILE, precision='fp16', images=DATA)`, beside which FILE itself can be run too.",
        )
    try:
        return Description.from_dict(json.loads(metadata[KEY]))
    except BadInputError as error:
        raise BadInputError(f"{path}: its hemf-export metadata: {error.message}", error.hint) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BadInputError(f"{path}: its hemf-export metadata can't be read: {error}.", "Export it again.") from error


def check_signature(path: Path, model: onnx.ModelProto, description: Description) -> None:
    """Raise BadInputError unless a file has one input and one output, as its description says."""
    model_input, batch = description.input, description.batch or "any"
    image = ", ".join(map(str, model_input.shape))
    width = description.output.width(len(description.classes))
    expected = f"{description.input_type} ({batch}, {image})", f"float32 ({batch}, {width})"
    actual = [signature(value) for value in inputs(model.graph)], [signature(value) for value in model.graph.output]
    fits = actual[0] == [expected[0]], _is_row(model.graph.output, width, description.batch)
    for what, wanted, got, fit in zip(("input", "output"), expected, actual, fits, strict=True):
        if not fit:
            raise BadInputError(
                f"{path}: found the {what}s {'; '.join(got) or 'none'}; expected {wanted}.",
                "Export it again with `export_onnx()`.",
            )


def describe(model: ir.Model, description: Description) -> None:
    """Write the description, and class names for other programs, into a model's metadata."""
    model.metadata_props.clear()
    model.metadata_props[KEY] = json.dumps(description.to_dict(), ensure_ascii=False)
    model.metadata_props["classes"] = json.dumps(list(description.classes), ensure_ascii=False)
    model.producer_name = "hemf-export"
    model.producer_version = description.versions.get("hemf-export")


def opset(model: onnx.ModelProto) -> int:
    """Opset version of a file; 0 where it has none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """List the inputs of a graph, without the initializers that old files list among them."""
    weights = {initializer.name for initializer in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def signature(value: onnx.ValueInfoProto) -> str:
    """Type and shape of an input or output, in words."""
    if not value.type.HasField("tensor_type"):
        return f"{value.type.WhichOneof('value') or 'untyped'} (no tensor)"
    tensor = value.type.tensor_type
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    name = "float32" if tensor.elem_type == onnx.TensorProto.FLOAT else names.get(tensor.elem_type, "unknown type")
    if not tensor.HasField("shape"):
        return f"{name} (any shape)"
    return f"{name} ({', '.join('any' if size is None else str(size) for size in sizes(value) or ())})"


def sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """Shape of an input or output, with None for dynamic sizes; None without a shape."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def state_output(model: onnx.ModelProto, actual: tuple[int | None, ...], batch: int | None) -> None:
    """Write the actual shape of the only output into a parsed file, which may not state it, or wrongly.

    Args:
        model: changed in place.
        actual: shape, with None for the batch.
        batch: fixed batch size, or None for any.
    """
    shape = model.graph.output[0].type.tensor_type.shape
    named = [dim.dim_param for dim in shape.dim]
    del shape.dim[:]
    for index, size in enumerate(actual):
        known = batch if size is None else size
        if known is None:
            shape.dim.add(dim_param=(named[index] if index < len(named) else "") or "N")
        else:
            shape.dim.add(dim_value=known)


def _is_row(outputs: Sequence[onnx.ValueInfoProto], width: int, batch: int | None) -> bool:
    """Whether there is one output with `width` numbers per image; there may be axes of size 1."""
    if len(outputs) != 1 or outputs[0].type.tensor_type.elem_type not in graph_output.FLOATS:
        return False
    shape = sizes(outputs[0])
    return shape is not None and graph_output.is_row(shape, width, batch)
