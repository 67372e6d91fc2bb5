"""Results as published in the paper (He et al. 2025, CC BY 4.0), for comparison with ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

PARAMETERS_M = 66.64
MULTIPLY_ADDS_G = 10.01
SIZES = {"hemf-base": (PARAMETERS_M, MULTIPLY_ADDS_G)}  # parameters in M and multiply-adds in G, of Table 6


def size_of(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Parameters in M and multiply-adds in G that Table 6 gives a configuration; None for one that it doesn't list."""
    return SIZES.get(config["name"]) if config["image_size"] == 224 else None


class AblationRow(NamedTuple):
    """A row of Table 10, on ISIC2018: check marks as printed, then metrics in percent."""

    elf: bool
    egf: bool
    mhea: bool
    gates: bool
    sirmlp: bool
    accuracy: float
    macro_f1: float
    macro_precision: float
    macro_recall: float


TABLE_10 = (
    AblationRow(True, False, False, False, False, 81.17, 64.70, 66.23, 63.90),
    AblationRow(False, True, False, False, False, 81.84, 66.61, 65.56, 69.20),
    AblationRow(True, True, False, False, False, 82.14, 70.06, 73.33, 68.27),
    AblationRow(True, True, True, False, False, 84.04, 70.80, 72.98, 69.41),
    AblationRow(True, True, False, True, False, 83.41, 70.30, 70.98, 69.92),
    AblationRow(True, True, True, True, False, 84.54, 72.87, 72.97, 72.81),
    AblationRow(True, True, True, True, True, 87.34, 78.89, 80.42, 77.59),
)
ISIC2018_IMAGES = {"NV": 6705, "MEL": 1113, "BKL": 1099, "BCC": 514, "AKIEC": 327, "VASC": 142, "DF": 115}  # Table 4


class MlpRow(NamedTuple):
    """A row of Table 3: parameters in M, multiply-adds in G, declines in percent."""

    stage: int
    channels: int
    size: int
    sirmlp_parameters: float
    irmlp_parameters: float
    parameters_decline: float
    sirmlp_multiply_adds: float
    irmlp_multiply_adds: float
    multiply_adds_decline: float


TABLE_3 = (
    MlpRow(1, 96, 56, 0.185, 1.190, 84.450, 0.582, 3.733, 84.419),
    MlpRow(2, 192, 28, 0.739, 4.757, 84.473, 0.580, 3.731, 84.458),
    MlpRow(3, 384, 14, 2.952, 19.025, 84.484, 0.579, 3.729, 84.477),
    MlpRow(4, 768, 7, 11.802, 76.093, 84.490, 0.578, 3.729, 84.487),
)
