"""Prepare float32 graphs for calibration: constants as initializers, norms folded, every node named, every value with
its type and shape.

Accepts any image classifier with one input, not only ours. Static inference stops at operators that it doesn't know
(ONNX Runtime's own domain) and at padding that the graph computes from its input's shape. The missing shapes are
observed in ONNX Runtime at several batch sizes; shape arithmetic is folded into constants.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript.rewriter import RewriteRuleSet, rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from hemf_export.calibration.session import Session
from hemf_export.files.errors import BadInputError

_IR_VERSION = 9  # of the files that have opset 19; those of 3 list weights as inputs
MIN_OPSET = 19  # the first whose QuantizeLinear takes float16
_RESIZE_COORDINATES = 11  # the first opset whose Resize has a coordinate_transformation_mode
_SOFTMAX_ONE_AXIS = 13  # the first whose Softmax, LogSoftmax and Hardmax run over one axis
_QUANTIZED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
    *("QAttention", "QGemm", "QMoE", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4"),
)
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_BATCHES = (1, 2, 3, 5)  # batch sizes of shape arithmetic: what is equal at all of them doesn't depend on the batch
_LARGE = 1 << 20  # elements above which a constant isn't folded, unless a weight is as large: Expand can create them
_SHAPES = ("Shape", "Size")
# Operators that move pixels, of their first input, and compute nothing.
_PIXEL_MOVES = (
    *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Concat", "Identity"),
    *("Expand", "Tile"),
)
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
Shape = tuple[int, ...]
IMAGE_SHAPE = "image_shape"  # key in a value's `meta`: its shape for one image, observed in a run


def prepare(proto: onnx.ModelProto) -> ir.Model:
    """Read the graph of a parsed float32 file and prepare it for recording, conversion and quantization.

    An older opset is converted to 19 by onnx's version converter, whose errors with Resize and Hardmax are corrected
    here; BatchNorms are folded into the convolutions and products before them, by onnxscript's rules. The caller must
    prove that the result computes the same as the file.

    Raises:
        BadInputError: not one input and one output, subgraphs, no float32 weights, or an opset that can't be lifted.
    """
    _refuse_training_mode(proto)
    model = parse(_lifted(proto))
    model.ir_version = max(model.ir_version, _IR_VERSION)
    _check_version(model)
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    _free_batch(model.graph)
    fold_batch_norms(model)
    common.IdentityEliminationPass()(model)
    _convert_pixels_first(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.NameFixPass()(model)
    for index, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{index}"
    _check(model)
    complete(model)
    return model


def fold_batch_norms(model: ir.Model) -> None:
    """Fold BatchNormalizations into the Convs and Gemms that alone feed them, in place, by onnxscript's rules."""
    with _errors_only():
        rules = fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule
        rewrite(model, RewriteRuleSet(list(rules)))


def parse(proto: onnx.ModelProto) -> ir.Model:
    """Read the graph of a parsed file unchanged.

    Raises:
        BadInputError: the graph is invalid: duplicate names, inputs that nothing computes …
    """
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:  # a SerdeError around onnx-ir's own error
        cause = error.__cause__ or error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise BadInputError(f"The graph is not valid: {' '.join(str(cause).split())}", "Export it again.") from error


def _refuse_training_mode(proto: onnx.ModelProto) -> None:
    """Refuse norms that use batch statistics: an image's logits would depend on the rest of its batch.

    Raises:
        BadInputError: a BatchNormalization that was exported in training mode.
    """
    for node in proto.graph.node:
        training = any(entry.name == "training_mode" and entry.i for entry in node.attribute)
        if node.op_type == "BatchNormalization" and (training or len([name for name in node.output if name]) > 1):
            raise BadInputError(
                f"Node {node.name or node.output[0]} (BatchNormalization) is in training mode: it norms by the batch.",
                "Export the model after model.eval().",
            )


