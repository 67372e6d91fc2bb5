"""`make bench-engine`: what TensorRT-RTX compiles from the authors' architecture and from ours, pass by pass.

No GPU is needed: kernels and bytes are counted in the builder's own list, and the time is `engines.census`'s model of
them. The yardstick is the architecture written naively, exported plainly for one batch size. Weights are from a seed:
which kernels are compiled doesn't depend on their values, nor do INT8's on the ranges, which are made up here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from benchmarks.export_speed import naive_graph, naive_weights
from calibration import forms
from calibration.fp16 import to_float16
from calibration.graphs import copy_of, parse, prepare
from calibration.products import find_products
from calibration.qdq import quantize
from calibration.shapes import image_shapes
from engines import census, chips, targets
from engines.census import Census
from hemf import artifacts
from hemf.authors import convert, infer_config
from hemf.config import SIZES, HemfConfig
from hemf.images import Preprocess
from hemf.initialization import build
from hemf.model import HEMF
from hemf_export import console, onnx_export
from hemf_export.trial_engine import made_up_statistics

CLASSES = 7
AUTHORS = "the authors' architecture"


@dataclass(frozen=True)
class Row:
    """A graph, and what is compiled from it."""

    name: str
    nodes: int
    census: Census


def main() -> None:
    """Compile all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="hemf-base", help="hemf-base,hemf-small,hemf-tiny")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--targets", default="sm_75", help="sm_75,sm_86,sm_89,sm_120")
    parser.add_argument("--every-pass", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    for network in arguments.networks.split(","):
        for batch in map(int, arguments.batches.split(",")):
            for name in arguments.targets.split(","):
                compare(network, batch, targets.find(name), every_pass=arguments.every_pass)


def compare(network: str, batch: int, target: targets.Target, *, every_pass: bool) -> None:
    """Print one table: a network at one batch size on one target."""
    rows = []
    for name, model in graphs(SIZES[network], batch, every_pass=every_pass):
        with console.step(f"{network}, batch {batch}, {target.sm}: {name}"):
            rows.append(Row(name, len(list(model.graph)), count(model, target, batch)))
    title = f"{network} at batch {batch} for {target.sm}, modelled on a T4's rates"
    headings = ("graph", "nodes", "kernels", "MB of activations", "of weights", "model ms", "of the first", "fitted ms")
    console.table(title, headings, [_cells(row, rows[0], batch) for row in rows])


def count(model: ir.Model, target: targets.Target, batch: int) -> Census:
    """The census of a graph in memory."""
    with artifacts.scratch() as folder:
        path = folder / "graph.onnx"
        ir.save(model, path)
        return census.take(path, target, batch=batch)


def graphs(config: HemfConfig, batch: int, *, every_pass: bool = True) -> Iterator[tuple[str, ir.Model]]:
    """The graphs to compare: the authors' architecture where it has this size, ours plain, with each pass, in INT8."""
    if config.name == "hemf-base":
        state = naive_weights(0, CLASSES)
        yield AUTHORS, in_float16(parse(naive_graph(state, CLASSES, batch)))
        converted, _ = convert(state)
        model = HEMF(infer_config(converted))
        model.load_state_dict(converted)
    else:
        model = build(config, seed=0)
    options = onnx_export.Options(batch=batch)
    exported = onnx_export.export_graph(model.eval(), Preprocess.for_size(config.image_size), options)
    plain = prepare(ir.to_proto(exported))
    yield "ours, as a CPU likes it", in_float16(copy_of(plain))
    names = [step.name for step in forms.PASSES]
    for number in range(1 if every_pass else len(names), len(names) + 1):
        rewritten = copy_of(plain)
        forms.rewrite(rewritten, "tensorrt-rtx", only=names[:number])
        yield f"and {names[number - 1]}" if every_pass else "ours, for TensorRT-RTX", in_float16(rewritten)
    yield "in INT8, all that can be", in_int8(copy_of(plain))


def in_float16(model: ir.Model) -> ir.Model:
    """Float16 with the islands that the structure asks for; in place."""
    to_float16(model)
    return model


def in_int8(model: ir.Model) -> ir.Model:
    """Every product that INT8 is used for in INT8, with made-up ranges, the rest in float16; in place."""
    forms.rewrite(model, "tensorrt-rtx", only=forms.first("tensorrt-rtx"))
    products = [each for each in find_products(model.graph, image_shapes(model)) if each.refusal is None]
    quantize(model, products, made_up_statistics(), "max")
    forms.rewrite(model, "tensorrt-rtx", only=forms.last("tensorrt-rtx"))
    return in_float16(model)


def _cells(row: Row, first: Row, batch: int) -> tuple[str, ...]:
    found, chip = row.census, chips.T4
    time, yardstick = found.model_ms(chip, batch), first.census.model_ms(chip, batch)
    fitted = found.model_ms(chip, batch, rates=census.FITTED_TO_T4)
    assert time is not None
    assert yardstick is not None
    assert fitted is not None
    assert found.activation_bytes is not None
    assert found.weight_bytes is not None
    return (
        row.name, f"{row.nodes:,}", str(found.launches), f"{found.activation_bytes / 1e6:.0f}",
        f"{found.weight_bytes / 1e6:.0f}", f"{time:.2f}", f"{time / yardstick:.2f}", f"{fitted:.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
