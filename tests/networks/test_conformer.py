"""Conformer: its authors' numbers, an independent transcription, folding, training, export."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.plain import conformer as plain
from hemf_export.files.errors import BadInputError
from hemf_export.networks import registry
from hemf_export.networks.conformer import FAMILY, SIZES, Conformer, ConformerConfig
from hemf_export.networks.drop_path import ResidualBlock, set_drop_path
from tests.networks import golden_data, peer_checks
from tests.networks.peer_checks import difference, noise

NARROW = SIZES["conformer-narrow"]
TOLERANCE = 1e-5  # relative to the largest value where that is more than 1


def seeded(config: ConformerConfig = NARROW, seed: int = 0) -> Conformer:
    return peer_checks.spread_network(config, seed)


@pytest.mark.extended
@torch.no_grad()
def test_logits_and_every_stage_agree_with_the_authors_code(authors, shared):
    golden = golden_data.load(shared, "conformer-base", authors.images(0, 2))
    model = FAMILY.build_empty(SIZES["conformer-base"]).eval()
    model.load_state_dict(golden.state)
    taps = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, output, name=name: taps.__setitem__(name, output))
    logits = model(golden.images).numpy()
    assert np.abs(logits - golden.logits).max() < TOLERANCE * np.abs(golden.logits).max()
    taps["conv_1"] = taps["conv_1"][0]
    seen = 0
    for tap in sorted({name.split("_channel_")[0] for name in golden.statistics}):
        branch, number = tap.split("_")
        value = taps[tap] if number == "1" else taps[f"conv_trans_{number}"][0 if branch == "conv" else 1]
        assert golden.error(tap, value, (2, 3) if branch == "conv" else (1,)) < TOLERANCE, tap
        seen += 1
    assert seen == 14


@torch.no_grad()
@pytest.mark.parametrize(("seed", "classes", "side"), [(1, 3, 64), (2, 11, 96)])
def test_agrees_with_an_independent_transcription(seed, classes, side):
    config = dataclasses.replace(NARROW, num_classes=classes, image_size=side)
    model = seeded(config, seed)
    reference = plain.build(config).eval()
    reference.load_state_dict(model.state_dict())
    assert difference(model(noise(3, side)), reference(noise(3, side))) < TOLERANCE


@torch.no_grad()
def test_folding_changes_nothing():
    model = seeded()
    expected = model(noise(3))
    model.fold()
    assert difference(model(noise(3)), expected) < TOLERANCE
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def test_the_folded_class_token_is_not_doubled():
    """Tokens after the last unit: 32 times smaller in 6 units, by powers of two alone."""
    model, folded = seeded(), seeded()
    folded.fold()
    tokens = [one.conv_trans_6(*_before_the_last(one, noise(2)))[1] for one in (model, folded)]
    assert difference(tokens[1] * 2**5, tokens[0]) < TOLERANCE


def _before_the_last(model: Conformer, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    seen = []
    with model.conv_trans_5.register_forward_hook(lambda _, __, output: seen.append(output)):
        model(pixels)
    return seen[0]


@torch.no_grad()
def test_float16_holds_a_class_token_that_doubling_would_take_beyond_it():
    model = seeded(dataclasses.replace(NARROW, depths=(4, 4, 4)))
    model.cls_token += 40.0 * (-1) ** torch.arange(48)  # times 2,048: beyond 65,504
    expected, half = model(noise(2)), noise(2).half()
    assert not torch.isfinite(copy.deepcopy(model).half()(half)).all()
    model.fold()
    assert difference(model.half()(half).float(), expected) < 0.01


def test_drop_path_is_off_by_default_and_leaves_whole_blocks_out():
    model = seeded().train()
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert not any(block.drop_rates for block in blocks)
    set_drop_path(model, 0.5)
    assert [block.drop_rates[0] for block in blocks] == pytest.approx([0.1 * number for number in range(6)])
    block, tokens = model.conv_trans_6.trans_block, torch.randn(64, 5, 48)
    torch.manual_seed(0)
    assert 6 < int((block(tokens) == tokens).flatten(1).all(1).sum()) < 28
    model.eval()
    expected = seeded()(noise(2))
    assert torch.equal(model(noise(2)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_in_channels_last(dtype):
    model, pixels = seeded().train(), noise(4)
    expected = model(pixels)
    with torch.autocast("cpu", dtype):
        found = model.to(memory_format=torch.channels_last)(pixels.to(memory_format=torch.channels_last))
    sum(logits.float().square().mean() for logits in found).backward()
    for one, value in zip(found, expected, strict=True):
        assert difference(one.float(), value) < 0.2
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_initialization_is_the_authors():
    model = registry.build(NARROW, seed=3)
    assert abs(model.conv_trans_6.trans_block.mlp.fc1.weight.std() - 0.02) < 0.001
    assert abs(model.cls_token.std() - 0.02) < 0.006
    convolution = model.conv_trans_6.cnn_block.conv2.weight
    assert abs(convolution.std() - (2 / (9 * convolution.shape[0])) ** 0.5) < 0.002
    assert not any(value.any() for name, value in model.named_parameters() if name.endswith("fc1.bias"))
    assert [name for name, value in model.named_parameters() if value.ndim > 1 and not model.decays(name, value)] == [
        "cls_token"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 72}, "multiple of 16"),
        ({"width": 66}, "multiple of 4"),
        ({"heads": 5}, "heads"),
        ({"depths": (2, 2)}, "3 numbers"),
        ({"depths": (2, 2, 0)}, "depths"),
        ({"depths": (2, 2, 1000)}, "at most 24"),
        ({"embedding": 10**6}, "at most 2,048"),
        ({"embedding": 2046, "depths": (2, 2, 24)}, "weights, more than 400,000,000"),
        ({"image_size": 1024, "heads": 48}, "attention scores, more than"),
    ],
)
def test_configurations_that_give_no_network_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        ConformerConfig.from_dict({**NARROW.to_dict(), **change})
