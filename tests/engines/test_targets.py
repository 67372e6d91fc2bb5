"""Targets by name and compute capability, the published figures of their chips, what their tensor cores multiply."""

from __future__ import annotations

import pytest

from hemf_export.engines import targets
from hemf_export.engines.targets import Abilities
from hemf_export.files.errors import UsageError
from tests.engines import test_tensorrt_names

CAPABILITIES = {
    "t4": (7, 5),
    "rtx-20": (7, 5),
    "a100": (8, 0),
    "a100-80gb": (8, 0),
    "a100-80gb-pcie": (8, 0),
    "a10": (8, 6),
    "orin": (8, 7),
    "l4": (8, 9),
    "l40": (8, 9),
    "l40s": (8, 9),
    "h100": (9, 0),
    "h100-pcie": (9, 0),
    "h200": (9, 0),
}
named = pytest.mark.parametrize("target", targets.TARGETS.values(), ids=lambda target: target.name)


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        *CAPABILITIES.items(),
        ("T4", (7, 5)),
        ("RTX-20", (7, 5)),
        ("sm_75", (7, 5)),
        ("SM87", (8, 7)),
        ("sm120", (12, 0)),
    ],
)
def test_targets_by_name_or_compute_capability(name, capability):
    assert targets.find(name).compute_capability == capability


@pytest.mark.parametrize("name", ["t44", "", "sm_", "../t4", "rtx20", "agx-orin", "sm_75 "])
def test_unknown_targets_are_wrong_usage(name):
    with pytest.raises(UsageError) as refused:
        targets.find(name)
    assert refused.value.exit_code == 2
    assert "Or a compute capability, sm_75." in str(refused.value.hint)


@pytest.mark.parametrize(("name", "meant"), [("t44", "t4"), ("rtx20", "rtx-20"), ("agx-orin", "orin"), ("l40x", "l40")])
def test_the_nearest_name_is_suggested(name, meant):
    with pytest.raises(UsageError) as refused:
        targets.find(name)
    assert f"Did you mean {meant!r}?" in str(refused.value.hint)


def test_every_named_target_is_listed_here():
    assert {name: target.compute_capability for name, target in targets.TARGETS.items()} == CAPABILITIES


@named
def test_a_named_target_is_found_by_the_name_it_gives_files_and_by_its_capability(target):
    assert targets.find(target.name) is target
    alone = targets.find(target.sm)
    assert (alone.compute_capability, alone.name, alone.sm) == (target.compute_capability, target.sm, target.sm)
    assert (alone.chip, alone.abilities) == (None, target.abilities)


@named
def test_figures_of_a_chip(target):
    chip = target.chip
    assert all(targets.of_gpu(name) is target for name in chip.names)
    assert min(chip.memory_gb, chip.bandwidth_gb_s, chip.tflops_fp32) > 0
    assert chip.tflops_fp32 < chip.tflops_fp16 <= chip.tops_int8
    assert "NVIDIA" in chip.source
    assert any(f"20{year}" in chip.source for year in range(18, 30))


def test_the_t4():
    t4 = targets.find("t4").chip
    assert (t4.product, t4.memory_gb, t4.bandwidth_gb_s) == ("Tesla T4", 16, 320)
    assert (t4.tflops_fp32, t4.tflops_fp16, t4.tops_int8) == (8.1, 65, 130)


def test_products_differ_and_only_the_jetson_is_aarch64():
    assert len({target.chip.product for target in targets.TARGETS.values()}) == len(targets.TARGETS)
    assert [name for name, target in targets.TARGETS.items() if target.platform == "aarch64"] == ["orin"]
    assert targets.find("sm_75").platform == "x86-64"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), Abilities(fp16=False, int8=False, bf16=False, tf32=False)),
        ((7, 0), Abilities(fp16=True, int8=False, bf16=False, tf32=False)),
        ((7, 2), Abilities(fp16=True, int8=True, bf16=False, tf32=False)),
        ((7, 5), Abilities(fp16=True, int8=True, bf16=False, tf32=False)),
        *((later, Abilities(True, True, True, True)) for later in ((8, 0), (8, 7), (8, 9), (9, 0), (12, 0))),
    ],
)
def test_abilities_by_compute_capability(capability, expected):
    assert targets.abilities(capability) == expected


def test_tensorrt_rtx_has_no_name_for_hopper_and_orin():
    """As `abilities` says; engines for these need TensorRT, on the GPU itself."""
    known = test_tensorrt_names.STUBS["tensorrt-rtx"]["ComputeCapability"]
    unknown = {name for name, target in targets.TARGETS.items() if target.sm.replace("_", "").upper() not in known}
    assert unknown == {"orin", "h100", "h100-pcie", "h200"}


@pytest.mark.parametrize(
    ("gpu", "target"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA T4G", None),
        ("NVIDIA GeForce RTX 2080 Ti", "rtx-20"),
        ("NVIDIA GeForce RTX 2060", None),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", None),
        ("Orin", None),
        ("", None),
    ],
)
def test_a_gpu_is_the_product_of_its_whole_name_or_none(gpu, target):
    """Names as the driver tells them; no rates are assumed of others, nor of one that slower products share."""
    found = targets.of_gpu(gpu)
    assert (found and found.name) == target
