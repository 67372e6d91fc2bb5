"""Rewrite Mixed Attention (equations 10 to 16) as TensorRT fuses it best, both attentions of a fusion block at once.

MHEA divides a softmax over the tokens by its sum over the memory's slots. With z, the logarithm of the softmax's
denominator, one number per slot, this is a softmax over the *slots* of x·k - z: the form of any attention, with -z as
its mask, which the compiler fuses into one kernel that never writes the attention weights to memory. The plain form
takes three passes over (8, 64, T) in float32; this one writes the scores once, in float16, to compute z. It can't
become 0/0 either.

The two attentions of a fusion block, of the local and the global map, are stacked and computed by the same kernels.
The products of a channel gate, which are small, are sums of factors in float32: two kernels instead of five for the
squeezes of mean and maximum, their sum, and the excitation, which have no bias and so are one. Only the
order of sums changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from hemf_export.calibration.forms.matching import (
    PIXELS_TO_MAPS,
    Array,
    Match,
    Writer,
    aligned,
    attribute,
    constant,
    find,
    scope,
)
from hemf_export.calibration.forms.norms import STEPS

VALUES = "values"  # suffix of the scope of the node with the values of the slots
GATE = "gate"  # suffix of the scope of a channel gate's nodes, whose factors are its weights
SUMS = "sums"  # suffix of the scope of the nodes that compute the denominator of the softmax over tokens


def rewrite(model: ir.Model) -> int:
    """Rewrite every MHEA with the gates after it, in place; return the number of attentions."""
    graph = model.graph
    attentions = [block for match in find(model, _attention_pattern) if (block := _read_attention(match))]
    matches = (match for pattern in (_gates_pattern, _gates_pattern_unsimplified) for match in find(model, pattern))
    gates = {gate.maps: gate for match in matches if (gate := _read_gates(match))}
    for twins in _twins(attentions):  # lazily: pairs already written change which values depend on which
        stacked = _write_attention(graph, twins)
        twin_gates = [gate for twin in twins if (gate := gates.get(twin.maps)) is not None]
        if len(twin_gates) == len(twins) and len({gate.shape for gate in twin_gates}) == 1:
            _write_gates(graph, twins, twin_gates, stacked)
    return len(attentions)


class _Attention(NamedTuple):
    """m = LN(MHEA(n)·n), n = LN(x), the same LN: from `pixels` to `maps`.

    Weights: key (slots, d), value (d, slots) of a head of d channels; scales and biases (C,).
    """

    match: Match
    pixels: ir.Value  # n, (N, H, W, C)
    maps: ir.Value  # m, (N, H, W, C)
    height: int
    width: int
    heads: int
    epsilon: float
    key: Array
    value: Array
    scale: Array
    bias: Array

    @property
    def channels(self) -> int:
        return len(self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height, self.width, self.heads, self.channels, len(self.key))


class _Gates(NamedTuple):
    """s = m·spatial gate(m); out = s·channel gate(s): from `maps` to the root's output.

    Weights: kernel (1, 2, kh, kw), squeeze (C / r, C), excite (C, C / r).
    """

    match: Match
    maps: ir.Value  # m, (N, H, W, C)
    kernel: Array
    pads: tuple[int, ...]
    squeeze: Array
    excite: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.kernel.shape, *self.pads, *self.squeeze.shape)


def _attention_pattern(
    op: Any, pixels: Any, as_rows: Any, as_tokens: Any, as_heads: Any, key: Any, value: Any, joined: Any, rows: Any,
    as_pixels: Any, scale: Any, bias: Any,
) -> Any:  # fmt: skip
    normalized = op.Reshape(pixels, as_rows)
    heads = op.Reshape(op.Transpose(op.Reshape(pixels, as_tokens), perm=[0, 2, 1]), as_heads)
    weights = op.Softmax(op.MatMul(key, heads), axis=-1)
    weights = op.Div(weights, op.ReduceSum(weights, _allow_other_inputs=True, _outputs=["total"]))
    mixed = op.Transpose(op.Reshape(op.MatMul(value, weights), joined), perm=[0, 2, 1])
    product = op.Mul(op.Reshape(mixed, rows), normalized)
    return op.LayerNormalization(op.Reshape(product, as_pixels), scale, bias)


def _gates_pattern(op: Any, pixels: Any, kernel: Any, squeeze: Any, excite: Any, axes: Any) -> Any:
    gated, gate = _gated(op, pixels, kernel, squeeze, excite)
    return op.Mul(gated, op.Unsqueeze(gate, axes))


def _gates_pattern_unsimplified(
    op: Any, pixels: Any, kernel: Any, squeeze: Any, excite: Any, first: Any, second: Any
) -> Any:
    gated, gate = _gated(op, pixels, kernel, squeeze, excite)
    return op.Mul(gated, op.Unsqueeze(op.Unsqueeze(gate, first), second))


def _gated(op: Any, pixels: Any, kernel: Any, squeeze: Any, excite: Any) -> tuple[Any, Any]:
    """Return patterns of the maps after the spatial gate and of the channel gate (N, C)."""
    maps = op.Transpose(pixels, perm=list(PIXELS_TO_MAPS))
    pooled = op.Concat(
        op.ReduceMean(maps, _allow_other_inputs=True, _outputs=["mean"]),
        op.ReduceMax(maps, _allow_other_inputs=True, _outputs=["largest"]),
        axis=1,
    )
    spatial = op.Sigmoid(op.Conv(pooled, kernel, _allow_other_inputs=True, _outputs=["gate"]))
    gated = op.Mul(maps, spatial)
    mean = op.ReduceMean(gated, _allow_other_inputs=True, _outputs=["mean_pixel"])
    largest = op.ReduceMax(gated, _allow_other_inputs=True, _outputs=["largest_pixel"])

    def excited(pooled: Any) -> Any:
        return op.Gemm(op.Relu(op.Gemm(pooled, squeeze, transB=1)), excite, transB=1)

    return gated, op.Sigmoid(op.Add(excited(mean), excited(largest)))


def _read_attention(match: Match) -> _Attention | None:
    weights = match.arrays("key", "value", "scale", "bias")
    sizes = match.arrays("as_heads", "as_pixels")
    total = match.values["total"].producer()
    if weights is None or sizes is None or total is None or _axes(total) != (2,) or not attribute(total, "keepdims", 1):
        return None
    if attribute(match.root, "axis", -1) not in (-1, 3) or len(sizes[0]) != 4 or len(sizes[1]) != 4:
        return None
    key, value, scale, bias = weights
    _, heads, channels, tokens = (int(size) for size in sizes[0])
    _, height, width, joined = (int(size) for size in sizes[1])
    if key.ndim != 2 or value.shape != key.shape[::-1] or key.shape[1] != channels:
        return None
    if height * width != tokens or heads * channels != joined or scale.shape != (joined,) or bias.shape != (joined,):
        return None
    views = {"as_tokens": (tokens, joined), "joined": (joined, tokens), "as_rows": (joined,), "rows": (joined,)}
    for name, shape in views.items():
        if (array := match.array(name)) is None or tuple(array[1:]) != shape:
            return None
    epsilon = attribute(match.root, "epsilon", 1e-5)
    return _Attention(
        match, match.values["pixels"], match.root.outputs[0], height, width, heads, epsilon, key, value, scale, bias
    )


def _read_gates(match: Match) -> _Gates | None:
    weights = match.arrays("kernel", "squeeze", "excite")
    axes = [array.tolist() for name in ("axes", "first", "second") if (array := match.array(name)) is not None]
    convolution = match.values["gate"].producer()
    if weights is None or convolution is None:
        return None
    kernel, squeeze, excite = weights
    bias = constant(convolution.inputs[2]) if len(convolution.inputs) > 2 else np.zeros(1)
    reductions = [match.values[name].producer() for name in ("mean", "largest", "mean_pixel", "largest_pixel")]
    over = [None if node is None else _axes(node) for node in reductions]
    if (
        over != [(1,), (1,), (2, 3), (2, 3)]
        or axes not in ([[2, 3]], [[2], [3]])
        or kernel.shape[:2] != (1, 2)
        or bias is None
        or np.any(bias)
    ):
        return None
    pads = tuple(attribute(convolution, "pads", (0, 0, 0, 0)))
    if attribute(convolution, "auto_pad", "NOTSET") != "NOTSET" or set(attribute(convolution, "dilations", (1,))) != {
        1
    }:
        return None
    if any(
        first + second != size - 1 for first, second, size in zip(pads[:2], pads[2:], kernel.shape[2:], strict=True)
    ):
        return None  # the gate has another size than the maps, and would be broadcast
    if [attribute(node, "keepdims", 1) for node in reductions if node is not None] != [1, 1, 0, 0]:
        return None
    return _Gates(match, match.values["pixels"], kernel, pads, squeeze, excite)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """Return the non-negative axes of a reduction of a 4D value; an attribute before opset 18, an input since."""
    given = attribute(node, "axes", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        given = node.inputs[1].const_value.numpy()
    return None if given is None else tuple(int(axis) % 4 for axis in given)


def _twins(attentions: list[_Attention]) -> Iterator[list[_Attention]]:
    """Yield pairs that one kernel can compute, of equal shapes and independent of each other; the rest singly."""
    waiting = list(attentions)
    while waiting:
        first = waiting.pop(0)
        twin = next(
            (
                other
                for other in waiting
                if other.shape == first.shape
                and other.epsilon == first.epsilon
                and not _depends(other.pixels, first.maps)
                and not _depends(first.pixels, other.maps)
            ),
            None,
        )
        if twin is not None:
            waiting.remove(twin)
        yield [first] if twin is None else [first, twin]


def _depends(value: ir.Value, source: ir.Value) -> bool:
    """Return whether `value` is computed from `source`."""
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current is source:
            return True
        if current not in seen and (producer := current.producer()) is not None:
            stack += [given for given in producer.inputs if given is not None]
        seen.add(current)
    return False


def _write_attention(graph: ir.Graph, twins: list[_Attention]) -> ir.Value:
    """Write the attentions; return m stacked, (twins, N, T, C), of which each twin's readers now read their part."""
    first, count = twins[0], len(twins)
    channels, heads, slots = first.channels, first.heads, len(first.key)
    tokens, own = first.height * first.width, first.channels // first.heads
    padded = aligned(own)
    w = Writer(graph, twins[-1].match.root, scope(twins[-1].match.root).removesuffix(".norm"))
    parts = [w.reshape(twin.pixels, 1, -1, tokens, channels) for twin in twins]
    stacked = parts[0] if count == 1 else w.op("Concat", *parts, axis=0)

    # All scores of a head's slots, transposed: (twins, heads · slots, N · T).
    keys = np.stack([np.kron(np.eye(heads, dtype=np.float32), twin.key) for twin in twins])
    sums = Writer(graph, twins[-1].match.root, f"{w.scope}/{SUMS}")
    scores = sums.op("MatMul", keys, sums.transpose(sums.reshape(stacked, count, -1, channels), 0, 2, 1))
    scores = sums.reshape(scores, count, heads * slots, -1, tokens)
    with sums.wide():
        spread = sums.op("ReduceLogSumExp", scores, np.array([3], np.int64), keepdims=1)
        spread = sums.reshape(sums.transpose(spread, 0, 2, 1, 3), count, -1, heads, 1, slots)
        # A constant for all slots changes nothing; this one brings z close to zero.
        mask = sums.op("Sub", np.array(math.log(tokens), np.float32), spread)

    # The compiler fuses an attention only if its keys are computed, and with a dynamic batch its values too: so zero is
    # added to them.
    with w.wide():
        zero = w.op("Mul", mask, np.array(0, np.float32))
    key = np.stack([np.pad(twin.key.T, ((0, padded - own), (0, 0))) for twin in twins])[:, None, None]
    computed_key = w.op("Add", key, zero)
    value = np.stack([np.pad(twin.value.T, ((0, 0), (0, padded - own))) for twin in twins])[:, None, None]
    values = Writer(graph, twins[-1].match.root, f"{w.scope}/{VALUES}")
    computed_value = values.op("Add", value, values.transpose(zero, 0, 1, 2, 4, 3))
    query = w.reshape(stacked, count, -1, tokens, heads, own)
    if padded > own:
        query = w.op("Pad", query, np.array([0] * 9 + [padded - own], np.int64))
    query = w.transpose(query, 0, 1, 3, 2, 4)
    product = w.op("MatMul", query, computed_key)
    with w.wide():
        weights = w.op("Softmax", w.op("Add", product, mask), axis=-1)
    mixed = w.transpose(w.op("MatMul", weights, computed_value), 0, 1, 3, 2, 4)
    if padded > own:
        mixed = w.op("Slice", mixed, *(np.array([number], np.int64) for number in (0, own, 4)))
    product = w.op("Mul", w.reshape(mixed, count, -1, tokens, channels), stacked)
    normed = _norm(Writer(graph, twins[-1].match.root, f"{scope(twins[-1].match.root)}/{STEPS}"), twins, product)
    pieces = [normed] if count == 1 else w.split(normed, 0, [1] * count)
    for twin, piece in zip(twins, pieces, strict=True):
        w.replace(twin.maps, w.reshape(piece, -1, twin.height, twin.width, channels))
    return normed


