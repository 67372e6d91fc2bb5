"""Does this engine compute here what the graph computes that it was built from? Its golden images tell."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import engines
from engines import golden
from engines.golden import Golden, SelfTest
from engines.runner import EngineRunner
from hemf.errors import BadInputError, CheckFailedError
from hemf_export.description import Description


def run(path: Path, *, cuda_graphs: bool = True) -> SelfTest:
    """Load an engine and run its golden images.

    Raises:
        BadInputError: it has none, or they were changed; or the engine isn't what its manifest describes.
        CheckFailedError: a logit differs by more than the manifest allows, or isn't finite.
        MissingCapabilityError: the engine is for another GPU or TensorRT.
    """
    with engines.load(path, cuda_graphs=cuda_graphs) as runner:
        found = of(runner, path)
    if found is None:
        raise BadInputError(f"{path} has no golden images.", "Build it with some: hemf-export trt, without --golden 0.")
    return dataclasses.replace(found, notes=tuple(runner.notes))


def of(runner: EngineRunner, path: Path) -> SelfTest | None:
    """Check a loaded engine; None where it has no golden images.

    Raises:
        BadInputError: the golden images were changed.
        CheckFailedError: a logit differs by more than the manifest allows, or isn't finite.
    """
    found = compare(runner, path)
    if found is not None and not found.passed:
        noun = runner.output.noun
        what = f"a {noun} differs by {found.max_difference:.3g}, bound {found.bound:.3g}" if found.finite else "NaN"
        raise CheckFailedError(
            f"{path} doesn't compute what its graph does: {what} ({found.images} golden images).",
            "Don't use it on this machine. Build it again here, and test again.",
        )
    return found


def compare(runner: EngineRunner, path: Path) -> SelfTest | None:
    """The same without a verdict."""
    known = golden.read(path, runner.manifest)
    if known is None:
        return None
    described = Description.from_manifest(path, runner.manifest)
    return golden.check(
        runner,
        _filled(known, runner.interface.filled(len(known.pixels))),
        described.preprocess,
        raw=described.input_type == "uint8",
    )


def to_dict(found: SelfTest) -> dict[str, Any]:
    """Plain types."""
    return {**vars(found), "passed": found.passed}


def _filled(known: Golden, count: int) -> Golden:
    """Repeated until there are `count` images."""
    pixels = np.resize(known.pixels, (count, *known.pixels.shape[1:]))
    logits = np.resize(known.logits, (count, *known.logits.shape[1:]))
    return Golden(pixels, logits, known.source, known.max_logit_difference)
