"""Rewrite products over the channels of maps as 1×1 convolutions, where their inputs and outputs are maps.

Our network computes them on rows of pixels, which is fast on a CPU. TensorRT fuses bias, activation and a residual into
a convolution, but no residual into a Gemm, and each change between rows and maps that doesn't cancel is a kernel. So
nodes between two maps are rewritten on maps: products, sums, activations, concatenations and layer norms.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hemf_export.calibration.forms.matching import (
    MAPS_TO_PIXELS,
    PIXELS_TO_MAPS,
    Writer,
    attribute,
    constant,
    order,
    scope,
    target_shape,
    used_names,
)

_VALUE_BY_VALUE = ("Gelu", "Relu", "Sigmoid", "Erf", "Tanh", "HardSigmoid", "HardSwish", "Elu", "LeakyRelu", "Clip")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def rewrite(model: ir.Model) -> int:
    """Rewrite computations on rows between maps, in place; return the number of products that became convolutions."""
    graph = model.graph
    maps = _Maps(graph)
    for node in list(graph):
        shape = target_shape(node.inputs[0].producer()) if order(node) == PIXELS_TO_MAPS and node.inputs[0] else None
        if shape is None or len(shape) != 4 or node.inputs[0] is None:
            continue
        source = node.inputs[0].producer()
        assert source is not None
        rows = source.inputs[0]
        assert rows is not None
        if _channels(rows) != shape[3]:
            continue
        if (rewritten := maps.of(rows, (shape[1], shape[2]))) is not None:
            maps.writer(node).replace(node.outputs[0], rewritten)
    maps.settle()
    return maps.products


class _Maps:
    """Maps (N, C, H, W) of values on rows (N·H·W, C) or pixels (N, H, W, C), written once each.

    Args:
        graph: graph to write into.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.products = 0
        self._used_names = used_names(graph)
        self._maps: dict[tuple[ir.Value, tuple[int, int]], ir.Value | None] = {}

    def writer(self, node: ir.Node) -> Writer:
        return Writer(self.graph, node, f"{scope(node)}/maps", self._used_names)

    def settle(self) -> None:
        """Replace the rows and pixels that have maps now by those maps, for all their other readers."""
        for (value, _), maps in self._maps.items():
            node = value.producer()
            if maps is None or node is None or node.op_type in ("Reshape", "Transpose"):
                continue
            w, channels = self.writer(node), _channels(value)
            pixels = w.transpose(maps, *MAPS_TO_PIXELS)
            w.replace(value, pixels if _rank(value) == 4 else w.reshape(pixels, -1, channels))

    def of(self, value: ir.Value, size: tuple[int, int]) -> ir.Value | None:
        """Return the maps of rows; None where nothing that they are computed from is a map."""
        key = (value, size)
        if key not in self._maps:
            self._maps[key] = self._find(value, size)
        return self._maps[key]

    def _find(self, value: ir.Value, size: tuple[int, int]) -> ir.Value | None:
        node = value.producer()
        if node is None or node.inputs[0] is None:
            return None
        given = node.inputs[0]
        if node.op_type == "Reshape":
            # From pixels to rows or back: the last axis is the channels before and after.
            if not (self._is_rows(node) or self._is_pixels(node, size)) or _channels(given) != _channels(value):
                return None
            return self.of(given, size)
        if node.op_type == "Transpose":
            return given if order(node) == MAPS_TO_PIXELS and _is_map(given, size) else None
        if node.op_type in _VALUE_BY_VALUE:
            return self._value_by_value(node, size)
        if node.op_type in _ARITHMETIC:
            return self._arithmetic(node, size)
        if node.op_type == "Concat":
            return self._concat(node, size)
        if node.op_type == "LayerNormalization":
            return self._norm(node, size)
        return self._product(node, size) if node.op_type == "Gemm" else None

    def _is_rows(self, node: ir.Node) -> bool:
        shape = target_shape(node)
        return shape is not None and len(shape) == 2 and shape[1] > 0

    def _is_pixels(self, node: ir.Node, size: tuple[int, int]) -> bool:
        shape = target_shape(node)
        return shape is not None and len(shape) == 4 and shape[1:3] == size

    def _either(self, values: list[ir.Value], size: tuple[int, int], node: ir.Node) -> list[ir.Value] | None:
        """Return the maps of several values, if at least one comes from a map; the others are converted to maps."""
        maps = [self.of(value, size) for value in values]
        if all(each is None for each in maps):
            return None
        w = self.writer(node)
        return [
            self._converted(w, value, size) if each is None else each for value, each in zip(values, maps, strict=True)
        ]

    def _converted(self, w: Writer, value: ir.Value, size: tuple[int, int]) -> ir.Value:
        channels = _channels(value)
        return w.transpose(w.reshape(value, -1, *size, channels), *PIXELS_TO_MAPS)

    def _value_by_value(self, node: ir.Node, size: tuple[int, int]) -> ir.Value | None:
        assert node.inputs[0] is not None
        given = self.of(node.inputs[0], size)
        attributes = {name: entry.value for name, entry in node.attributes.items()}
        return None if given is None else self.writer(node).op(node.op_type, given, *node.inputs[1:], **attributes)

    def _arithmetic(self, node: ir.Node, size: tuple[int, int]) -> ir.Value | None:
        first, second = node.inputs
        assert first is not None
        assert second is not None
        constants = [constant(value) for value in (first, second)]
        if all(array is None for array in constants):
            if not _are_alike(first, second):
                return None
            maps = self._either([first, second], size, node)
            return None if maps is None else self.writer(node).op(node.op_type, *maps)
        index = 0 if constants[0] is None else 1
        array, given = constants[1 - index], node.inputs[index]
        assert array is not None
        assert given is not None
        if array.ndim > 1 or (maps_of_input := self.of(given, size)) is None:
            return None
        wide = array if array.ndim == 0 or array.size == 1 else array.reshape(-1, 1, 1)
        inputs: list[ir.Value | np.ndarray] = [maps_of_input, wide] if index == 0 else [wide, maps_of_input]
        return self.writer(node).op(node.op_type, *inputs)

    def _concat(self, node: ir.Node, size: tuple[int, int]) -> ir.Value | None:
        values = [value for value in node.inputs if value is not None]
        if attribute(node, "axis", 0) not in (1, -1) or not all(
            _rank(value) == 2 and _channels(value) for value in values
        ):
            return None
        maps = self._either(values, size, node)
        return None if maps is None else self.writer(node).op("Concat", *maps, axis=1)

    def _norm(self, node: ir.Node, size: tuple[int, int]) -> ir.Value | None:
        assert node.inputs[0] is not None
        rank = _rank(node.inputs[0])
        if attribute(node, "axis", -1) not in (-1, None if rank is None else rank - 1) or len(node.outputs) > 1:
            return None
        if (given := self.of(node.inputs[0], size)) is None:
            return None
        w = self.writer(node)
        attributes = {name: entry.value for name, entry in node.attributes.items()} | {"axis": -1}
        pixels = w.op("LayerNormalization", w.transpose(given, *MAPS_TO_PIXELS), *node.inputs[1:], **attributes)
        return w.transpose(pixels, *PIXELS_TO_MAPS)

    def _product(self, node: ir.Node, size: tuple[int, int]) -> ir.Value | None:
        weight = constant(node.inputs[1])
        plain = attribute(node, "transB", 0) == 1 and attribute(node, "transA", 0) == 0
        plain = plain and attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        array = None if bias is None else constant(bias)
        if weight is None or not plain or (bias is not None and (array is None or array.shape != weight.shape[:1])):
            return None
        assert node.inputs[0] is not None
        if sum(user.op_type == "Gemm" for user in node.inputs[0].consumers()) > 1:
            return None  # the compiler merges products that read the same rows
        if _is_normalized(node):
            return None  # the compiler fuses bias, residual and layer norm into one kernel
        if (given := self.of(node.inputs[0], size)) is None:
            return None
        self.products += 1
        kernel = [weight[:, :, None, None]] if array is None else [weight[:, :, None, None], array]
        return self.writer(node).op("Conv", given, *kernel, kernel_shape=[1, 1])


