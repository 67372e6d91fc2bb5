"""Figures as the paper printed them (He et al. 2025, CC BY 4.0), to set beside ours."""

from __future__ import annotations

from typing import NamedTuple

PARAMETERS_M = 66.64
MULTIPLY_ADDS_G = 10.01


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
