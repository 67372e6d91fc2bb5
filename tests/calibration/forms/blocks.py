"""The blocks that passes look for, as our exporter writes them, small and with random weights; and nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MAPS_TO_PIXELS, PIXELS_TO_MAPS = [0, 2, 3, 1], [0, 3, 1, 2]


class Builder:
    """Nodes one after another; arrays become initializers, and every node is named after its output.

    Args:
        scope: what names begin with.
        seed: of the random weights.
    """

    def __init__(self, scope: str = "block", seed: int = 0) -> None:
        self.scope = scope
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (self._generator.standard_normal(shape) * scale).astype(np.float32)

    def op(self, kind: str, *inputs: str | NDArray[np.generic] | None, **attributes: Any) -> str:
        """Add a node of one output; the output's name."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str | NDArray[np.generic] | None, outputs: int, **attributes: Any) -> list[str]:
        name = f"{self.scope}/{kind.lower()}_{len(self.nodes)}"
        names = [self._input(f"{name}.{place}", given) for place, given in enumerate(inputs)]
        made = [name] if outputs == 1 else [f"{name}:{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name=name, **attributes))
        return made

    def constant(self, array: NDArray[np.generic]) -> str:
        """An initializer that several nodes read."""
        return self._input(f"{self.scope}/weight_{len(self.weights)}", array)

    def _input(self, name: str, given: str | NDArray[np.generic] | None) -> str:
        if given is None or isinstance(given, str):
            return given or ""
        self.weights.append(numpy_helper.from_array(given, name))
        return name

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("Reshape", value, np.array(shape, np.int64))

    def transpose(self, value: str, *permutation: int) -> str:
        return self.op("Transpose", value, perm=list(permutation))

    def linear(self, rows: str, taken: int, given: int, **attributes: Any) -> str:
        """A Gemm with random weights, as our exporter writes it."""
        weight, bias = self.normal(given, taken, scale=taken**-0.5), self.normal(given, scale=0.1)
        return self.op("Gemm", rows, weight, bias, transB=1, **attributes)

    def norm(self, value: str, channels: int, epsilon: float = 1e-6) -> str:
        scale, bias = 1 + self.normal(channels, scale=0.2), self.normal(channels, scale=0.2)
        return self.op("LayerNormalization", value, scale, bias, axis=-1, epsilon=epsilon)

    def model(
        self, inputs: dict[str, Sequence[int | str]], outputs: dict[str, Sequence[int | str]], opset: int = 20
    ) -> onnx.ModelProto:
        """The graph, of whose outputs each gets its name by an Identity: `outputs` are values' names and shapes."""
        named = []
        for place, (value, shape) in enumerate(outputs.items()):
            self.nodes.append(helper.make_node("Identity", [value], [f"y{place}"], name=f"output_{place}"))
            named.append(helper.make_tensor_value_info(f"y{place}", TensorProto.FLOAT, shape))
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            named, self.weights,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(made, full_check=True)
        return made


def quarter_turn(channels: int) -> NDArray[np.float32]:
    """Takes each pair (a, b) of a row to (-b, a)."""
    turn = np.zeros((channels, channels), np.float32)
    for pair in range(0, channels, 2):
        turn[pair + 1, pair], turn[pair, pair + 1] = -1, 1
    return turn


def retention(
    *, heads: int = 4, channels: int = 4, height: int = 5, width: int = 6, kernel: int = 5, seed: int = 0,
    batch: int | str = "n", opset: int = 20, change: str = "",
) -> onnx.ModelProto:  # fmt: skip
    """Retention on maps (N, C, H, W), C = heads · channels; `change` makes of it what only looks like one."""
    b = Builder("global_stages.0.retentions.0", seed)
    joined = heads * channels
    rows = b.reshape(b.transpose("x", *MAPS_TO_PIXELS), -1, joined)
    angles = b.normal(height, width, 1, channels // 2)
    angles = np.repeat(np.repeat(angles, 2, -1), heads, 2)
    if change == "another table for each head":
        angles = angles + b.normal(1, 1, heads, 1, scale=0.1)
    if change == "another angle for each of a pair":
        angles = angles + b.normal(1, 1, 1, channels, scale=0.1)
    turns = [quarter_turn(channels), quarter_turn(channels)]
    if change == "a turn of the other direction":
        turns[1] = turns[1].T.copy()
    gemm = {"alpha": 0.5} if change == "a scaled product" else {}

    def rotated(index: int) -> str:
        product = b.linear(rows, joined, joined, **(gemm if index == 1 else {}))
        given = b.reshape(product, -1, height, width, heads, channels)
        shift = 0.1 if change == "other tables for the key" and index else 0.0
        cosine, sine = np.cos(angles + np.float32(shift)), np.sin(angles + np.float32(shift))
        turn = b.op("Identity", turns[index]) if change == "a computed turn" else turns[index]
        return b.op("Add", b.op("Mul", given, cosine), b.op("Mul", b.op("MatMul", given, turn), sine))

    query, key = rotated(0), rotated(1)
    if change == "a computed weight":
        weight = b.op("Relu", b.normal(joined, joined, scale=joined**-0.5))
        value_rows = b.op("Gemm", rows, weight, b.normal(joined), transB=1)
    else:
        value_rows = b.linear(rows, joined, joined)
    value = b.reshape(value_rows, -1, height, width, heads, channels)

    def attend(query: str, key: str, value: str, size: int) -> tuple[str, str]:
        scores = b.op("Add", b.op("MatMul", query, key), -np.abs(b.normal(heads, size, size)))
        weights = b.op("Softmax", scores, axis=-1)
        return b.op("MatMul", weights, value), weights

    mixed, weights = attend(
        b.transpose(query, 0, 1, 3, 2, 4), b.transpose(key, 0, 1, 3, 4, 2), b.transpose(value, 0, 1, 3, 2, 4), width
    )
    mixed, _ = attend(
        b.transpose(query, 0, 2, 3, 1, 4), b.transpose(key, 0, 2, 3, 4, 1), b.transpose(mixed, 0, 3, 2, 1, 4), height
    )
    joined_rows = b.reshape(b.transpose(mixed, 0, 3, 1, 2, 4), -1, joined)
    maps = b.transpose(b.reshape(value_rows, -1, height, width, joined), *PIXELS_TO_MAPS)
    groups = 1 if change == "a dense convolution" else joined
    weight = b.normal(joined, joined // groups, kernel, kernel, scale=0.2)
    positional = b.op(
        "Conv", maps, weight, b.normal(joined), group=groups, pads=[kernel // 2] * 4, kernel_shape=[kernel, kernel]
    )
    positional_rows = b.reshape(b.transpose(positional, *MAPS_TO_PIXELS), -1, joined)
    out = b.linear(b.op("Add", joined_rows, positional_rows), joined, joined)
    pixels = b.reshape(out, -1, height, width, joined)
    outputs: dict[str, Sequence[int | str]] = {
        b.transpose(pixels, *PIXELS_TO_MAPS): [batch, joined, height, width],
    }
    if change == "weights that are read outside":
        outputs[weights] = [batch, height, heads, width, width]
    return b.model({"x": [batch, joined, height, width]}, outputs, opset)


def external_attention(
    b: Builder, maps: str, *, heads: int, channels: int, height: int, width: int, slots: int, spread: float, change: str
) -> str:
    """The pixels m = LN(MHEA(n)·n), n = LN(x)."""
    joined, tokens = heads * channels, height * width
    pixels = b.transpose(maps, *MAPS_TO_PIXELS)
    scale, bias = 1 + b.normal(joined, scale=0.2), b.normal(joined, scale=0.2)
    normalized = b.op("LayerNormalization", pixels, scale, bias, axis=-1, epsilon=1e-6)
    rows = b.reshape(normalized, -1, joined)
    turned = b.reshape(b.transpose(b.reshape(normalized, -1, tokens, joined), 0, 2, 1), -1, heads, channels, tokens)
    key, value = b.normal(slots, channels, scale=spread), b.normal(channels, slots, scale=slots**-0.5)
    weights = b.op("Softmax", b.op("MatMul", key, turned), axis=-1)
    axis, keep = {"divided over another axis": (1, 1), "divided over the tokens": (3, 1)}.get(change, (2, 1))
    total = b.op("ReduceSum", weights, np.array([axis], np.int64), keepdims=keep)
    weights = b.op("Div", weights, total)
    mixed = b.transpose(b.reshape(b.op("MatMul", value, weights), -1, joined, tokens), 0, 2, 1)
    product = b.reshape(b.op("Mul", b.reshape(mixed, -1, joined), rows), -1, height, width, joined)
    return b.op("LayerNormalization", product, scale, bias, axis=-1, epsilon=1e-6)


def write_gates(b: Builder, pixels: str, *, channels: int, change: str) -> str:
    """Spatial and channel gate of the maps of pixels."""
    maps = b.transpose(pixels, *PIXELS_TO_MAPS)
    one, both = np.array([1], np.int64), np.array([2, 3], np.int64)
    pooled = b.op("Concat", b.op("ReduceMean", maps, one), b.op("ReduceMax", maps, one), axis=1)
    bias = b.normal(1) if change == "a gate with a bias" else np.zeros(1, np.float32)
    pads = {"pads": [3, 3, 3, 3]}
    if change == "a dilated gate":
        pads = {"pads": [6, 6, 6, 6], "dilations": [2, 2]}
    if change == "a gate that pads itself":
        pads = {"auto_pad": "SAME_UPPER"}
    spatial = b.op("Sigmoid", b.op("Conv", pooled, b.normal(1, 2, 7, 7, scale=0.2), bias, **pads))
    gated = b.op("Mul", maps, spatial)
    reduced = max(1, channels // 4)
    squeeze, excite = b.normal(reduced, channels, scale=0.3), b.normal(channels, reduced, scale=0.3)

    mean, largest = (b.op(kind, gated, both, keepdims=0) for kind in ("ReduceMean", "ReduceMax"))
    squeezing, exciting = b.constant(squeeze), b.constant(excite)  # the same for both
    first, second = (
        b.op("Gemm", b.op("Relu", b.op("Gemm", pooled, squeezing, transB=1)), exciting, transB=1)
        for pooled in (mean, largest)
    )
    gate = b.op("Unsqueeze", b.op("Sigmoid", b.op("Add", first, second)), both)
    return b.op("Mul", gated, gate)


def mixed_attention(
    *, branches: int = 2, gates: bool = True, heads: int = 4, channels: int = 4, height: int = 5, width: int = 6,
    slots: Sequence[int] = (9, 9), spread: float = 1.0, chained: bool = False, joined_up: bool = False,
    batch: int | str = "n", opset: int = 20, seed: int = 0, change: str = "",
) -> onnx.ModelProto:  # fmt: skip
    """Mixed Attention of so many maps, beside or (`chained`) behind one another; `joined_up`, of one, and summed."""
    b = Builder("fusion_stages.0.local_attention", seed)
    joined = heads * channels
    shape: list[int | str] = [batch, joined, height, width]
    inputs: dict[str, Sequence[int | str]] = {}
    outputs: dict[str, Sequence[int | str]] = {}
    maps = ""
    for branch in range(branches):
        b.scope = f"fusion_stages.0.{'global' if branch else 'local'}_attention"
        if not maps or not chained:
            maps = "x0" if joined_up else f"x{branch}"
            inputs[maps] = shape
        pixels = external_attention(
            b, maps, heads=heads, channels=channels, height=height, width=width, slots=slots[branch % len(slots)],
            spread=spread, change=change,
        )  # fmt: skip
        maps = write_gates(b, pixels, channels=joined, change=change) if gates else b.transpose(pixels, *PIXELS_TO_MAPS)
        outputs[maps] = shape
        if change == "pixels that are read outside":
            outputs[pixels] = [batch, height, width, joined]
    if joined_up:
        outputs = {b.op("Add", *outputs): shape}
    return b.model(inputs, outputs, opset)
