"""Is what was written what was proven? The file is read back, checked, loaded by ONNX Runtime as it lies, and run.

A proof of a float16 graph runs an emulation of it in memory. The file is another thing: an operator may have no kernel
for its types, or the file may not be whole. So every file is also run by itself before it is kept. ONNX Runtime on a
CPU computes float16 in float32 ("plain"): these logits are near the emulated ones, and differ by float16's rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from hemf_export.calibration.session import Session
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.files.model_output import LOGITS, ModelOutput
from hemf_export.metrics.comparison import compare

IMAGES = 16  # of those that the proof ran on
_SHARE = 0.05  # of what the images change in the logits: INT8 steps may flip where float16 rounds
_ROUNDING = 2e-3  # of the largest logit
_NOT_KEPT = "The file was not kept. A float32 graph of ONNX's own operators is needed, not optimized for one runtime."
_TIMES = 3.0  # what the emulated logits are off by the reference


def check(
    path: Path,
    name: str,
    batches: Iterable[NDArray[np.generic]],
    proven: NDArray[np.float32],
    reference: NDArray[np.float32],
    output: ModelOutput = LOGITS,
) -> dict[str, Any]:
    """Read back a file that is about to be kept, and run it on some of the images that it was proven on.

    Args:
        path: where it lies.
        name: that it is going to have, for messages.
        batches: network input of the proof, from its first image on; `IMAGES` or a few more are taken.
        proven: logits (n, classes) of the proof's images by the graph that was proven, emulated.
        reference: the same by what it was proven against.
        output: what the file's numbers are.

    Returns:
        For its manifest: the `runner` of the file, and what it gave beside the proven graph's logits
        (`against_proven`, see `metrics.comparison`). How far the file is from the reference is the proof's to say.

    Raises:
        CheckFailedError: it isn't a valid ONNX file, ONNX Runtime can't load or run it, or its logits are others.
    """
    parts: list[NDArray[np.float32]] = []
    try:
        onnx.checker.check_model(onnx.load(path))
        session = Session(path, name=name, output=output)
        for batch in batches:
            parts.append(session.logits(batch))
            if sum(map(len, parts)) >= IMAGES:
                break
    except (onnx.checker.ValidationError, DecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckFailedError(f"{name} as written is no valid ONNX file: {reason}", _NOT_KEPT) from error
    except BadInputError as error:
        raise CheckFailedError(f"{name} as written does not run: {error.message}", _NOT_KEPT) from error
    found = np.concatenate(parts)
    emulated, exact = proven[: len(found)], reference[: len(found)].astype(np.float64)
    against_proven = compare(found, emulated, output=output)
    proof = compare(emulated, exact, output=output)
    difference, spread = against_proven.logit_difference.max, float(np.abs(exact - exact.mean(0)).max())
    allowed = max(_SHARE * spread, _ROUNDING * proof.largest_logit, _TIMES * proof.logit_difference.max)
    if not difference <= allowed:
        what = f"differ by {difference:.3g}, bound {allowed:.3g}" if against_proven.finite else "are not finite"
        raise CheckFailedError(
            f"{name} as written, in ONNX Runtime: its logits {what}, from the proven ones ({len(found)} images).",
            _NOT_KEPT,
        )
    return {"runner": "ONNX Runtime on a CPU", "against_proven": against_proven.to_dict()}
