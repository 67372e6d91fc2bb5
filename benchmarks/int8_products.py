"""`make bench-int8`: compile each kind of product in FP16 and in INT8, and show the kernels that a backend chooses.

Each product is between two pointwise operators, in the sizes of HEMF's stages, and is compiled with TensorRT-RTX for a
compute capability, in FP16 and with the quantization that `calibrate` inserts. A dense convolution is compiled a third
time as gathered patches, an int8 matrix product, and a reshape back. No GPU is needed: types and kernels are the
builder's, the time is modelled by `engines.census` at the target's peak rates. Earlier results are cached by the
builder's version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import copy_of, image_shapes, prepare
from hemf_export.calibration.products import Product, find_products
from hemf_export.calibration.qdq import quantize
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import targets
from hemf_export.engines.census import Census
from hemf_export.engines.targets import Chip
from hemf_export.files.errors import BadInputError
from hemf_export.precision import trial_engine
from hemf_export.precision.trial_engine import Compiler

STAGES = ((96, 56), (192, 28), (384, 14), (768, 7))  # channels, and side in pixels


class Graph:
    """Writer of a small classifier: a feature map, the product, two logits."""

    def __init__(self, channels: int, side: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)
        self.maps = self.op("Relu", self.op("Conv", "images", self.weight(channels, 3, 1, 1)))
        self.side, self.channels = side, channels

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Add a weight."""
        return self.constant((self._generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32))

    def constant(self, array: NDArray[np.generic]) -> str:
        """Add a constant."""
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape a value."""
        return self.op("Reshape", value, self.constant(np.array(shape, np.int64)))

    def finish(self, product: str, *, axis: int = 1) -> ir.Model:
        """Append an activation, the mean and a classifier to the product, whose channels are at `axis`."""
        value = self.op("Relu", product)
        if axis != 1:
            value = self.op("Transpose", value, perm=[0, 2, 1])
        flat = self.reshape(value, -1, self.channels, self.side**2)
        mean = self.op("ReduceMean", flat, self.constant(np.array([2], np.int64)), keepdims=0)
        logits = self.op("MatMul", mean, self.weight(self.channels, 2))
        shapes: dict[str, list[str | int | None]] = {"images": ["n", 3, self.side, self.side], logits: ["n", 2]}
        ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, own) for name, own in shapes.items()]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], self.weights)
        return prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def convolution(channels: int, side: int, *, kernel: int, groups: int = 1) -> ir.Model:
    """Build a convolution that keeps the map's size."""
    graph = Graph(channels, side)
    weight = graph.weight(channels, channels // groups, kernel, kernel)
    return graph.finish(graph.op("Conv", graph.maps, weight, pads=[kernel // 2] * 4, group=groups))


def gathered(channels: int, side: int, *, kernel: int) -> ir.Model:
    """Build a dense convolution as a matrix product of gathered patches."""
    graph = Graph(channels, side)
    pixels = graph.op("Transpose", graph.maps, perm=[0, 2, 3, 1])
    if kernel > 1:
        edge = kernel // 2
        padded = graph.op("Pad", pixels, graph.constant(np.array([0, edge, edge, 0] * 2, np.int64)))
        axes = graph.constant(np.array([1, 2], np.int64))
        corners = [(y, x) for y in range(kernel) for x in range(kernel)]
        taps = []
        for y, x in corners:
            ends = [graph.constant(np.array(at, np.int64)) for at in ((y, x), (y + side, x + side))]
            taps.append(graph.op("Slice", padded, *ends, axes))
        pixels = graph.op("Concat", *taps, axis=-1)
    rows = graph.reshape(pixels, -1, kernel**2 * channels)
    product = graph.op("MatMul", rows, graph.weight(kernel**2 * channels, channels))
    return graph.finish(graph.op("Transpose", graph.reshape(product, -1, side, side, channels), perm=[0, 3, 1, 2]))


def product_of_rows(channels: int, side: int) -> ir.Model:
    """Build a matrix product of rows and a weight."""
    graph = Graph(channels, side)
    rows = graph.op("Transpose", graph.reshape(graph.maps, -1, channels, side**2), perm=[0, 2, 1])
    rows = graph.op("Sigmoid", rows)
    return graph.finish(graph.op("MatMul", rows, graph.weight(channels, channels)), axis=2)


def product_of_activations(channels: int, side: int) -> ir.Model:
    """Build a matrix product of two activations, without a softmax."""
    graph = Graph(channels, side)
    maps = graph.reshape(graph.maps, -1, channels, side**2)
    turned = graph.op("Transpose", graph.op("Sigmoid", maps), perm=[0, 2, 1])
    mixed = graph.op("Tanh", graph.op("MatMul", maps, turned))
    return graph.finish(graph.op("MatMul", mixed, maps))


def cases() -> Iterator[tuple[str, Callable[[], ir.Model], Callable[[], ir.Model] | None]]:
    """Yield name, graph, and the graph of gathered rows, if any."""
    for channels, side in STAGES:
        size = f"{channels}×{side}×{side}"
        for kernel in (3, 1):
            yield (
                f"conv {kernel}×{kernel}, {size}",
                lambda c=channels, s=side, k=kernel: convolution(c, s, kernel=k),  # type: ignore[misc]
                lambda c=channels, s=side, k=kernel: gathered(c, s, kernel=k),  # type: ignore[misc]
            )
        yield f"matrix product, {size}", lambda c=channels, s=side: product_of_rows(c, s), None  # type: ignore[misc]
    channels, side = STAGES[2]
    size = f"{channels}×{side}×{side}"
    yield f"grouped 3×3, {size}", lambda: convolution(channels, side, kernel=3, groups=8), None
    yield f"depthwise 3×3, {size}", lambda: convolution(channels, side, kernel=3, groups=channels), None
    yield f"two activations, {size}", lambda: product_of_activations(channels, side), None


def main() -> None:
    """Build all, and print a table for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default="sm_75,sm_86,sm_89,sm_120")
    parser.add_argument("--backend", choices=["tensorrt-rtx", "tensorrt"], default="tensorrt-rtx",
                        help="tensorrt lists its kernels only on a GPU of the target's kind")  # fmt: skip
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    for name in arguments.targets.split(","):
        compiler = Compiler("tensorrt" if arguments.backend == "tensorrt" else "tensorrt-rtx", targets.find(name))
        chip = compiler.chip
        rows, version = [], ""
        for title, write, write_rows in cases():
            with ConsoleProgress().task(f"{name}: {title}"):
                model = write()
                plain = counted(model, compiler, arguments.batch, int8=False)
                int8 = counted(model, compiler, arguments.batch, int8=True)
                gather = None if write_rows is None else counted(write_rows(), compiler, arguments.batch, int8=True)
            version = plain.version if plain is not None else version
            rows.append(
                (title, *_cells(plain, plain, chip)[:3], *_cells(int8, plain, chip), *_cells(gather, plain, chip)[1:])
            )
        where = f"{arguments.backend} {version} for {name} at batch {arguments.batch}"
        title = f"{where}, modelled in µs at the published rates of {chip.product}"
        kinds = (
            ("FP16: in", "kernels", "µs"),
            ("INT8: in", "kernels", "µs", "of FP16"),
            ("rows: kernels", "µs", "of FP16"),
        )
        console.table(title, ("product", *(heading for kind in kinds for heading in kind)), rows)


def counted(model: ir.Model, compiler: Compiler, batch: int, *, int8: bool) -> Census | None:
    """Count the kernels of a graph in FP16, its middle products optionally in INT8; None if the backend refuses it."""
    copy = copy_of(model)
    if int8:
        shapes = image_shapes(copy)
        middle = find_products(copy.graph, shapes)[1:-1]  # after the first convolution, before the classifier
        quantize(copy, [_allowed(each) for each in middle], trial_engine.synthetic_statistics(), "max")
    to_float16(copy, {})
    try:
        return trial_engine.count(copy, replace(compiler, batch=batch))
    except BadInputError:
        return None


def _allowed(product: Product) -> Product:
    """Remove a product's refusal, to measure what quantizing it would give."""
    return replace(product, refusal=None)


def _cells(census: Census | None, half: Census | None, chip: Chip) -> tuple[str, str, str, str]:
    if census is None or half is None:
        return "–", "–", "–", "–"
    time, base = census.model_ms(chip), half.model_ms(chip)
    assert time is not None
    assert base is not None
    kinds = [kernel.product_type for kernel in census.kernels if kernel.product_type is not None]
    inner = kinds[1:-1] or kinds  # the first convolution and the classifier are in float16
    return (
        ", ".join(dict.fromkeys(map(str, inner))), str(census.launches), f"{1000 * time:.0f}", f"{time / base:.2f}"
    )  # fmt: skip


if __name__ == "__main__":
    main()
