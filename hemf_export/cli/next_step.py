"""Propose the next command: the first step from a checkpoint to its bundle that isn't done yet.

    train → onnx → trt → verify → bench → bundle → self-test

A step is done if a file beside the given one was made from it, by the hashes in their manifests. Steps that leave no
file, verification and benchmark, count only if just run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hemf_export.api.lineage import Lineage, lineage_of
from hemf_export.cli import console
from hemf_export.cli.options import own_model
from hemf_export.files.errors import BadInputError

Words = tuple[str | Path, ...]
Done = Literal["trt", "verify", "bench"]


def show(
    file: Path, done: Done | None = None, *, target: str | None = None, images: Path | None = None,
    report: Path | None = None,
) -> None:  # fmt: skip
    """Print the command as the last line of a result; see `after`."""
    try:
        words = after(file, done, target=target, images=images, report=report)
    except BadInputError:
        return  # other files in the folder must not fail a finished command
    console.next_command(*words)


def after(
    file: Path, done: Done | None = None, *, target: str | None = None, images: Path | None = None,
    report: Path | None = None,
) -> Words:  # fmt: skip
    """Find the next command.

    Args:
        file: a checkpoint, or an ONNX file or an engine of ours.
        done: command that was just run on it, if its result may be anywhere or in no file.
        target: target of the engine; None for any.
        images: the user's images, if given.
        report: path of the report of a benchmark that was just run, if written.

    Raises:
        BadInputError: the file is damaged, or not ours.
    """
    lineage = lineage_of(file, target)
    if lineage is None:
        return "hemf-export onnx", file, *own_model()
    if done != "trt" and lineage.engine is None and lineage.precision != "int8-cpu":
        build_for = () if target in (None, "t4") else ("--target", target)
        return "hemf-export trt", lineage.onnx[-1], *(("--fp16",) if lineage.graph is None else ()), *build_for
    if done in (None, "trt"):
        return "hemf-export verify", *lineage.onnx, "--data", images or "DATA", *own_model()
    if done == "verify":
        return "hemf-export bench", *lineage.onnx, *own_model()
    return _bundle(lineage, report)


def _bundle(lineage: Lineage, report: Path | None) -> Words:
    if lineage.bundle.exists():
        return "hemf-export self-test", lineage.bundle
    timed = () if report is None else ("--bench", report)
    served = () if find_spec("tritonclient") else ("--no-triton",)
    return "hemf-export bundle", *lineage.packed, "-o", lineage.bundle, *timed, *served, *own_model()
