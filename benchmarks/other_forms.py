"""`python -m benchmarks.other_forms FILE…`: what the passes and INT8 do to other people's networks.

FILEs are float32 ONNX files; `python -m benchmarks.other_networks` writes ten. Each is compiled with TensorRT-RTX as it
is and rewritten, as `trt` does for files that aren't ours, and then with this and that in INT8, as `calibrate` does for
a budget; no engine is kept. The tables have all of them, and what was chosen. No GPU is needed: kernels and bytes are
counted, the time is the model of `engines.census` at the target's peak rates, or a T4's for a compute capability.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

import onnx_ir as ir

from calibration import forms
from calibration.graphs import copy_of, prepare
from calibration.islands import find_islands
from calibration.products import find_products
from calibration.shapes import image_shapes
from engines import targets
from hemf.images import Preprocess
from hemf_export import console, form_choice, int8_choice, onnx_file
from hemf_export.description import Description
from hemf_export.form_choice import Tried
from hemf_export.trial_engine import Compiler, Step

# Nothing of it changes what is compiled: the batch is open in every file.
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

        def step(text: str, name: str = path.stem) -> AbstractContextManager[None]:
            return console.step(f"{name}: {text}")

        model = prepare(onnx_file.read_any(path))
        choice = form_choice.choose(model, compiler, ANY, ours=False, step=step)
        places = forms.rewrite(copy_of(model), "tensorrt-rtx", only=choice.passes).places
        found = ", ".join(f"{count} {name}" for name, count in places.items()) or "none"
        plain = next((tried for tried in choice.tried if not tried.passes), None)
        taken = next((tried for tried in choice.tried if tried.passes == choice.passes), None)
        if plain is None or taken is None:
            rows.append((path.stem, choice.note or "no pass finds anything", "", "", "", ""))
        else:
            rows.append((path.stem, found, *_pair(plain, taken), f"{taken.model_ms / plain.model_ms:.2f}"))
        int8.append((path.stem, *_int8(model, choice, compiler, step)))
    where = f"at batch {arguments.batch} for {arguments.target}"
    forms_columns = ("network", "places", "kernels", "MB", "model ms", "of the plain one")
    console.table(f"As they are, and rewritten, {where}", forms_columns, rows)
    columns = ("network", "FP16 ms", "all in INT8", "of FP16", "fastest INT8", "of FP16", "in INT8 there", "answer")
    console.table(f"In INT8, {where}", columns, int8)


def _int8(model: ir.Model, form: form_choice.Choice, compiler: Compiler, step: Step) -> tuple[str, ...]:
    """Compile it with this and that in INT8, the islands of its structure in float32."""
    forms.rewrite(model, compiler.form, only=form.among(forms.first(compiler.form)))
    products = find_products(model.graph, image_shapes(model))
    last = form.among(forms.last(compiler.form))
    found = int8_choice.choose(
        int8_choice.EngineTrials(model, products, find_islands(model.graph), compiler, last=last, step=step)
    )
    half = found.fp16.model_ms
    cells = [f"{half:.3f}"]
    for trial in (found.everything, found.best):
        cells += ["–", "–"] if trial is None else [f"{trial.model_ms:.3f}", f"{trial.model_ms / half:.2f}"]
    return (*cells, "–" if found.best is None else found.best.name, "INT8" if found.worthwhile else "FP16")


def _pair(plain: Tried, taken: Tried) -> tuple[str, str, str]:
    moved = [f"{(tried.bytes or 0) / 1e6:.0f}" for tried in (plain, taken)]
    return (
        f"{plain.kernels} → {taken.kernels}",
        " → ".join(moved),
        f"{plain.model_ms:.2f} → {taken.model_ms:.2f}",
    )


if __name__ == "__main__":
    main()