def _free_batch(graph: ir.Graph) -> None:
    """Replace a batch of -1, which some exporters write for a dynamic one, by a name, as ONNX requires."""
    for value in graph.inputs:
        if value.shape is not None and len(value.shape) and isinstance(size := value.shape[0], int) and size < 0:
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def _convert_pixels_first(graph: ir.Graph) -> None:
    """Convert a uint8 input to float32 before its values are moved, as TensorRT moves no uint8 values.

    Nothing is done where another operator than a move or that conversion reads the pixels.
    """
    for pixels in [value for value in graph.inputs if value.dtype == ir.DataType.UINT8]:
        moved, moves, casts = [pixels], list[ir.Node](), list[ir.Node]()
        for value in moved:
            for node, place in value.uses():
                if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
                    casts.append(node)
                elif node.op_type in _PIXEL_MOVES and (place == 0 or node.op_type == "Concat") and node not in moves:
                    moves.append(node)
                    moved.extend(node.outputs)
                elif node not in moves and node.op_type not in _SHAPES:
                    return
        first = next((node for node in graph if node in moves), None)
        read = {value for node in moves for value in node.inputs if node.op_type == "Concat"}
        if first is None or not read <= set(moved) or any(value.is_graph_output() for value in moved):
            continue
        readers = tuple(pixels.uses())
        cast = ir.node("Cast", [pixels], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name, cast.outputs[0].type = f"{pixels.name}_float32", ir.TensorType(ir.DataType.FLOAT)
        cast.outputs[0].shape = pixels.shape
        for node, place in readers:
            node.replace_input_with(place, cast.outputs[0])
        graph.insert_before(next(iter(graph)), cast)
        for value in moved[1:]:
            value.type = ir.TensorType(ir.DataType.FLOAT)
        for node in casts:
            (source,) = node.inputs
            assert source is not None
            if node.outputs[0].is_graph_output():
                continue
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            graph.remove(node, safe=True)


def copy_of(model: ir.Model) -> ir.Model:
    """Return a copy whose types can be changed without changing the model's; tensors are shared."""
    copy = model.clone()
    computed = [value for node in copy.graph for value in node.outputs]
    for value in (*copy.graph.inputs, *copy.graph.initializers.values(), *computed):
        if value.dtype is not None:
            value.type = ir.TensorType(value.dtype)
    return copy


def _lifted(proto: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= MIN_OPSET or opset == 0:
        return proto
    try:
        lifted: onnx.ModelProto = onnx.version_converter.convert_version(proto, MIN_OPSET)
    except Exception as error:  # the converter raises RuntimeError and others where it can't convert
        reason = str(error).strip().splitlines()[0]
        raise BadInputError(
            f"The graph's opset {opset} can't be lifted to {MIN_OPSET}, which FP16 and INT8 need: {reason}",
            f"Export it again with opset {MIN_OPSET} or newer.",
        ) from error
    if opset < _RESIZE_COORDINATES:
        _keep_resizes(lifted)
    if opset < _SOFTMAX_ONE_AXIS:
        _keep_hardmaxes(lifted)
    return lifted


def _keep_resizes(lifted: onnx.ModelProto) -> None:
    """Give every Resize the coordinates that Upsample and Resize had before opset 11.

    Output pixel i was at i / scale then, and the default has been (i + 0.5) / scale - 0.5 since; the nearest pixel was
    the one below that position, or above it where the image shrinks.
    """
    constants = _constants(lifted.graph)
    for node in lifted.graph.node:
        if node.op_type != "Resize":
            continue
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        shrinks = scales is not None and float(scales.min(initial=1)) < 1
        for name, value in (
            ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "ceil" if shrinks else "floor"),
        ):  # fmt: skip
            for old in [attribute for attribute in node.attribute if attribute.name == name]:
                node.attribute.remove(old)
            node.attribute.append(onnx.helper.make_attribute(name, value))


def _keep_hardmaxes(lifted: onnx.ModelProto) -> None:
    """Let every Hardmax see its input as before opset 13: flattened to rows from its axis on.

    The converter does this for Softmax and LogSoftmax, but not for Hardmax.
    """
    nodes = []
    for node in lifted.graph.node:
        if node.op_type != "Hardmax":
            nodes.append(node)
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        (source,), (result,) = node.input, node.output
        flat, top, shape = (f"{result}_{part}" for part in ("rows", "row_tops", "shape"))
        nodes += [
            onnx.helper.make_node("Flatten", [source], [flat], axis=axis, name=flat),
            onnx.helper.make_node("Hardmax", [flat], [top], axis=-1, name=node.name),
            onnx.helper.make_node("Shape", [source], [shape], name=shape),
            onnx.helper.make_node("Reshape", [top, shape], [result], name=f"{result}_reshaped"),
        ]
    del lifted.graph.node[:]
    lifted.graph.node.extend(nodes)


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Collect initializers and the results of Constant nodes, by name."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        for entry in node.attribute:
            if node.op_type == "Constant" and entry.name == "value":
                arrays[node.output[0]] = onnx.numpy_helper.to_array(entry.t)
    return arrays


def _is_quantized(node: ir.Node) -> bool:
    """Return whether an operator computes on quantized values, in ONNX's domain or ONNX Runtime's."""
    kind = node.op_type
    return kind in _QUANTIZED or kind.startswith("QLinear") or (node.domain == "com.microsoft" and "Quantize" in kind)


def _check_version(model: ir.Model) -> None:
    if model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0)) < MIN_OPSET:
        raise BadInputError("The graph names no opset of ONNX.", "Export it again.")


