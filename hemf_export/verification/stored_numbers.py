"""Compare a file's weights and quantization steps with the float32 file that it was made from.

Every verification does so. Some damage hardly moves the logits of the images at hand: a step that is ten times too
wide, a channel of zeros. The bounds on logits let it pass, but the stored numbers show it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemf_export.calibration import stored
from hemf_export.calibration.blocks import blocks
from hemf_export.calibration.graphs import parse
from hemf_export.calibration.image_set import ImageSet
from hemf_export.calibration.stored import StepUse, WeightError
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.models.description import Precision
from hemf_export.models.model_file import OnnxFile
from hemf_export.verification.bounds import Missed
from hemf_export.verification.locate import WORST, chosen_images, counterpart
from hemf_export.verification.verification import Verification, Verified

# Bounds on the error of a weight's worst channel, beyond one step of its rounding. Sound float16 shows up to 0.003,
# sound INT8 0.01; where the inputs of an untrained network are correlated, error-compensating rounding reached 0.022.
WEIGHT_BOUNDS: dict[Precision, float] = {"fp32": 1e-5, "fp16": 0.1, "int8": 0.1, "int8-cpu": 0.1}
# Bounds on steps. Sound ones reached 1.9 times the range expected from the values of 32 images (2.8 from a dozen
# images); those that are ten times too large exceeded five times, except for a few gates whose values vary much between
# images. A sound step clips outliers only, which are a small share of the values' squares: up to 6e-4.
MOST_EXCESS, MOST_CLIPPED = 4.0, 0.1
_IMAGES = 32  # on fewer images, values that are rarely large may be missing
_LISTED = 8


@dataclass(frozen=True)
class StoredNumbers:
    """Weights and steps of one candidate, compared with its float32 file.

    Args:
        float32: the file that the candidate is compared with.
        precision: the candidate's.
        images: the images whose values the steps were compared with, by their names in the report.
        weights: errors of all weights that both files have.
        steps: use of the steps of all quantized activations; empty where nothing is quantized.
        blocks: the block of each node, by the node's name.
    """

    float32: Path
    precision: Precision
    images: tuple[str, ...]
    weights: tuple[WeightError, ...]
    steps: tuple[StepUse, ...]
    blocks: dict[str, str]

    @property
    def weight_bound(self) -> float:
        """Largest error that a weight may have."""
        return WEIGHT_BOUNDS[self.precision]

    @property
    def bad_weights(self) -> list[WeightError]:
        """Weights beyond the bound, in graph order."""
        return [weight for weight in self.weights if not weight.error <= self.weight_bound]

    @property
    def bad_steps(self) -> list[StepUse]:
        """Steps that are too wide or too narrow, in graph order."""
        return [step for step in self.steps if not (step.excess <= MOST_EXCESS and step.clipped <= MOST_CLIPPED)]

    @property
    def damaged(self) -> set[str]:
        """Names of the nodes that use those weights and steps."""
        return {weight.node for weight in self.bad_weights} | {step.node for step in self.bad_steps}

    def missed(self) -> list[Missed]:
        """List one entry for the weights and one for the steps, where some are beyond their bounds."""
        violations = []
        if self.bad_weights:
            first, bound = self.bad_weights[0], self.weight_bound
            off = f"off by {first.error:.2g} of its norm" if math.isfinite(first.error) else "not finite"
            text = f"the weight {first.weight} of {self._place(first.node)} is {off} in a channel, bound {bound:.2g}"
            figure = _finite(first.error)
            violations.append(Missed("weight_error", figure, bound, text + _others(len(self.bad_weights), "weights")))
        if self.bad_steps:
            step = self.bad_steps[0]
            if step.clipped > MOST_CLIPPED:
                bound, figure = MOST_CLIPPED, _finite(step.clipped)
                text = f"too small: {step.clipped:.0%} of the values' squares are clipped, bound {bound:.0%}"
            else:
                bound, figure = MOST_EXCESS, _finite(step.excess)
                text = f"too large: its levels go {step.excess:.2g} times beyond the values, bound {bound:.2g}"
            text = f"the step of {step.value}, for {self._place(step.node)}, is {text}"
            violations.append(Missed("step", figure, bound, text + _others(len(self.bad_steps), "steps")))
        return violations

    def _place(self, node: str) -> str:
        return f"{node} ({self.blocks[node]})" if node in self.blocks else node

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types, for JSON."""
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
    verification: Verification,
    candidate: Verified,
    float32: Path,
    progress: Progress = SILENT,
) -> StoredNumbers:
    """Compare the numbers that a candidate stores with the float32 file that it was made from.

    Args:
        verification: the one that the candidate belongs to; some of its images are used.
        candidate: an ONNX file.
        float32: the file that the candidate was made from.
        progress: receives the steps.

    Raises:
        BadInputError: the float32 file shares no weight with the candidate.
    """
    path, model = candidate.subject.path, candidate.subject.model
    chosen = chosen_images(verification, candidate, _IMAGES - WORST)
    images = ImageSet(verification.images, model.description.input, model.fixed_batch).only(chosen)
    with progress.task(f"Comparing the weights of {path.name}", len(chosen), "images") as task:
        reference = counterpart(float32, path)
        converted = parse(OnnxFile.open(path).read())
        weights = stored.weight_errors(reference, converted)
        if not weights:
            raise BadInputError(f"{path.name} shares no weight with {float32.name}.", "Was it made from that file?")
        steps = stored.step_uses(reference, converted, images.batches(1), task)
    where = blocks(reference.graph)
    names = tuple(verification.name_of(index) for index in chosen)
    return StoredNumbers(float32, model.description.precision, names, tuple(weights), tuple(steps), where)


def add(verification: Verification, compared: dict[Path, StoredNumbers]) -> Verification:
    """Add the compared numbers to the verification: numbers beyond their bounds are missed bounds."""
    candidates = []
    for candidate in verification.candidates:
        numbers = compared.get(candidate.subject.path)
        more = numbers.missed() if numbers else []
        candidates.append(dataclasses.replace(candidate, missed=(*candidate.missed, *more)))
    extra = {
        str(path): {**verification.extra.get(str(path), {}), "stored": numbers.to_dict()}
        for path, numbers in compared.items()
    }
    return dataclasses.replace(verification, candidates=tuple(candidates), extra={**verification.extra, **extra})


def _others(count: int, what: str) -> str:
    return f"; {count - 1} more {what if count > 2 else what[:-1]}" if count > 1 else ""


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
