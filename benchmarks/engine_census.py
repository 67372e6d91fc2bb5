"""`make bench-engine`: count the kernels of TensorRT-RTX for the authors' architecture and for ours, pass by pass.

No GPU is needed: kernels and bytes are counted in the builder's own list, and the time is modelled by
`engines.census`. The baseline is a naive implementation of the architecture, exported for one batch size. Weights are
random: the kernels don't depend on their values, nor do those of INT8 on the ranges, which are synthetic.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import onnx_ir as ir

from benchmarks.export_speed import naive_graph, naive_weights
from hemf_export.calibration import forms
from hemf_export.calibration.fp16 import find_islands, to_float16
from hemf_export.calibration.graphs import copy_of, image_shapes, parse, prepare
from hemf_export.calibration.products import find_products
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import census, targets
from hemf_export.engines.census import Census
from hemf_export.export import onnx_export
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.authors import convert, infer_config
from hemf_export.networks.hemf.config import SIZES, HemfConfig
from hemf_export.networks.hemf.model import HEMF
from hemf_export.networks.registry import build
from hemf_export.precision import int8_choice, trial_engine
from hemf_export.precision.trial_engine import Compiler

SHOWN = ConsoleProgress()

CLASSES = 7
AUTHORS = "the authors' architecture"


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
    compiler = Compiler("tensorrt-rtx", target, batch)
    rows: list[tuple[str, Census]] = []
    plain, baseline = exported(SIZES[network], batch)
    for name, model in halves(plain, baseline, every_pass=every_pass):
        with SHOWN.task(f"{network}, batch {batch}, {target.sm}: {name}"):
            rows.append((name, trial_engine.count(model, compiler)))
    choice = int8_choice.choose(int8_trials(plain, compiler))
    if choice.everything is not None and choice.best is not None:
        rows.append(("in INT8, all that can be", choice.everything.census))
        rows.append((f"in INT8, {choice.best.name}", choice.best.census))
    title = f"{network} at batch {batch} for {target.sm}, modelled at the published rates of {compiler.chip.product}"
    headings = ("graph", "kernels", "MB of activations", "of weights", "model ms", "of the first", "fitted ms")
    console.table(title, headings, [_cells(name, own, rows[0][1], compiler) for name, own in rows])
    console.say(f"{'INT8 is worth it' if choice.worthwhile else 'The result is FP16'}: {choice.summary}.")


def exported(config: HemfConfig, batch: int) -> tuple[ir.Model, ir.Model | None]:
    """Return our exported float32 graph, and that of the authors' architecture if it has this size."""
    baseline = None
    if config.name == "hemf-base":
        state = naive_weights(0, CLASSES)
        baseline = parse(naive_graph(state, CLASSES, batch))
        converted, _ = convert(state)
        model = HEMF(infer_config(converted))
        model.load_state_dict(converted)
    else:
        model = build(config, seed=0)
    options = onnx_export.Options(batch=batch)
    exported_model = onnx_export.export_graph(model.eval(), Preprocess.for_size(config.image_size), options)
    return prepare(ir.to_proto(exported_model)), baseline


def halves(plain: ir.Model, baseline: ir.Model | None, *, every_pass: bool) -> Iterator[tuple[str, ir.Model]]:
    """Yield the float16 graphs to compare: the authors' architecture, ours unchanged, and with each pass."""
    if baseline is not None:
        yield AUTHORS, in_float16(copy_of(baseline))
    yield "ours, for a CPU", in_float16(copy_of(plain))
    names = [step.name for step in forms.PASSES]
    for number in range(1 if every_pass else len(names), len(names) + 1):
        rewritten = copy_of(plain)
        forms.rewrite(rewritten, "tensorrt-rtx", only=names[:number])
        yield f"and {names[number - 1]}" if every_pass else "ours, for TensorRT-RTX", in_float16(rewritten)


def int8_trials(plain: ir.Model, compiler: Compiler) -> int8_choice.EngineTrials:
    """Set up the trials that `calibrate` runs to choose between FP16 and INT8, with structural float32 islands."""
    model, form = copy_of(plain), compiler.form
    forms.rewrite(model, form, only=forms.first(form))
    products = find_products(model.graph, image_shapes(model))
    islands = find_islands(model.graph)
    return int8_choice.EngineTrials(model, products, islands, compiler, last=forms.last(form), progress=SHOWN)


def in_float16(model: ir.Model) -> ir.Model:
    """Convert to float16 in place, with the islands by structure."""
    to_float16(model)
    return model


def _cells(name: str, own: Census, first: Census, compiler: Compiler) -> tuple[str, ...]:
    chip, batch = compiler.chip, compiler.batch
    time, baseline = own.model_ms(chip, batch), first.model_ms(chip, batch)
    fitted = own.model_ms(chip, batch, rates=census.FITTED_TO_T4)
    assert time is not None
    assert baseline is not None
    assert fitted is not None
    assert own.activation_bytes is not None
    assert own.weight_bytes is not None
    return (
        name, str(own.launches), f"{own.activation_bytes / 1e6:.0f}",
        f"{own.weight_bytes / 1e6:.0f}", f"{time:.2f}", f"{time / baseline:.2f}",
        f"{fitted:.2f}" if chip is targets.T4 else "–",
    )  # fmt: skip


if __name__ == "__main__":
    main()