def _check(model: ir.Model) -> None:
    graph = model.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        counts = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise BadInputError(f"The graph has {counts}; an image classifier has one of each.")
    for node in graph:
        if any(attribute.type in _SUBGRAPHS for attribute in node.attributes.values()):
            raise BadInputError(f"Node {node.name} ({node.op_type}) has a subgraph, which is not converted.")
        if _is_quantized(node):
            raise BadInputError(
                f"Node {node.name} ({node.op_type}): the graph is quantized already.",
                "Start from the float32 file that it was made from.",
            )
    kinds = {value.dtype for value in graph.initializers.values()}
    if ir.DataType.FLOAT16 in kinds or ir.DataType.BFLOAT16 in kinds:
        raise BadInputError("The graph has float16 weights already.", "Start from the float32 file.")
    if ir.DataType.FLOAT not in kinds:
        raise BadInputError("The graph has no float32 weights.", "A float32 image classifier is needed.")


@contextmanager
def _errors_only() -> Iterator[None]:
    """Silence onnxscript's log below errors: it logs each rule that doesn't apply."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def complete(model: ir.Model) -> None:
    """Fold the shape arithmetic of `model` in place, and set the types and shapes that inference leaves open.

    Args:
        model: float32, one input; constants are initializers.

    Raises:
        BadInputError: ONNX Runtime doesn't take the graph, or can't run it.
    """
    infer(model)
    if not _has_fixed_size(model.graph):
        return
    folded = [value for node in _shape_arithmetic(model.graph) for value in node.outputs]
    if folded:
        _fold(model.graph, _constant_values(model, folded))
        common.RemoveUnusedNodesPass()(model)
        infer(model)
    unknown = [value for node in model.graph for value in node.outputs if value.dtype is None or value.shape is None]
    if unknown:
        _observe(model, unknown)


def _shape_arithmetic(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes whose results depend on shapes and constants alone, in graph order."""
    known: set[ir.Value] = set(graph.initializers.values())
    for node in graph:
        if node.op_type in _RANDOM or node.domain not in ("", "ai.onnx"):
            continue
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type in _SHAPES or all(value in known for value in inputs):
            known.update(node.outputs)
            yield node


def _constant_values(model: ir.Model, values: Collection[ir.Value]) -> dict[str, NDArray[np.generic]]:
    """Compute the arrays, by name, of those `values` that are the same for every batch."""
    wanted = [str(value.name) for value in values]
    session = Session(model, outputs=wanted)
    largest = max(
        [_LARGE, *(tensor.size for value in model.graph.initializers.values() if (tensor := value.const_value))]
    )
    seen: dict[str, NDArray[np.generic]] = {}
    for number, batch in enumerate(_inputs(model.graph)):
        arrays = dict(zip(wanted, session.run(batch, wanted), strict=True))
        if not number:
            seen = {name: array for name, array in arrays.items() if array.size <= largest}
        seen = {name: array for name, array in seen.items() if np.array_equal(array, arrays[name])}
    return seen


