"""Write a census of kernels as text: one line for a build, and tables by block, by kind, and of all kernels.

All are made from the plain types that a manifest holds, so that they need neither a GPU nor the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hemf_export.engines.census import Census
from hemf_export.engines.kernels import TYPE_TITLES, Kernel, Tensor
from hemf_export.files.errors import BadInputError

PART_COLUMNS = ("kernels", "MB", "products", "fused attentions")
KERNEL_COLUMNS = ("", "kernel", "kind", "block", "reads", "constants", "writes", "MB", "ONNX nodes")
UNSIZED = "sizes open"
INT8_WORK = "work in INT8"  # title of the share of multiply-adds in INT8
_LONGEST = 60  # characters of a generated kernel's name
_NODES_SHOWN = 3


def of_manifest(manifest: Mapping[str, Any]) -> Census | None:
    """Read the census in an engine's manifest; None for an engine that was built before there were any.

    Raises:
        BadInputError: the census can't be read.
    """
    values = manifest.get("census")
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise BadInputError("The manifest's census is not an object.", "Build the engine again.")
    return Census.from_dict(values)


def without_lists(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest without the packed lists of kernels, as it is printed."""
    census = manifest.get("census")
    if not isinstance(census, Mapping):
        return dict(manifest)
    return {**manifest, "census": {name: value for name, value in census.items() if name != "lists"}}


def line(summary: Mapping[str, Any]) -> str:
    """Sum up in one line: 312 kernels, 402 MB moved at batch 8, 288 products in half, 16 fused attentions."""
    parts = [f"{summary['kernels']:,} kernels"]
    if summary["activation_bytes"] is not None and summary["weight_bytes"] is not None:
        moved = _megabytes(summary["activation_bytes"] + summary["weight_bytes"])
        parts.append(f"{moved} MB moved at batch {summary['batch']}")
    else:
        parts.append(UNSIZED)
    parts.append(_products(summary["products"]) or "no products")
    if summary["fused_attentions"]:
        parts.append(_count(summary["fused_attentions"], "fused attention"))
    return ", ".join(parts)


def sizes_from(summary: Mapping[str, Any]) -> str:
    """Say where the sizes are from."""
    origin = summary["sizes_from"]
    if origin is None:
        return "left open by the builder: an engine for one batch size (`batch=N`) has them all"
    if isinstance(origin, Mapping):
        return (
            f"a twin, built for batch {origin['twin_at_batch']} alone and not shipped, of {origin['twin_kernels']:,} "
            "kernels; counts and types are the engine's own"
        )
    return "the engine, which has one batch size"


def part_rows(parts: Mapping[str, Mapping[str, Any]], *, largest_first: bool = False) -> list[tuple[str, ...]]:
    """Return the rows of the table by block or by kind: the name, then `PART_COLUMNS`."""
    order = sorted(parts.items(), key=lambda item: -(item[1]["bytes"] or 0)) if largest_first else list(parts.items())
    return [
        (
            name, f"{part['kernels']:,}", "–" if part["bytes"] is None else _megabytes(part["bytes"]),
            _products(part["products"], noun="") or "–", str(part["fused_attentions"] or "–"),
        )
        for name, part in order
    ]  # fmt: skip


def kernel_rows(kernels: Sequence[Kernel]) -> list[tuple[str, ...]]:
    """Return the rows of the table of all kernels, in launch order; see `KERNEL_COLUMNS`."""
    return [
        (
            str(number), _short(kernel.name), kernel.kind, kernel.block or "–",
            *(" ".join(map(_shape, group)) or "–" for group in (kernel.inputs, kernel.constants, kernel.outputs)),
            _moved(kernel), _nodes(kernel),
        )
        for number, kernel in enumerate(kernels)
    ]  # fmt: skip


def kernel_values(kernels: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Convert kernels to plain types, for JSON."""
    return [
        {
            "name": kernel.name, "kind": kernel.kind, "block": kernel.block, "stream": kernel.stream,
            "tactic": kernel.tactic, "onnx_nodes": list(kernel.onnx_nodes), "product_type": kernel.product_type,
            "fused_attention": kernel.is_fused_attention, "multiply_adds": kernel.multiply_adds,
            "activation_bytes": kernel.activation_bytes, "weight_bytes": kernel.weight_bytes,
            **{
                name: [_tensor(tensor) for tensor in group]
                for name, group in (
                    ("inputs", kernel.inputs), ("constants", kernel.constants), ("outputs", kernel.outputs)
                )
            },
        }
        for kernel in kernels
    ]  # fmt: skip


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {**vars(tensor), "shape": list(tensor.shape), "strides": list(tensor.strides)}


def _products(products: Mapping[str, int], noun: str = "products ") -> str:
    """List products by type: 288 products in half, 4 in INT8."""
    texts = []
    for index, (dtype, count) in enumerate(products.items()):
        what = noun if index == 0 else ""
        texts.append(f"{count:,} {what if count != 1 else what.replace('products', 'product')}in {title_of(dtype)}")
    return ", ".join(texts)


def title_of(dtype: str) -> str:
    """Name a type in a sentence."""
    return TYPE_TITLES.get(dtype, dtype)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _megabytes(number: int) -> str:
    value = number / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _shape(tensor: Tensor) -> str:
    sizes = "×".join("?" if size < 0 else str(size) for size in tensor.shape) or "1"
    return f"{sizes} {tensor.dtype}"


def _moved(kernel: Kernel) -> str:
    if kernel.activation_bytes is None or kernel.weight_bytes is None:
        return "–"
    return _megabytes(kernel.activation_bytes + kernel.weight_bytes)


def _nodes(kernel: Kernel) -> str:
    more = len(kernel.onnx_nodes) - _NODES_SHOWN
    return ", ".join(kernel.onnx_nodes[:_NODES_SHOWN]) + (f" and {more} more" if more > 0 else "")
