"""Events that functions pass to `Progress.event`: intermediate results.

Each is a frozen dataclass of the module that reports it, imported lazily.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hemf_export.api.training import TrainingBegun
    from hemf_export.calibration.budget import Step
    from hemf_export.finetuning.training import TunedEpoch
    from hemf_export.shipping.shipment import CheckpointBegun, StepBegun
    from hemf_export.train.ablation import MemberBegun, MemberTrains, Outcome
    from hemf_export.train.trainer import Epoch

_HOMES = {
    "CheckpointBegun": "shipping.shipment",
    "Epoch": "train.trainer",
    "MemberBegun": "train.ablation",
    "MemberTrains": "train.ablation",
    "Outcome": "train.ablation",
    "Step": "calibration.budget",
    "StepBegun": "shipping.shipment",
    "TrainingBegun": "api.training",
    "TunedEpoch": "finetuning.training",
}

__all__ = [
    "CheckpointBegun", "Epoch", "MemberBegun", "MemberTrains", "Outcome", "Step", "StepBegun", "TrainingBegun",
    "TunedEpoch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"hemf_export.{_HOMES[name]}"), name)
