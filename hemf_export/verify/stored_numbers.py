"""Are a file's weights and steps still those of the float32 file that it was made from? Part of every verification.

Some damage hardly moves the logits of the images at hand: a step that is ten times too wide, a channel of zeros. The
bounds of the logits let it pass, but what the file stores gives it away.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration import stored
from calibration.blocks import blocks
from calibration.graphs import parse
from calibration.image_set import ImageSet
from calibration.stored import StepUse, WeightError
from hemf.errors import BadInputError
from hemf_export import onnx_file
from hemf_export.description import Precision
from hemf_export.verify.bounds import Missed
from hemf_export.verify.counterpart import counterpart
from hemf_export.verify.locate import WORST, chosen_images
from hemf_export.verify.verified import Verification, Verified

# Of a weight's worst channel, a step of its rounding let pass. Sound float16 shows up to 0.003, sound INT8 0.01; where
# the inputs of an untrained network move together, what makes rounding good was up to 0.022.
WEIGHT_BOUNDS: dict[Precision, float] = {"fp32": 1e-5, "fp16": 0.1, "int8": 0.1, "int8-cpu": 0.1}
# Of steps. Sound ones went up to 1.9 times beyond what the values of 32 images let expect (2.8 on a dozen images), and
# those that are ten times too large more than five times, but for a few gates' whose values differ much from image to
# image. One that clips takes away outliers, which are little of all there is: sound ones up to 6e-4.
MOST_EXCESS, MOST_CLIPPED = 4.0, 0.1
_IMAGES = 32  # on fewer, a value that is rarely large may not be
_LISTED = 8


@dataclass(frozen=True)
class StoredNumbers:
    """What one candidate stores, beside its float32 file.

    Args:
        float32: the file that it is compared with.
        precision: of the candidate.
        images: whose values the steps were compared with, by their names in the report.
        weights: all that both files have.
        steps: of all quantized activations; empty where nothing is quantized.
        blocks: of nodes, by name.
    """

    float32: Path
    precision: Precision
    images: tuple[str, ...]
    weights: tuple[WeightError, ...]
    steps: tuple[StepUse, ...]
    blocks: dict[str, str]

    @property
    def weight_bound(self) -> float:
        """Of a weight's error."""
        return WEIGHT_BOUNDS[self.precision]

    @property
    def bad_weights(self) -> list[WeightError]:
        """Beyond the bound, in graph order."""
        return [weight for weight in self.weights if not weight.error <= self.weight_bound]

    @property
    def bad_steps(self) -> list[StepUse]:
        """Too wide or too narrow, in graph order."""
        return [step for step in self.steps if not (step.excess <= MOST_EXCESS and step.clipped <= MOST_CLIPPED)]

    @property
    def damaged(self) -> set[str]:
        """Names of the nodes that take them."""
        return {weight.node for weight in self.bad_weights} | {step.node for step in self.bad_steps}

    def missed(self) -> list[Missed]:
        """One entry for the weights and one for the steps, where some are beyond their bounds."""
        found = []
        if self.bad_weights:
            first, bound = self.bad_weights[0], self.weight_bound
            off = f"off by {first.error:.2g} of its norm" if math.isfinite(first.error) else "not finite"
            text = f"the weight {first.weight} of {self._place(first.node)} is {off} in a channel, bound {bound:.2g}"
            figure = _finite(first.error)
            found.append(Missed("weight_error", figure, bound, text + _others(len(self.bad_weights), "weights")))
        if self.bad_steps:
            step = self.bad_steps[0]
            if step.clipped > MOST_CLIPPED:
                bound, figure = MOST_CLIPPED, _finite(step.clipped)
                text = f"too small: {step.clipped:.0%} of the values' squares are clipped, bound {bound:.0%}"
            else:
                bound, figure = MOST_EXCESS, _finite(step.excess)
                text = f"too large: its levels go {step.excess:.2g} times beyond the values, bound {bound:.2g}"
            text = f"the step of {step.value}, for {self._place(step.node)}, is {text}"
            found.append(Missed("step", figure, bound, text + _others(len(self.bad_steps), "steps")))
        return found

    def _place(self, node: str) -> str:
        return f"{node} ({self.blocks[node]})" if node in self.blocks else node

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "float32_file": self.float32.name,
            "images": list(self.images),
            "weights": {
                "compared": len(self.weights),
                "bound": self.weight_bound,
                "largest_error": _finite(max((weight.error for weight in self.weights), default=0.0)),
                "beyond": [self._listed(dict(vars(weight))) for weight in self.bad_weights[:_LISTED]],
                "beyond_count": len(self.bad_weights),
            },
            "steps": {
                "compared": len(self.steps),
                "excess_bound": MOST_EXCESS,
                "clipped_bound": MOST_CLIPPED,
                "largest_excess": _finite(max(step.excess for step in self.steps)) if self.steps else None,
                "most_clipped": _finite(max(step.clipped for step in self.steps)) if self.steps else None,
                "beyond": [self._listed(dict(vars(step))) for step in self.bad_steps[:_LISTED]],
                "beyond_count": len(self.bad_steps),
            },
        }

    def _listed(self, values: dict[str, Any]) -> dict[str, Any]:
        plain = {name: _finite(value) if isinstance(value, float) else value for name, value in values.items()}
        return {**plain, "block": self.blocks.get(values["node"])}


def compare(
    found: Verification,
    candidate: Verified,
    float32: Path,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> StoredNumbers:
    """Compare what a candidate stores with the float32 file that it was made from.

    Args:
        found: the verification that the candidate is of; some of its images are used.
        candidate: an ONNX file.
        float32: the file.
        progress: told the phase, how much of it is done, and of how much.

    Raises:
        BadInputError: the float32 file shares no weight with the candidate.
    """
    path, model = candidate.subject.path, candidate.subject.model
    phase = f"comparing the weights of {path.name}"
    progress(phase, 0, 1)
    reference = counterpart(float32, path)
    converted = parse(onnx_file.read(path)[0])
    weights = stored.weight_errors(reference, converted)
    if not weights:
        raise BadInputError(f"{path.name} shares no weight with {float32.name}.", "Was it made from that file?")
    chosen = chosen_images(found, candidate, _IMAGES - WORST)
    images = ImageSet(found.images, model.input, model.fixed_batch).only(chosen)
    steps = stored.step_uses(
        reference, converted, images.batches(1), lambda done: progress(phase, done, len(chosen))
    )  # fmt: skip
    where = blocks(reference.graph)
    names = tuple(found.name_of(index) for index in chosen)
    return StoredNumbers(float32, model.precision, names, tuple(weights), tuple(steps), where)


def add(found: Verification, compared: dict[Path, StoredNumbers]) -> Verification:
    """The verification with what was compared: numbers beyond their bounds are bounds that were missed."""
    candidates = []
    for candidate in found.candidates:
        numbers = compared.get(candidate.subject.path)
        more = numbers.missed() if numbers else []
        candidates.append(dataclasses.replace(candidate, missed=(*candidate.missed, *more)))
    extra = {
        str(path): {**found.extra.get(str(path), {}), "stored": numbers.to_dict()} for path, numbers in compared.items()
    }
    return dataclasses.replace(found, candidates=tuple(candidates), extra={**found.extra, **extra})


def _others(count: int, what: str) -> str:
    return f"; {count - 1} more {what if count > 2 else what[:-1]}" if count > 1 else ""


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
