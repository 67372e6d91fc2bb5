"""GPUs that engines are built for, by name or compute capability, with the figures that NVIDIA publishes of them.

A name stands for a product. An engine is bound to less than that: it runs on all GPUs of its compute capability. This
module knows neither the GPU of this machine nor which backend can build for what. Products whose names start alike
differ: an A10G is no A10, and an H100 PCIe no H100 SXM5.

The rates of a `Chip` are peaks from datasheets, at boost clock. No kernel reaches them, and a card at its power limit,
such as a T4, stays further below. They bound how fast an engine can be; only a measurement shows how fast it is. All
are dense: where a datasheet has only rates with structured sparsity, they are halved here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hemf_export.files.errors import UsageError, did_you_mean

Platform = Literal["x86-64", "aarch64"]


@dataclass(frozen=True)
class Chip:
    """A GPU product with its published rates.

    Args:
        product: name of the product, or of the series that it stands for.
        memory_gb: size of its memory, as the datasheet rounds it; a Jetson's GPU shares it with the CPU.
        bandwidth_gb_s: of that memory, in 1e9 bytes per second.
        tflops_fp32: float32 without tensor cores, in 1e12 operations per second; a multiply-add counts as two.
        tflops_fp16: float16 in tensor cores, accumulated in float32, in 1e12 operations per second. GeForce cards
            accumulate in float16 at twice this rate; for the others NVIDIA publishes one rate.
        tops_int8: int8 in tensor cores, accumulated in int32, in 1e12 operations per second.
        source: title and year of NVIDIA's publication that the figures are from.
        names: its names in the driver, whole, as NVML and CUDA tell them; empty where slower products share them.
    """

    product: str
    memory_gb: int
    bandwidth_gb_s: float
    tflops_fp32: float
    tflops_fp16: float
    tops_int8: float
    source: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Abilities:
    """The types that the tensor cores of a compute capability multiply; others run without them, or not at all.

    Args:
        fp16: float16.
        int8: int8.
        bf16: bfloat16.
        tf32: float32 rounded to TF32, a mantissa of 10 bits.
    """

    fp16: bool
    int8: bool
    bf16: bool
    tf32: bool


def abilities(compute_capability: tuple[int, int]) -> Abilities:
    """The types that GPUs of a compute capability multiply in tensor cores.

    That a GPU can do it doesn't mean that TensorRT does. TensorRT runs on 7.5 and later: 10.5 dropped Volta (7.0).
    TensorRT-RTX also leaves out 8.7 and 9.0. Capabilities before 7.5 are here only so that a message can name what
    they lack. GeForce GTX 16 cards report 7.5 and have no tensor cores.

    Args:
        compute_capability: major and minor. One later than any known counts as 8.0.
    """
    ampere = compute_capability >= (8, 0)
    return Abilities(
        fp16=compute_capability >= (7, 0),
        int8=compute_capability >= (7, 2),  # Xavier, 7.2, has them; Volta, 7.0, has not
        bf16=ampere,
        tf32=ampere,
    )


@dataclass(frozen=True)
class Target:
    """A GPU product, or all GPUs of a compute capability.

    Args:
        name: used in file names: `t4`, or `sm_75` for the compute capability alone.
        compute_capability: major and minor.
        chip: the product's published rates; None for any of the compute capability.
        platform: the host's processor. An engine for aarch64 has to be built on the Jetson itself.
    """

    name: str
    compute_capability: tuple[int, int]
    chip: Chip | None = None
    platform: Platform = "x86-64"

    @property
    def sm(self) -> str:
        """The compute capability as NVIDIA's compilers write it: `sm_75`."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"

    def is_product(self, gpu: str | None) -> bool:
        """Whether a GPU, by its name in the driver, is this very product."""
        return self.chip is not None and gpu in self.chip.names

    @property
    def abilities(self) -> Abilities:
        """The types that its tensor cores multiply."""
        return abilities(self.compute_capability)


T4 = Chip(
    product="Tesla T4",
    names=("Tesla T4", "NVIDIA T4"),
    memory_gb=16,
    bandwidth_gb_s=320,
    tflops_fp32=8.1,
    tflops_fp16=65,
    tops_int8=130,
    source="NVIDIA T4 Tensor Core GPU datasheet, 2019; bandwidth: NVIDIA T4 product brief PB-09256-001, 2020",
)

# Of all GeForce RTX 20 cards the fastest. These are the rates at reference clocks; the Founders Edition has 6% more.
RTX_20 = Chip(
    product="NVIDIA GeForce RTX 20",
    names=("NVIDIA GeForce RTX 2080 Ti", "GeForce RTX 2080 Ti"),
    memory_gb=11,
    bandwidth_gb_s=616,
    tflops_fp32=13.4,
    tflops_fp16=53.8,
    tops_int8=215.2,
    source="NVIDIA Turing GPU Architecture whitepaper WP-09183-001, 2018: GeForce RTX 2080 Ti",
)

A10 = Chip(
    product="NVIDIA A10",
    names=("NVIDIA A10",),
    memory_gb=24,
    bandwidth_gb_s=600,
    tflops_fp32=31.2,
    tflops_fp16=125,
    tops_int8=250,
    source="NVIDIA A10 Tensor Core GPU datasheet, 2021",
)

# 40 GB, PCIe and SXM4, which has the same peaks and more power to hold them.
A100 = Chip(
    product="NVIDIA A100",
    names=("NVIDIA A100-PCIE-40GB", "NVIDIA A100-SXM4-40GB", "A100-PCIE-40GB", "A100-SXM4-40GB"),
    memory_gb=40,
    bandwidth_gb_s=1555,
    tflops_fp32=19.5,
    tflops_fp16=312,
    tops_int8=624,
    source="NVIDIA A100 Tensor Core GPU datasheet, 2020",
)

