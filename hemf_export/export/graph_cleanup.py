"""Clean up a freshly exported ONNX graph in memory: remove leftovers of torch's exporter.

Every rewrite keeps what the graph computes. Works on `onnx_ir` models with static shapes, of any network.
"""

from __future__ import annotations

import ast

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from hemf_export.calibration import graphs
from hemf_export.calibration.forms import layout
from hemf_export.files.errors import UsageError

# Larger constants are weights, which constant folding may neither change nor copy.
FOLD_LIMIT = 1024

_FOLDED_INTO = ("Conv", "ConvTranspose", "Gemm")
_SCOPES = "pkg.torch.onnx.name_scopes"
_REDUCTIONS_OF_18 = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp")
_OTHERS_OF_18 = (
    "Pad",
    "Resize",
    "ScatterElements",
    "ScatterND",
    "GroupNormalization",
    "CenterCropPad",
    "Mish",
)


def clean(model: ir.Model) -> None:
    """Fold constant shapes, remove layout changes that cancel and unused nodes; in place."""
    fold_constants(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    layout.cancel(model)
    common.DeduplicateInitializersPass()(model)
    common.RemoveUnusedNodesPass()(model)


def name_by_scope(model: ir.Model) -> None:
    """Name each node by its module, as in `fusion_stages.0.mlp/gelu_4`; in place.

    torch's exporter keeps the module path in the node's metadata, which is then removed: it is larger than the graph.
    """
    used: set[str] = set()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        if len(scopes) > 1:
            name = f"{scopes[-2]}/{scopes[-1]}" if scopes[-2] else scopes[-1]
            node.name = name if name not in used else f"{name}/{node.outputs[0].name}"
        assert node.name is not None
        used.add(node.name)
        node.metadata_props.clear()


def free_batch(model: ir.Model, name: str) -> None:
    """Make the batch axis of inputs and outputs dynamic, with the symbolic size `name`; in place.

    Every Reshape of an activation has the batch in its first axis alone, so -1 there makes it work for any batch. The
    caller proves the result on several batch sizes, which would show any other Reshape.
    """
    name_batch(model, name)
    for node in list(model.graph):
        if node.op_type == "Reshape":
            target = _constant(node.inputs[1])
            sizes = node.outputs[0].shape
            if target is not None and -1 in target[1:] and sizes is not None and sizes.is_static():
                target = list(sizes.numpy())  # of a `view` that names the batch, and leaves another axis open
            if target is not None and -1 not in target[1:]:
                shape = np.array([-1, *target[1:]], dtype=np.int64)
                node.replace_input_with(1, _initializer(model.graph, shape))
    forget_shapes(model)
    common.DeduplicateInitializersPass()(model)
    common.RemoveUnusedNodesPass()(model)


def name_batch(model: ir.Model, name: str) -> None:
    """Name the batch axis of inputs and outputs; in place."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([name, *value.shape[1:]])


def forget_shapes(model: ir.Model) -> None:
    """Forget the shapes of inner values, which hold for the traced batch size; in place."""
    for node in model.graph:
        for output in node.outputs:
            output.shape = None if output not in model.graph.outputs else output.shape


def fold_batch_norms(model: ir.Model) -> None:
    """Fold each BatchNormalization into the product that alone feeds it, which keeps its module's name; in place."""
    for norm in model.graph:
        product = norm.inputs[0].producer() if norm.op_type == "BatchNormalization" and norm.inputs[0] else None
        if product is None or product.op_type not in _FOLDED_INTO or len(product.outputs[0].uses()) != 1:
            continue
        if _SCOPES in product.metadata_props:
            norm.metadata_props[_SCOPES] = product.metadata_props[_SCOPES]  # the rules keep the norm's
    graphs.fold_batch_norms(model)


def lower_to_opset_17(model: ir.Model) -> None:
    """Convert from opset 18, the oldest that torch exports, to 17, where reductions have their axes as an attribute.

    Raises:
        UsageError: an operator whose definition differs in another way.
    """
    for node in model.graph:
        if node.op_type in _REDUCTIONS_OF_18 and len(node.inputs) > 1:
            axes = _constant(node.inputs[1])
            if axes is None:
                raise UsageError(f"{node.op_type} with computed axes has no form in opset 17.", "Use a newer opset.")
            node.resize_inputs(1)
            node.attributes.pop("noop_with_empty_axes", None)
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        elif node.op_type == "Split":
            node.attributes.pop("num_outputs", None)  # it is the number of outputs; uneven parts fail in the proof
        elif node.op_type == "Pad" and not any(node.inputs[3:]):
            continue  # without axes it is the same
        elif node.op_type in _OTHERS_OF_18:
            raise UsageError(f"{node.op_type} has another definition in opset 17.", "Use a newer opset.")
    model.graph.opset_imports[""] = 17
    for node in model.graph:
        node.version = None
    common.RemoveUnusedNodesPass()(model)


def _constant(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(size) for size in value.const_value.numpy()]


def _initializer(graph: ir.Graph, array: np.ndarray) -> ir.Value:
    name = "shape_" + "_".join(str(size).replace("-", "minus") for size in array)
    if name not in graph.initializers:
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(array.shape), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]
