"""Rewrite retention (equations 3 to 6) as TensorRT fuses it best: 8 kernels per attention instead of 21 (hemf-base,
stage 1).

The form for a CPU costs extra kernels in four ways. Heads of 12 channels are padded to 16 before each attention and
sliced after it: here zeros in the weights do that, as a fused attention takes multiples of 8 from 16 on. The rotation
of each pair of channels is a matrix product: here the channels of a head are sorted into first and second of each pair,
to which the product with the key is invariant, and the rotation needs two slices. The tables repeat for every head:
here one suffices. And query and key are one product, so that one kernel rotates both. Only the order of sums changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hemf_export.calibration.forms.matching import (
    MAPS_TO_PIXELS,
    PIXELS_TO_MAPS,
    Array,
    Match,
    Writer,
    aligned,
    find,
    scope,
)


def rewrite(model: ir.Model) -> int:
    """Rewrite every retention, in place; return their number."""
    done = 0
    for match in list(find(model, _pattern)):
        if (block := _read(match)) is not None:
            _write(model.graph, match, block)
            done += 1
    return done


def _pattern(
    op: Any, rows: Any, wq: Any, bq: Any, wk: Any, bk: Any, wv: Any, bv: Any, split_q: Any, split_k: Any, split_v: Any,
    cos_q: Any, sin_q: Any, turn_q: Any, cos_k: Any, sin_k: Any, turn_k: Any, decay_w: Any, decay_h: Any,
    to_rows: Any, to_pixels: Any, rows_again: Any, kernel: Any, kernel_bias: Any, wo: Any, bo: Any,
) -> Any:  # fmt: skip
    def turned(split: Any, cos: Any, sin: Any, turn: Any) -> Any:
        return op.Add(op.Mul(split, cos), op.Mul(op.MatMul(split, turn), sin))

    def attend(query: Any, key: Any, value: Any, decay: Any) -> Any:
        return op.MatMul(op.Softmax(op.Add(op.MatMul(query, key), decay), axis=-1), value)

    query = turned(op.Reshape(op.Gemm(rows, wq, bq, transB=1), split_q), cos_q, sin_q, turn_q)
    key = turned(op.Reshape(op.Gemm(rows, wk, bk, transB=1), split_k), cos_k, sin_k, turn_k)
    value_rows = op.Gemm(rows, wv, bv, transB=1)
    value = op.Reshape(value_rows, split_v)
    mixed = attend(
        op.Transpose(query, perm=[0, 1, 3, 2, 4]), op.Transpose(key, perm=[0, 1, 3, 4, 2]),
        op.Transpose(value, perm=[0, 1, 3, 2, 4]), decay_w,
    )  # fmt: skip
    mixed = attend(
        op.Transpose(query, perm=[0, 2, 3, 1, 4]), op.Transpose(key, perm=[0, 2, 3, 4, 1]),
        op.Transpose(mixed, perm=[0, 3, 2, 1, 4]), decay_h,
    )  # fmt: skip
    joined = op.Reshape(op.Transpose(mixed, perm=[0, 3, 1, 2, 4]), to_rows)
    maps = op.Transpose(op.Reshape(value_rows, to_pixels), perm=list(PIXELS_TO_MAPS))
    positional = op.Conv(maps, kernel, kernel_bias, _outputs=["positional"])
    positional_rows = op.Reshape(op.Transpose(positional, perm=list(MAPS_TO_PIXELS)), rows_again)
    return op.Gemm(op.Add(joined, positional_rows), wo, bo, transB=1)


class _Block(NamedTuple):
    """Sizes and weights of one retention; linear weights are (out, in)."""

    height: int
    width: int
    heads: int
    channels: int  # per head
    query: tuple[Array, Array]
    key: tuple[Array, Array]
    value: tuple[Array, Array]
    output: tuple[Array, Array]
    cosine: Array  # (H, W, channels / 2)
    sine: Array
    decay_width: Array  # (heads, W, W)
    decay_height: Array
    kernel: tuple[Array, Array]


def _read(match: Match) -> _Block | None:
    """Read the block at a match; None if it is another computation of the same structure."""
    weights = match.arrays("wq", "bq", "wk", "bk", "wv", "bv", "wo", "bo", "kernel", "kernel_bias")
    tables = match.arrays("cos_q", "sin_q", "cos_k", "sin_k", "turn_q", "turn_k", "decay_w", "decay_h")
    sizes = match.array("split_q")
    if weights is None or tables is None or sizes is None or len(sizes) != 5 or not _is_cut_alike(match, sizes):
        return None
    wq, bq, wk, bk, wv, bv, wo, bo, kernel, kernel_bias = weights
    cos, sin, cos_k, sin_k, turn, turn_k, decay_w, decay_h = tables
    _, height, width, heads, channels = (int(size) for size in sizes)
    shape = (height, width, heads, channels)
    if channels % 2 or any(table.shape != shape for table in (cos, sin, cos_k, sin_k)):
        return None
    if any(len(weight) != heads * channels for weight in (wq, wk, wv, kernel)) or kernel.shape[1] != 1:
        return None
    if not all(np.array_equal(turned, _quarter_turn(channels)) for turned in (turn, turn_k)):
        return None
    halves = []
    for first, second in ((cos, cos_k), (sin, sin_k)):
        half = first[:, :, 0, ::2]
        # Must be equal for all heads and for both of a pair, or the channels can't be sorted.
        if not np.array_equal(first, second) or not np.array_equal(
            first, np.repeat(half, 2, -1)[:, :, None].repeat(heads, 2)
        ):
            return None
        halves.append(half)
    return _Block(
        height, width, heads, channels, (wq, bq), (wk, bk), (wv, bv), (wo, bo), halves[0], halves[1], decay_w, decay_h,
        (kernel, kernel_bias),
    )  # fmt: skip


def _is_cut_alike(match: Match, sizes: Array) -> bool:
    """Return whether query, key, value, rows and pixels all have the shape `sizes`, (N, H, W, heads, d)."""
    channels = int(sizes[3] * sizes[4])
    wanted: dict[str, Any] = {
        "split_k": sizes, "split_v": sizes, "to_pixels": (*sizes[:3], channels), "to_rows": (-1, channels),
        "rows_again": (-1, channels),
    }  # fmt: skip
    return all(
        array is not None and len(array) == len(shape) and np.array_equal(array[1:], shape[1:])
        for name, shape in wanted.items()
        for array in (match.array(name),)
    )


def _quarter_turn(channels: int) -> Array:
    """Return the matrix (channels, channels) that maps each pair (a, b) of a row to (-b, a)."""
    turn = np.zeros((channels, channels), np.float32)
    even = np.arange(0, channels, 2)
    turn[even + 1, even], turn[even, even + 1] = -1, 1
    return turn


def _write(graph: ir.Graph, match: Match, block: _Block) -> None:
    height, width, heads, channels = block[:4]
    padded = aligned(channels)
    half = padded // 2
    # Slots of a head's channels: for query and key the first of each pair before the second, for the value in order.
    pairs = np.concatenate([np.arange(channels // 2), half + np.arange(channels // 2)])
    pairs = pairs.reshape(2, -1).T.reshape(-1)
    w = Writer(graph, match.root, scope(match.root).removesuffix(".output"))

    def place(array: Array, slots: NDArray[np.int64], axis: int) -> Array:
        return _place(array, heads, padded, slots, axis)

    in_order = np.arange(channels)
    rows = match.values["rows"]
    both = [place(np.asarray(part), pairs, 0) for part in (*block.query, *block.key)]
    joint = w.linear(rows, np.concatenate(both[::2]), np.concatenate(both[1::2]))
    first, second = w.split(w.reshape(joint, -1, height, width, 2 * heads, padded), 4, (half, half))
    cosine, sine = (
        np.pad(t, ((0, 0), (0, 0), (0, half - channels // 2)))[:, :, None] for t in (block.cosine, block.sine)
    )
    turned = w.op(
        "Concat",
        w.op("Sub", w.op("Mul", first, cosine), w.op("Mul", second, sine)),
        w.op("Add", w.op("Mul", second, cosine), w.op("Mul", first, sine)),
        axis=4,
    )
    query, key = w.split(turned, 3, (heads, heads))
    value_rows = w.linear(rows, place(block.value[0], in_order, 0), place(block.value[1], in_order, 0))
    value = w.reshape(value_rows, -1, height, width, heads, padded)

    def attend(query: ir.Value, key: ir.Value, value: ir.Value, decay: Array) -> ir.Value:
        scores = w.op("Add", w.op("MatMul", query, key), decay)
        return w.op("MatMul", w.op("Softmax", scores, axis=-1), value)

    mixed = attend(
        w.transpose(query, 0, 1, 3, 2, 4), w.transpose(key, 0, 1, 3, 4, 2), w.transpose(value, 0, 1, 3, 2, 4),
        block.decay_width,
    )  # fmt: skip
    mixed = attend(
        w.transpose(query, 0, 2, 3, 1, 4), w.transpose(key, 0, 2, 3, 4, 1), w.transpose(mixed, 0, 3, 2, 1, 4),
        block.decay_height,
    )  # fmt: skip
    joined = w.reshape(w.transpose(mixed, 0, 3, 1, 2, 4), -1, height, width, heads * padded)
    maps = w.transpose(w.reshape(value_rows, -1, height, width, heads * padded), *PIXELS_TO_MAPS)
    kernel, kernel_bias = (place(part, in_order, 0) for part in block.kernel)
    convolution = match.values["positional"].producer()
    assert convolution is not None
    attributes = {name: entry.value for name, entry in convolution.attributes.items()} | {"group": heads * padded}
    positional = w.transpose(w.op("Conv", maps, kernel, kernel_bias, **attributes), *MAPS_TO_PIXELS)
    total = w.reshape(w.op("Add", joined, positional), -1, heads * padded)
    output, output_bias = block.output
    w.replace(match.root.outputs[0], w.linear(total, place(output, in_order, 1), output_bias))


def _place(array: Array, heads: int, padded: int, slots: NDArray[np.int64], axis: int) -> Array:
    """Move each head's channels, along an axis, to their slots among `padded`; the other slots are zero."""
    moved = np.moveaxis(array, axis, 0)
    split = moved.reshape(heads, len(slots), *moved.shape[1:])
    placed = np.zeros((heads, padded, *moved.shape[1:]), array.dtype)
    placed[:, slots] = split
    return np.ascontiguousarray(np.moveaxis(placed.reshape(heads * padded, *moved.shape[1:]), 0, axis))