A100_80GB = Chip(
    product="NVIDIA A100 80GB SXM",
    names=("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
    memory_gb=80,
    bandwidth_gb_s=2039,
    tflops_fp32=19.5,
    tflops_fp16=312,
    tops_int8=624,
    source="NVIDIA A100 Tensor Core GPU datasheet, 2021",
)

A100_80GB_PCIE = Chip(
    product="NVIDIA A100 80GB PCIe",
    names=("NVIDIA A100 80GB PCIe",),
    memory_gb=80,
    bandwidth_gb_s=1935,
    tflops_fp32=19.5,
    tflops_fp16=312,
    tops_int8=624,
    source="NVIDIA A100 Tensor Core GPU datasheet, 2021",
)

L4 = Chip(
    product="NVIDIA L4",
    names=("NVIDIA L4",),
    memory_gb=24,
    bandwidth_gb_s=300,
    tflops_fp32=30.3,
    tflops_fp16=121,
    tops_int8=242.5,
    source="NVIDIA L4 Tensor Core GPU datasheet, 2023",
)

L40 = Chip(
    product="NVIDIA L40",
    names=("NVIDIA L40",),
    memory_gb=48,
    bandwidth_gb_s=864,
    tflops_fp32=90.5,
    tflops_fp16=181.05,
    tops_int8=362,
    source="NVIDIA L40 datasheet, 2023",
)

L40S = Chip(
    product="NVIDIA L40S",
    names=("NVIDIA L40S",),
    memory_gb=48,
    bandwidth_gb_s=864,
    tflops_fp32=91.6,
    tflops_fp16=362.05,
    tops_int8=733,
    source="NVIDIA L40S datasheet, 2023",
)

# SXM5. The NVL card, whose rates are between this and PCIe, isn't here.
H100 = Chip(
    product="NVIDIA H100",
    names=("NVIDIA H100 80GB HBM3",),
    memory_gb=80,
    bandwidth_gb_s=3350,
    tflops_fp32=67,
    tflops_fp16=989.5,
    tops_int8=1979,
    source="NVIDIA H100 Tensor Core GPU datasheet, 2023",
)

H100_PCIE = Chip(
    product="NVIDIA H100 PCIe",
    names=("NVIDIA H100 PCIe",),
    memory_gb=80,
    bandwidth_gb_s=2000,
    tflops_fp32=51,
    tflops_fp16=756.5,
    tops_int8=1513,
    source="NVIDIA H100 Tensor Core GPU datasheet, 2022; bandwidth: NVIDIA H100 PCIe product brief PB-11133-001, 2022",
)

# SXM5. The H100's chip with other memory.
H200 = Chip(
    product="NVIDIA H200",
    names=("NVIDIA H200",),
    memory_gb=141,
    bandwidth_gb_s=4800,
    tflops_fp32=67,
    tflops_fp16=989.5,
    tops_int8=1979,
    source="NVIDIA H200 Tensor Core GPU datasheet, 2024",
)

# Jetson AGX Orin 64 GB at its highest power mode, without its two DLA. The brief has 170 sparse INT8 TOPS for the GPU,
# and no rate of float16: that is half of INT8, as in all tensor cores of its generation. Orin NX and Nano, far slower,
# have the same name.
ORIN = Chip(
    product="Orin",
    names=(),
    memory_gb=64,
    bandwidth_gb_s=204.8,
    tflops_fp32=5.3,
    tflops_fp16=42.5,
    tops_int8=85,
    source="NVIDIA Jetson AGX Orin Series technical brief TB_10749-001 v1.2, 2022",
)


def _product(name: str, compute_capability: tuple[int, int], chip: Chip, platform: Platform = "x86-64") -> Target:
    return Target(name, compute_capability, chip, platform)


TARGETS = {
    target.name: target
    for target in (
        _product("t4", (7, 5), T4),
        _product("rtx-20", (7, 5), RTX_20),
        _product("a100", (8, 0), A100),
        _product("a100-80gb", (8, 0), A100_80GB),
        _product("a100-80gb-pcie", (8, 0), A100_80GB_PCIE),
        _product("a10", (8, 6), A10),
        _product("orin", (8, 7), ORIN, "aarch64"),
        _product("l4", (8, 9), L4),
        _product("l40", (8, 9), L40),
        _product("l40s", (8, 9), L40S),
        _product("h100", (9, 0), H100),
        _product("h100-pcie", (9, 0), H100_PCIE),
        _product("h200", (9, 0), H200),
    )
}


def find(name: str) -> Target:
    """Find a target by name (`t4`) or compute capability (`sm_75`), in any case.

    Raises:
        UsageError: neither.
    """
    if name.lower() in TARGETS:
        return TARGETS[name.lower()]
    if match := re.fullmatch(r"sm_?(\d+)(\d)", name.lower()):
        capability = int(match[1]), int(match[2])
        return Target(f"sm_{match[1]}{match[2]}", capability)
    raise UsageError(f"No target is named {name!r}.", f"{did_you_mean(name, TARGETS)} Or a compute capability, sm_75.")


def of_gpu(name: str) -> Target | None:
    """Return the product with a name in the driver, such as "Tesla T4"; None where it isn't known here."""
    return next((target for target in TARGETS.values() if target.chip is not None and name in target.chip.names), None)