def _norm(w: Writer, twins: list[_Attention], value: ir.Value) -> ir.Value:
    """Write the layer norm of (twins, N, T, C), each with its own scale and bias."""
    if len(twins) == 1:
        return w.op("LayerNormalization", value, twins[0].scale, twins[0].bias, axis=-1, epsilon=twins[0].epsilon)
    ones, zeros = np.ones_like(twins[0].scale), np.zeros_like(twins[0].bias)
    plain = w.op("LayerNormalization", value, ones, zeros, axis=-1, epsilon=twins[0].epsilon)
    with w.wide():
        scaled = w.op("Mul", plain, np.stack([twin.scale for twin in twins])[:, None, None])
        return w.op("Add", scaled, np.stack([twin.bias for twin in twins])[:, None, None])


def _write_gates(graph: ir.Graph, twins: list[_Attention], gates: list[_Gates], stacked: ir.Value) -> None:
    first, count = twins[0], len(twins)
    height, width, channels, tokens = first.height, first.width, first.channels, first.height * first.width
    w = Writer(graph, gates[-1].match.root, scope(gates[-1].match.root))
    axis = np.array([3], np.int64)
    pooled = w.op(
        "Concat", w.op("ReduceMean", stacked, axis, keepdims=1), w.op("ReduceMax", stacked, axis, keepdims=1), axis=3
    )
    maps = w.reshape(w.transpose(pooled, 1, 0, 3, 2), -1, 2 * count, height, width)
    kernel = np.zeros((count, 2 * count, *gates[0].kernel.shape[2:]), np.float32)
    for index, gate in enumerate(gates):
        kernel[index, 2 * index : 2 * index + 2] = gate.kernel[0]
    spatial = w.op("Sigmoid", w.op("Conv", maps, kernel, np.zeros(count, np.float32), pads=gates[0].pads))
    spatial = w.transpose(w.reshape(spatial, -1, count, tokens, 1), 1, 0, 2, 3)
    gated = w.op("Mul", stacked, spatial)
    rows = np.array([2], np.int64)
    squeeze = np.stack([gate.squeeze for gate in gates])[:, None, None]
    excite = np.stack([gate.excite.T for gate in gates])[:, None]
    channel = Writer(graph, gates[-1].match.root, f"{w.scope}/{GATE}")
    pooled = w.op("Concat", *(w.op(kind, gated, rows, keepdims=1) for kind in ("ReduceMean", "ReduceMax")), axis=2)
    with channel.wide():
        each = channel.reshape(pooled, count, -1, 2, 1, channels)
        hidden = channel.op("ReduceSum", channel.op("Mul", each, squeeze), np.array([4], np.int64), keepdims=1)
        both = channel.op("ReduceSum", channel.op("Relu", hidden), rows, keepdims=0)
        excited = channel.op("ReduceSum", channel.op("Mul", both, excite), rows, keepdims=1)
        factor = channel.op("Sigmoid", excited)
    out = w.op("Mul", gated, factor)
    pieces = [out] if count == 1 else w.split(out, 0, [1] * count)
    for twin, gate, piece in zip(twins, gates, pieces, strict=True):
        pixels = w.reshape(piece, -1, twin.height, twin.width, channels)
        w.replace(gate.match.root.outputs[0], w.transpose(pixels, *PIXELS_TO_MAPS))
