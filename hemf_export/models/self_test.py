"""Self-test of an engine: does it compute on this machine what its graph computes, on its golden images?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hemf_export.engines import golden
from hemf_export.engines.golden import Golden, SelfTest
from hemf_export.engines.runner import EngineRunner
from hemf_export.files.errors import CheckFailedError
from hemf_export.models.description import Description


def require(runner: EngineRunner, known: Golden, described: Description, path: Path) -> SelfTest:
    """Run golden images on a loaded engine, and raise where it fails.

    Args:
        runner: the engine.
        known: its golden images.
        described: its description.
        path: its file, for the message.

    Raises:
        CheckFailedError: a logit differs by more than the manifest allows, or isn't finite.
    """
    result = compare(runner, known, described)
    if not result.passed:
        compared, noun = result.comparison, runner.output.noun
        difference = f"a {noun} differs by {compared.logit_difference.max:.3g}, bound {result.bound:.3g}"
        what = difference if compared.finite else "NaN"
        raise CheckFailedError(
            f"{path} doesn't compute what its graph does: {what} ({compared.images} golden images).",
            "Don't use it on this machine. Build it again here, and test again.",
        )
    return result


def compare(runner: EngineRunner, known: Golden, described: Description) -> SelfTest:
    """Run golden images on a loaded engine, without a verdict."""
    return golden.check(runner, _filled(known, runner.interface.filled(len(known.pixels))), described.input)


def _filled(known: Golden, count: int) -> Golden:
    """Repeat golden images until there are `count`."""
    pixels = np.resize(known.pixels, (count, *known.pixels.shape[1:]))
    logits = np.resize(known.logits, (count, *known.logits.shape[1:]))
    return Golden(pixels, logits, known.source, known.max_logit_difference)
