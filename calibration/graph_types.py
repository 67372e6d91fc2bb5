"""Count the types that a finished graph computes in, from the graph itself rather than from options or reports."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from hemf_export.calibration.graphs import infer
from hemf_export.calibration.products import PRODUCTS

_QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
_NAMES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}


def count_types(model: ir.Model) -> dict[str, Any]:
    """Count nodes and products by the type that they compute in.

    A product whose inputs (except the bias) all come from DequantizeLinear is an int8 product: TensorRT and ONNX
    Runtime fuse that pattern. Casts, QuantizeLinear and DequantizeLinear are counted separately.

    Returns:
        {"nodes": {"float32": …, "float16": …}, "products": {"int8": …, "float16": …}, "casts": …, "quantization": …}
    """
    infer(model)
    nodes: Counter[str] = Counter()
    products: Counter[str] = Counter()
    others: Counter[str] = Counter(casts=0, quantization=0)
    for node in model.graph:
        if node.op_type == "Cast":
            others["casts"] += 1
            continue
        if node.op_type in _QUANTIZATION:
            others["quantization"] += 1
            continue
        kinds = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None and value.dtype in _NAMES}
        if not kinds:
            continue
        # One float32 value makes the node compute in float32: strongly typed graphs have no mixed nodes.
        kind = _NAMES[ir.DataType.FLOAT if ir.DataType.FLOAT in kinds else ir.DataType.FLOAT16]
        if node.op_type in PRODUCTS and is_int8(node):
            kind = "int8"
        nodes[kind] += 1
        if node.op_type in PRODUCTS:
            products[kind] += 1
    return {"nodes": dict(nodes), "products": dict(products), **others}


def is_int8(product: ir.Node) -> bool:
    """Return whether both factors of a product come from DequantizeLinear."""
    sources = [value.producer() if value is not None else None for value in product.inputs[:2]]
    return all(source is not None and source.op_type == "DequantizeLinear" for source in sources)
