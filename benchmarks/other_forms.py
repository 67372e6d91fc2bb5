"""`python -m benchmarks.other_forms FILE…`: measure what the passes and INT8 gain on other architectures.

FILEs are float32 ONNX files; `python -m benchmarks.other_networks` writes ten. Each is compiled with TensorRT-RTX
unchanged and rewritten, as `trt` does for other exporters' files, and then with several sets of products in INT8, as
`calibrate` does for a budget; no engine is kept. The tables show all variants, and the choice. No GPU is needed:
kernels and bytes are counted, the time is modelled by `engines.census` at the target's peak rates, or a T4's for a
compute capability.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx_ir as ir

from hemf_export.calibration import forms
from hemf_export.calibration.fp16 import find_islands
from hemf_export.calibration.graphs import copy_of, image_shapes, prepare
from hemf_export.calibration.products import find_products
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.engines import targets
from hemf_export.images.images import Preprocess
from hemf_export.models.description import Description
from hemf_export.models.model_file import OnnxFile
from hemf_export.precision import form_choice, int8_choice
from hemf_export.precision.form_choice import Tried
from hemf_export.precision.trial_engine import Compiler

SHOWN = ConsoleProgress()

# Doesn't affect what is compiled: every file has a dynamic batch.
ANY = Description(
    name="other", classes=("a", "b"), preprocess=Preprocess(), precision="fp32", input_type="float32", batch=None,
    checkpoint_sha256="0" * 64, versions={},
)  # fmt: skip


def main() -> None:
    """Compile all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--target", default="sm_75")
    arguments = parser.parse_args()
    compiler = Compiler("tensorrt-rtx", targets.find(arguments.target), arguments.batch)
    rows, int8 = [], []
    for path in arguments.files:
        console.say(f"{path.stem}:")
        model = prepare(OnnxFile.open(path).read())
        choice = form_choice.choose(model, compiler, ANY, ours=False, progress=SHOWN)
        places = forms.rewrite(copy_of(model), "tensorrt-rtx", only=choice.passes).places
        matches = ", ".join(f"{count} {name}" for name, count in places.items()) or "none"
        plain = next((tried for tried in choice.tried if not tried.passes), None)
        chosen = next((tried for tried in choice.tried if tried.passes == choice.passes), None)
        if plain is None or chosen is None:
            rows.append((path.stem, choice.note or "no pass finds anything", "", "", "", ""))
        else:
            rows.append((path.stem, matches, *_pair(plain, chosen), f"{chosen.model_ms / plain.model_ms:.2f}"))
        int8.append((path.stem, *_int8(model, choice, compiler)))
    where = f"at batch {arguments.batch} for {arguments.target}"
    forms_columns = ("network", "places", "kernels", "MB", "model ms", "of the plain one")
    console.table(f"As they are, and rewritten, {where}", forms_columns, rows)
    columns = ("network", "FP16 ms", "all in INT8", "of FP16", "fastest INT8", "of FP16", "in INT8 there", "answer")
    console.table(f"In INT8, {where}", columns, int8)


def _int8(model: ir.Model, form: form_choice.Choice, compiler: Compiler) -> tuple[str, ...]:
    """Compile a model with several sets of products in INT8, structural islands in float32; return a table row."""
    forms.rewrite(model, compiler.form, only=form.among(forms.first(compiler.form)))
    products = find_products(model.graph, image_shapes(model))
    last = form.among(forms.last(compiler.form))
    choice = int8_choice.choose(
        int8_choice.EngineTrials(model, products, find_islands(model.graph), compiler, last=last, progress=SHOWN)
    )
    half = choice.fp16.model_ms
    cells = [f"{half:.3f}"]
    for trial in (choice.everything, choice.best):
        cells += ["–", "–"] if trial is None else [f"{trial.model_ms:.3f}", f"{trial.model_ms / half:.2f}"]
    return (*cells, "–" if choice.best is None else choice.best.name, "INT8" if choice.worthwhile else "FP16")


def _pair(plain: Tried, chosen: Tried) -> tuple[str, str, str]:
    moved = [f"{(tried.bytes or 0) / 1e6:.0f}" for tried in (plain, chosen)]
    return (
        f"{plain.kernels} → {chosen.kernels}",
        " → ".join(moved),
        f"{plain.model_ms:.2f} → {chosen.model_ms:.2f}",
    )


if __name__ == "__main__":
    main()
