"""Results as published in the paper (He et al. 2025, CC BY 4.0), for comparison with ours.

Networks have the names by which they are registered. Figures are as printed; `DOUBTS` has those that can't be right,
and `Published.reason` why a size can't be counted again from the public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

DataSet = Literal["isic2018", "kvasir", "covid-ct"]
IMAGE_SIZE = 224  # of every network in every table, in pixels


class Metrics(NamedTuple):
    """A network's row of Table 6, 7 or 8, in percent, with MCC and kappa of Table 9, -1 to 1; None if not printed."""

    accuracy: float
    macro_f1: float
    macro_precision: float
    macro_recall: float
    mcc: float | None = None
    kappa: float | None = None


class Counted(NamedTuple):
    """Counts of the authors' public code for images of 224 × 224 pixels.

    Args:
        parameters: parameters for 7 classes, with those that take no part.
        parameters_1000: parameters for 1000 classes.
        layers_g: multiply-adds of convolutions and linear layers, in G.
        products_g: multiply-adds of all products, those of attention included, in G.
    """

    parameters: int
    parameters_1000: int
    layers_g: float
    products_g: float


@dataclass(frozen=True)
class Published:
    """Figures that the paper prints of a network.

    Args:
        title: the network's name as the paper prints it.
        parameters_m: parameters in M (Table 6).
        multiply_adds_g: multiply-adds in G (Table 6, as "FLOPs").
        results: metrics by data set.
        counted: counts of the authors' public code; None for HEMF, whose published size is reproduced.
        reason: why the published size is not that of the public code with as many classes, in one sentence; empty where
            it is.
    """

    title: str
    parameters_m: float
    multiply_adds_g: float
    results: Mapping[DataSet, Metrics] = field(repr=False)
    counted: Counted | None = None
    reason: str = ""