def _fold(graph: ir.Graph, constants: dict[str, NDArray[np.generic]]) -> None:
    values = {str(value.name): value for node in graph for value in node.outputs}
    kept = {value.name for value in graph.outputs}
    for name, array in constants.items():
        if name in kept:
            continue
        replace_by_constant(graph, values[name], array)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def replace_by_constant(graph: ir.Graph, value: ir.Value, array: NDArray[np.generic]) -> None:
    """Replace all uses of `value` by `array`, a new initializer; the node that computes it stays."""
    name = f"{value.name}_folded"
    constant = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape),
        const_value=ir.Tensor(array, name=name),
    )  # fmt: skip
    graph.register_initializer(constant)
    ir.convenience.replace_all_uses_with(value, constant)


def _observe(model: ir.Model, unknown: Collection[ir.Value]) -> None:
    """Set types, sizes that don't depend on the batch, and shapes for one image of `unknown`, as observed in runs."""
    probe = model.clone()
    values = {str(value.name): value for node in probe.graph for value in node.outputs}
    names = [str(value.name) for value in unknown]
    shapes = {name: ir.node("Shape", [values[name]]) for name in names}
    for name, node in shapes.items():
        node.outputs[0].name, node.outputs[0].dtype = f"{name}_observed_shape", ir.DataType.INT64
    probe.graph.extend(shapes.values())
    asked = [str(node.outputs[0].name) for node in shapes.values()]
    session = Session(probe, outputs=[*names, *asked])
    types = session.types()
    runs = [
        [tuple(int(size) for size in shape) for shape in session.run(batch, asked)] for batch in _inputs(model.graph)
    ]
    for place, value in enumerate(unknown):
        value.type = ir.TensorType(_dtype(types[str(value.name)]))
        seen = [run[place] for run in runs]
        value.meta[IMAGE_SHAPE] = seen[0]
        if len({len(shape) for shape in seen}) == 1:
            value.shape = ir.Shape([sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*seen, strict=True)])


def _has_fixed_size(graph: ir.Graph) -> bool:
    """Return whether only the batch of the graph's input is dynamic: otherwise no input can be generated."""
    shapes = [value.shape for value in graph.inputs]
    return all(shape is not None and all(isinstance(size, int) for size in shape[1:]) for shape in shapes)


def _inputs(graph: ir.Graph) -> Iterator[NDArray[np.generic]]:
    """Yield noise for the graph's input at several batch sizes, or at its fixed one."""
    (value,) = graph.inputs
    assert value.shape is not None
    assert value.dtype is not None
    batch, *sizes = value.shape
    generator = np.random.default_rng(0)
    for number in (batch,) if isinstance(batch, int) else _BATCHES:
        shape = (number, *(int(size) for size in sizes))  # type: ignore[arg-type]
        if value.dtype == ir.DataType.UINT8:
            yield generator.integers(0, 256, shape, dtype=np.uint8)
        else:
            yield generator.standard_normal(shape).astype(value.dtype.numpy())


def _dtype(name: str) -> ir.DataType:
    """Convert ONNX Runtime's name of a type: `tensor(float)` → FLOAT."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return ir.DataType[{"float16": "FLOAT16", "bfloat16": "BFLOAT16"}.get(inner, inner.upper())]


def infer(model: ir.Model) -> None:
    """Set the types and shapes that static inference derives, in place; other values keep theirs."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.ERROR)  # failed inference is not a warning for users
    try:
        # Strict inference would fail on the whole graph at one unknown operator.
        common.ShapeInferencePass(strict_mode=False)(model)
    finally:
        logger.setLevel(before)


def image_shapes(model: ir.Model) -> dict[str, Shape]:
    """Return the shapes of values, by name, for a batch of one image: inferred, or else observed in a run.

    Values of unknown shape are left out; see `complete`. A graph with a fixed batch keeps that batch.
    """
    graph = model.graph
    computed = [value for node in graph for value in node.outputs]
    before = [(value, value.shape) for value in (*graph.inputs, *computed)]
    try:
        for value in computed:
            observed = value.meta.get(IMAGE_SHAPE)
            value.shape = None if observed is None else ir.Shape(observed)
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
                value.shape = ir.Shape([1, *value.shape[1:]])
        infer(model)
        values = [*graph.inputs, *computed, *graph.initializers.values()]
        return {str(value.name): static for value in values if (static := _static(value)) is not None}
    finally:
        for value, shape in before:
            value.shape = shape


def _static(value: ir.Value) -> Shape | None:
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        return None
    return tuple(int(size) for size in value.shape)  # type: ignore[arg-type]
