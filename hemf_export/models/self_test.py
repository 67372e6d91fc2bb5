"""Does this engine compute here what the graph computes that it was built from? Its golden images tell."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from hemf_export.engines import golden
from hemf_export.engines.golden import Golden, SelfTest
from hemf_export.engines.runner import EngineRunner
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.models.model_file import EngineFile


def run(path: Path, *, cuda_graphs: bool = True) -> SelfTest:
    """Load an engine and run its golden images.

    Raises:
        BadInputError: it has none, or they were changed; or the engine isn't what its manifest describes.
        CheckFailedError: a logit differs by more than the manifest allows, or isn't finite.
        MissingCapabilityError: the engine is for another GPU or TensorRT.
    """
    file = EngineFile.open(path)
    with file.runner(cuda_graphs=cuda_graphs) as runner:
        result = require(runner, file)
    if result is None:
        raise BadInputError(
            f"{path} has no golden images.", "Build it with some: `build_engine()`, without `golden=0`."
        )
    return dataclasses.replace(result, notes=tuple(runner.notes))


def require(runner: EngineRunner, file: EngineFile) -> SelfTest | None:
    """Run the golden images of a loaded engine, and refuse one that fails; None where it has none.

    Raises:
        BadInputError: the golden images were changed.
        CheckFailedError: a logit differs by more than the manifest allows, or isn't finite.
    """
    result = compare(runner, file)
    if result is not None and not result.passed:
        compared, noun = result.comparison, runner.output.noun
        difference = f"a {noun} differs by {compared.logit_difference.max:.3g}, bound {result.bound:.3g}"
        what = difference if compared.finite else "NaN"
        raise CheckFailedError(
            f"{file.path} doesn't compute what its graph does: {what} ({compared.images} golden images).",
            "Don't use it on this machine. Build it again here, and test again.",
        )
    return result


def compare(runner: EngineRunner, file: EngineFile) -> SelfTest | None:
    """Run the golden images of a loaded engine, and leave the verdict to the caller; None where it has none."""
    known = file.golden()
    if known is None:
        return None
    described = file.description
    return golden.check(
        runner,
        _filled(known, runner.interface.filled(len(known.pixels))),
        described.preprocess,
        raw=described.input_type == "uint8",
    )


def _filled(known: Golden, count: int) -> Golden:
    """Repeat golden images until there are `count`."""
    pixels = np.resize(known.pixels, (count, *known.pixels.shape[1:]))
    logits = np.resize(known.logits, (count, *known.logits.shape[1:]))
    return Golden(pixels, logits, known.source, known.max_logit_difference)
