"""Float32 graphs as the work here needs them: constants as initializers, norms folded, types known, every node named.

Takes any image classifier with one input, not only ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

from calibration.completion import complete
from hemf.errors import BadInputError

_IR_VERSION = 9  # of the files that have opset 19; those of 3 list weights as inputs
MIN_OPSET = 19  # the first whose QuantizeLinear takes float16
_RESIZE_COORDINATES = 11  # the first opset whose Resize says where its pixels lie
_SOFTMAX_ONE_AXIS = 13  # the first whose Softmax, LogSoftmax and Hardmax run over one axis
_QUANTIZED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
    *("QAttention", "QGemm", "QMoE", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4"),
)
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def prepare(proto: onnx.ModelProto) -> ir.Model:
    """The graph of a parsed float32 file, ready to be recorded, converted and quantized.

    An older opset is lifted to 19 by onnx's own converter, and what that leaves with another meaning is mended here;
    BatchNorms go into the convolutions and products before them, by onnxscript's rules. Whether the result computes
    what the file does is for the caller to prove, against the file itself.

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
    with _quiet():
        rules = fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule
        rewrite(model, RewriteRuleSet(list(rules)))
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.NameFixPass()(model)
    for index, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{index}"
    _check(model)
    complete(model)
    return model


def parse(proto: onnx.ModelProto) -> ir.Model:
    """The graph of a parsed file, nothing of it changed.

    Raises:
        BadInputError: it is no valid graph: a name is given twice, a node takes what nobody gives …
    """
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:  # SerdeError around whatever onnx-ir met
        cause = error.__cause__ or error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise BadInputError(f"The graph is not valid: {' '.join(str(cause).split())}", "Export it again.") from error


def _refuse_training_mode(proto: onnx.ModelProto) -> None:
    """Refuse norms over the batch that is run: an image's logits would depend on its neighbours.

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
    """Give a batch of -1, as some exporters write any, a name: ONNX has names for what is open."""
    for value in graph.inputs:
        if value.shape is not None and len(value.shape) and isinstance(size := value.shape[0], int) and size < 0:
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def copy_of(model: ir.Model) -> ir.Model:
    """A copy whose types can be changed without changing the model's; tensors are shared."""
    made = model.clone()
    computed = [value for node in made.graph for value in node.outputs]
    for value in (*made.graph.inputs, *made.graph.initializers.values(), *computed):
        if value.dtype is not None:
            value.type = ir.TensorType(value.dtype)
    return made


def _lifted(proto: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= MIN_OPSET or opset == 0:
        return proto
    try:
        lifted: onnx.ModelProto = onnx.version_converter.convert_version(proto, MIN_OPSET)
    except Exception as error:  # the converter raises RuntimeError, and more, where it knows no way
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

    There output pixel i was at i / scale, where Resize's default has been (i + 0.5) / scale - 0.5 since; the nearest
    pixel was below that place, or above it where the image shrinks.
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
    """Let every Hardmax see its input as it did before opset 13: as rows of all axes from its own on.

    The converter does this for Softmax and LogSoftmax, and leaves out Hardmax.
    """
    nodes = []
    for node in lifted.graph.node:
        if node.op_type != "Hardmax":
            nodes.append(node)
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        (taken,), (given,) = node.input, node.output
        flat, top, shape = (f"{given}_{part}" for part in ("rows", "row_tops", "shape"))
        nodes += [
            onnx.helper.make_node("Flatten", [taken], [flat], axis=axis, name=flat),
            onnx.helper.make_node("Hardmax", [flat], [top], axis=-1, name=node.name),
            onnx.helper.make_node("Shape", [taken], [shape], name=shape),
            onnx.helper.make_node("Reshape", [top, shape], [given], name=f"{given}_reshaped"),
        ]
    del lifted.graph.node[:]
    lifted.graph.node.extend(nodes)


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Initializers and the results of Constant nodes, by name."""
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        for entry in node.attribute:
            if node.op_type == "Constant" and entry.name == "value":
                found[node.output[0]] = onnx.numpy_helper.to_array(entry.t)
    return found


def _is_quantized(node: ir.Node) -> bool:
    """Whether an operator computes on quantized numbers, ONNX's own or ONNX Runtime's."""
    kind = node.op_type
    return kind in _QUANTIZED or kind.startswith("QLinear") or (node.domain == "com.microsoft" and "Quantize" in kind)


def _check_version(model: ir.Model) -> None:
    if model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0)) < MIN_OPSET:
        raise BadInputError("The graph names no opset of ONNX.", "Export it again.")


def _check(model: ir.Model) -> None:
    graph = model.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        found = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise BadInputError(f"The graph has {found}; an image classifier has one of each.")
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
def _quiet() -> Iterator[None]:
    """onnxscript logs each rule that doesn't apply."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