_IRMLP = (
    "HiFuse's public code drops the groups of the 3×3 convolution in its inverted residual MLP, which is dense so: "
    "63.45 M parameters and 9.37 G in every size; made depthwise, this one would have {} M and {} G."
)
NETWORKS: dict[str, Published] = {
    "conformer-base": Published(
        "Conformer-base-p16", 83.29, 22.89,
        {
            "isic2018": Metrics(82.66, 72.44, 73.31, 71.66),
            "kvasir": Metrics(84.25, 84.27, 84.45, 84.37),
            "covid-ct": Metrics(75.81, 75.60, 76.81, 77.81),
        },
        Counted(81_189_934, 83_289_136, 22.79, 23.32),
        "The published parameters are those with heads of 1000 classes.",
    ),
    "convnext-base": Published(
        "ConvNeXt-B", 88.59, 15.36,
        {
            "isic2018": Metrics(79.95, 63.24, 64.90, 62.06, 0.6022, 0.6005),
            "kvasir": Metrics(74.62, 74.41, 75.69, 74.62, 0.7119, 0.7100),
            "covid-ct": Metrics(55.38, 54.68, 54.95, 54.81),
        },
        Counted(87_573_639, 88_591_464, 15.354, 15.354),
        "The published parameters are those with a head of 1000 classes.",
    ),
    "pervit-medium": Published(
        "PerViT-M", 43.04, 9.00,
        {
            "isic2018": Metrics(81.64, 67.66, 68.19, 67.29, 0.6412, 0.6406),
            "kvasir": Metrics(82.40, 82.30, 82.88, 82.40, 0.7998, 0.7989),
            "covid-ct": Metrics(74.75, 73.95, 75.96, 73.93),
        },
        Counted(43_043_731, 43_723_936, 8.97, 9.44),
    ),
    "focalnet-base-srf": Published(
        "Focal-B", 87.10, 15.30,
        {
            "isic2018": Metrics(79.64, 62.88, 65.73, 60.68, 0.5964, 0.5949),
            "kvasir": Metrics(78.00, 77.93, 78.19, 78.01, 0.7490, 0.7486),
            "covid-ct": Metrics(69.36, 68.06, 70.66, 68.35),
        },
        Counted(87_130_319, 88_148_144, 15.240, 15.240),
        "The paper doesn't say which FocalNet-B it ran; this one, with the small receptive field, comes closest.",
    ),
    "uniformer-base": Published(
        "UniFormer-B", 50.02, 8.30,
        {
            "isic2018": Metrics(82.44, 68.41, 70.67, 66.54, 0.6505, 0.6480),
            "kvasir": Metrics(83.10, 83.04, 83.09, 83.10, 0.8070, 0.8069),
            "covid-ct": Metrics(71.38, 71.35, 72.18, 71.89),
        },
        Counted(49_267_143, 49_776_552, 7.74, 8.25),
        "No variant in the public code has the published parameters: its patch stem has fewer, its convolutional stem "
        "more (50.35 M for 1000 classes).",
    ),
    "biformer-base": Published(
        "BiFormer-B", 56.04, 9.80,
        {
            "isic2018": Metrics(82.66, 68.95, 72.66, 66.47, 0.6604, 0.6592),
            "kvasir": Metrics(84.25, 84.26, 84.67, 84.25, 0.8205, 0.8200),
            "covid-ct": Metrics(72.05, 71.95, 71.94, 71.96),
        },
        Counted(56_041_351, 56_804_968, 9.32, 9.76),
    ),
    "hifuse-tiny": Published(
        "HiFuse_Tiny", 82.49, 8.13,
        {
            "isic2018": Metrics(82.99, 72.99, 73.67, 72.87, 0.6639, 0.6619),
            "kvasir": Metrics(84.85, 84.89, 84.96, 84.90, 0.8055, 0.8051),
            "covid-ct": Metrics(74.73, 74.67, 74.65, 74.73),
        },
        Counted(119_690_280, 121_217_514, 17.41, 17.52),
        _IRMLP.format("56.30", "8.07"),
    ),
    "hifuse-small": Published(
        "HiFuse_Small", 93.82, 8.84,
        {
            "isic2018": Metrics(83.59, 72.70, 72.70, 73.14, 0.6896, 0.6892),
            "kvasir": Metrics(86.12, 86.13, 86.25, 86.13, 0.8416, 0.8414),
            "covid-ct": Metrics(76.88, 76.31, 77.78, 76.19),
        },
        Counted(123_271_128, 124_798_362, 18.11, 18.25),
        _IRMLP.format("59.88", "8.76"),
    ),
    "hifuse-base": Published(
        "HiFuse_Base", 127.80, 10.97,
        {
            "isic2018": Metrics(85.85, 75.32, 74.57, 76.58, 0.7282, 0.7280),
            "kvasir": Metrics(85.97, 86.07, 86.29, 86.01, 0.8402, 0.8400),
            "covid-ct": Metrics(76.34, 76.17, 76.30, 76.11),
        },
        Counted(134_013_672, 135_540_906, 20.19, 20.42),
        _IRMLP.format("70.62", "10.85"),
    ),
    "came": Published(
        "CAME", 106.38, 11.63,
        {
            "isic2018": Metrics(84.17, 74.43, 74.08, 74.98, 0.6967, 0.6960),
            "kvasir": Metrics(85.68, 85.68, 85.77, 85.68, 0.8364, 0.8363),
            "covid-ct": Metrics(78.49, 78.47, 78.49, 78.61),
        },
        Counted(226_906_153, 227_669_770, 33.05, 33.16),
        "CAME's own code is not public; this is the reimplementation by HEMF's authors, whose inverted residual MLP "
        "has a dense 3×3 convolution.",
    ),
    "hemf-base": Published(
        "HEMF", 66.64, 10.01,
        {
            "isic2018": Metrics(87.34, 78.89, 80.42, 77.59, 0.7553, 0.7551),
            "kvasir": Metrics(87.03, 87.02, 87.34, 87.03, 0.8459, 0.8580),
            "covid-ct": Metrics(82.26, 82.20, 82.18, 82.22),
        },
    ),
}  # fmt: skip


class Doubt(NamedTuple):
    """A printed figure of Table 9 that can't be right.

    Args:
        figure: "mcc" or "kappa".
        corrected: the value that follows from other published figures.
        reason: why, in a sentence.
    """

    figure: Literal["mcc", "kappa"]
    corrected: float
    reason: str


# Kvasir has as many images of each of its 8 classes, so that kappa is (accuracy - 1/8) / (7/8).
DOUBTS: dict[tuple[str, DataSet], tuple[Doubt, ...]] = {
    ("hifuse-tiny", "kvasir"): (
        Doubt("kappa", 0.8269, "An accuracy of 84.85 % on eight equal classes is a kappa of 0.8269."),
    ),
    ("hemf-base", "kvasir"): (
        Doubt("mcc", 0.8522, "The folds' values in the authors' notebook, 0.8461 and 0.8583, have this mean."),
        Doubt("kappa", 0.8517, "The folds' values in the authors' notebook, 0.8457 and 0.8577, have this mean."),
    ),
}  # fmt: skip


def of_network(config: Mapping[str, Any]) -> Published | None:
    """Look up the paper's figures of a network.

    Args:
        config: the network's configuration, in plain types.

    Returns:
        Its figures; None for a network that the tables don't list, or images of another size.
    """
    return NETWORKS.get(config["name"]) if config["image_size"] == IMAGE_SIZE else None


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
