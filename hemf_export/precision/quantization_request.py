"""Request for a quantized file: its source, precision, images, bounds or budget, and where the file goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hemf_export.calibration import image_set
from hemf_export.calibration.budget import Budget
from hemf_export.calibration.int8 import MethodChoice
from hemf_export.files.errors import UsageError
from hemf_export.models import file_kinds
from hemf_export.models.description import Precision
from hemf_export.models.graph_source import Assumptions
from hemf_export.precision.bounds import Bounds
from hemf_export.precision.trial_engine import Compiler

HELD_OUT_IMAGES = 64  # held-out images for a bound on logits, which needs fewer than a drop of half a point
BUDGET_HELD_OUT_IMAGES = 512  # held-out images for a budget


@dataclass(frozen=True)
class Request:
    """Request for a quantized file.

    Args:
        source: the float32 file, ours or not.
        precision: fp16, or int8, which may give FP16 within a budget.
        images: folder to measure ranges and prove on, see `calibration.image_set.select`; None for FP16 by structure.
        output: output file; None for NAME.PRECISION.onnx in `folder`.
        folder: output folder; None for the source's.
        held_out: folder of other images to prove on.
        count: largest number of calibration images.
        held_out_count: largest number of held-out images; None for `HELD_OUT_IMAGES`, or `BUDGET_HELD_OUT_IMAGES` with
            a budget.
        seed: seed of the selection of images.
        allow_single_class: allow calibration images of one class only.
        method: calibration method of INT8.
        budget: allowed loss; None for no limit.
        with_sensitivity: measure the sensitivity of every block, even without a budget.
        compiler: backend and target.
        bounds: bounds of FP16.
        assumptions: what the user states about a file that isn't ours.
        cache: folder of cached results; None for none.
        force: replace a file that was made otherwise.
        reuse: use an existing file, if it was made from the same file with the requested options.
    """

    source: Path
    precision: Literal["fp16", "int8"] = "fp16"
    images: Path | None = None
    output: Path | None = None
    folder: Path | None = None
    held_out: Path | None = None
    count: int = image_set.CALIBRATION_IMAGES
    held_out_count: int | None = None
    seed: int = 0
    allow_single_class: bool = False
    method: MethodChoice = "auto"
    budget: Budget | None = None
    with_sensitivity: bool = False
    compiler: Compiler = field(default_factory=Compiler)
    bounds: Bounds = field(default_factory=Bounds)
    assumptions: Assumptions = field(default_factory=Assumptions)
    cache: Path | None = None
    force: bool = False
    reuse: bool = False

    def __post_init__(self) -> None:
        if self.images is None and (self.precision == "int8" or self.budget is not None):
            what = "INT8" if self.precision == "int8" else "A budget"
            raise UsageError(f"{what} needs real images: ranges and accuracy are measured on them.")

    @property
    def asked(self) -> Precision:
        """Requested precision."""
        return "int8-cpu" if self.compiler.form == "cpu" and self.precision == "int8" else self.precision

    def place(self, precision: Precision) -> Path:
        """Output path for this precision."""
        folder = self.folder or self.source.parent
        return self.output or folder / f"{file_kinds.stem(self.source)}.{precision}.onnx"

    @property
    def places(self) -> list[Path]:
        """Possible output paths: a search for INT8 may end with FP16."""
        kinds: tuple[Precision, ...] = ("int8", "fp16") if self.asked == "int8" else (self.asked,)
        return list(dict.fromkeys(map(self.place, kinds)))