def _is_normalized(product: ir.Node) -> bool:
    """Return whether a product's result goes into a layer norm, directly or through one sum."""
    readers = [user for reader in product.outputs[0].consumers() for user in _after_sum(reader)]
    return any(user.op_type == "LayerNormalization" for user in readers)


def _after_sum(node: ir.Node) -> list[ir.Node]:
    return list(node.outputs[0].consumers()) if node.op_type == "Add" else [node]


def _channels(value: ir.Value) -> int:
    """Return the size of the last axis; 0 if unknown."""
    size = None if value.shape is None or not len(value.shape) else value.shape[-1]
    return size if isinstance(size, int) else 0


def _are_alike(first: ir.Value, second: ir.Value) -> bool:
    """Return whether two values have the same shape, as far as known, so that neither is broadcast."""
    if not _channels(first) or _channels(first) != _channels(second) or _rank(first) != _rank(second):
        return False
    assert first.shape is not None
    assert second.shape is not None
    pairs = zip(first.shape, second.shape, strict=True)
    return all(
        one == other or not ((isinstance(one, int) and isinstance(other, int)) or 1 in (one, other))
        for one, other in pairs
    )


def _is_map(value: ir.Value, size: tuple[int, int]) -> bool:
    """Return whether a value is a map (N, C, H, W) of this height and width."""
    return value.shape is not None and len(value.shape) == 4 and tuple(value.shape[2:]) == size


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)
