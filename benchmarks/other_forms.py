"""`python -m benchmarks.other_forms FILE…`: what the passes of `calibration.forms` do to other people's networks.

FILEs are float32 ONNX files; `python -m benchmarks.other_networks` writes ten. Each is compiled with TensorRT-RTX as it
is and rewritten, as `trt` does for files that aren't ours, and no engine is kept; the table has both, and the passes
that were chosen. No GPU is needed: kernels and bytes are counted, the time is the model of `engines.census` at a T4's
peak rates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration import forms
from calibration.graphs import copy_of, prepare
from engines import targets
from hemf.images import Preprocess
from hemf_export import console, form_choice, onnx_file
from hemf_export.description import Description
from hemf_export.form_choice import Tried
from hemf_export.trial_engine import Compiler

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
    rows = []
    for path in arguments.files:
        model = prepare(onnx_file.read_any(path))
        choice = form_choice.choose(
            model, Compiler("tensorrt-rtx", targets.find(arguments.target), arguments.batch), ANY, ours=False,
            step=lambda text, name=path.stem: console.step(f"{name}: {text}"),
        )  # fmt: skip
        places = forms.rewrite(copy_of(model), "tensorrt-rtx", only=choice.passes).places
        found = ", ".join(f"{count} {name}" for name, count in places.items()) or "none"
        plain = next((tried for tried in choice.tried if not tried.passes), None)
        taken = next((tried for tried in choice.tried if tried.passes == choice.passes), None)
        if plain is None or taken is None:
            rows.append((path.stem, choice.note or "no pass finds anything", "", "", "", ""))
            continue
        rows.append((path.stem, found, *_pair(plain, taken), f"{taken.model_ms / plain.model_ms:.2f}"))
    title = f"As they are, and rewritten, at batch {arguments.batch} for {arguments.target}"
    console.table(title, ("network", "places", "kernels", "MB", "model ms", "of the plain one"), rows)


def _pair(plain: Tried, taken: Tried) -> tuple[str, str, str]:
    moved = [f"{(tried.bytes or 0) / 1e6:.0f}" for tried in (plain, taken)]
    return (
        f"{plain.kernels} → {taken.kernels}",
        " → ".join(moved),
        f"{plain.model_ms:.2f} → {taken.model_ms:.2f}",
    )


if __name__ == "__main__":
    main()
