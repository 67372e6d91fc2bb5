"""PerViT: its authors' numbers, an independent transcription, folding, training, export."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.plain import pervit as plain
from hemf_export.files.errors import BadInputError
from hemf_export.networks import registry
from hemf_export.networks.drop_path import ResidualBlock, set_drop_path
from hemf_export.networks.pervit import FAMILY, SIZES, PerViT, PerVitConfig, distances
from tests.networks import golden_data, peer_checks
from tests.networks.peer_checks import difference, noise

NARROW = SIZES["pervit-narrow"]
TOLERANCE = 1e-5  # relative to the largest value where that is more than 1
CONSTANTS = 1e-6  # the distances are constants in float32


def seeded(config: PerVitConfig = NARROW, seed: int = 0) -> PerViT:
    return peer_checks.spread_network(config, seed)


@pytest.mark.extended
@torch.no_grad()
def test_logits_and_every_stage_agree_with_the_authors_code(authors, shared):
    golden = golden_data.load(shared, "pervit-medium", authors.images(0, 2))
    model = FAMILY.build_empty(SIZES["pervit-medium"]).eval()
    model.load_state_dict(golden.state)
    taps = {}
    modules = {"stem": model.conv_layers, **{f"block_{number}": model.blocks[number] for number in (1, 3, 9, 11)}}
    for tap, module in modules.items():
        module.register_forward_hook(lambda _, __, output, tap=tap: taps.__setitem__(tap, output))
    logits = model(golden.images).numpy()
    assert np.abs(logits - golden.logits).max() < TOLERANCE
    assert {name.split("_channel_")[0] for name in golden.statistics} == set(taps)
    for tap, tokens in taps.items():
        assert golden.error(tap, tokens, (1,)) < TOLERANCE, tap


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
def test_folding_pads_heads_to_multiples_of_8():
    model = seeded()
    model.fold()
    assert [block.attn.size for block in model.blocks] == [16, 24, 24, 24, 32]
    assert [block.attn.to_qkv.weight.shape[0] for block in model.blocks] == [192, 288, 288, 288, 384]


def test_position_weights_are_those_of_the_authors_form():
    """Softmax of the logits plus ln w, against exponentials times w, normalized."""
    model = seeded()
    attention = model.blocks[1].attn
    with torch.no_grad():
        logs = attention.activation(model.distances, model.rpe_proj)
        encoded = model.rpe_proj(model.distances.flatten()[:, None]).reshape(16, 8, 8, 16).permute(0, 3, 1, 2)
        encoding = attention.activation
        hidden = encoding.gn1(encoding.conv1(encoded)).relu()
        weights = encoding.gn2(encoding.conv2(hidden)).sigmoid().permute(1, 0, 2, 3).flatten(2)
    assert logs.shape == (4, 16, 16)
    assert difference(logs.exp(), weights) < TOLERANCE


def test_distances_are_those_of_a_grid_from_minus_1_to_1():
    found = distances(14)[:, 0]
    assert found.shape == (196, 18, 18)
    assert float(found[0, 2, 2]) == 0
    assert float(found[0, 2, 15]) == pytest.approx(2)
    assert float(found[0, 15, 15]) == pytest.approx(8**0.5)
    assert float(found[15, 3, 0]) == pytest.approx(3 * 2 / 13)


@torch.no_grad()
def test_float16_holds_position_weights_that_vanish():
    """Exponentials times w would all be 0, with w = sigmoid(-20) everywhere."""
    model = seeded()
    for block in model.blocks:
        block.attn.activation.gn2.bias.fill_(-20.0)
    expected = model(noise(2))
    model.fold()
    assert difference(model.half()(noise(2).half()).float(), expected) < 0.01


def test_drop_path_is_off_by_default_and_leaves_whole_blocks_out():
    model = seeded().train()
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert not any(block.drop_rates for block in blocks)
    set_drop_path(model, 0.5)
    assert [block.drop_rates[0] for block in blocks] == pytest.approx([0.125 * number for number in range(5)])
    block, tokens = model.blocks[4], torch.randn(64, 16, 104)
    torch.manual_seed(0)
    assert 6 < int((block(tokens, torch.zeros(4, 16, 16)) == tokens).flatten(1).all(1).sum()) < 28
    model.eval()
    expected = seeded()(noise(2))
    assert torch.equal(model(noise(2)), expected)


def test_initialization_is_the_authors():
    model = registry.build(NARROW, seed=3)
    assert abs(model.blocks[4].mlp.fc1.weight.std() - 0.02) < 0.001
    assert (model.rpe_proj.weight == -0.02).all()
    activations = [block.attn.activation for block in model.blocks]
    assert all((one.conv1.weight == 0.02).all() and (one.conv2.weight == 0.02).all() for one in activations)
    assert [one.gn2.bias[0].item() for one in activations] == pytest.approx([-5, -2.75, -0.5, 1.75, 4])
    assert [one.gn2.weight[0].item() for one in activations] == pytest.approx([3, 2.2525, 1.505, 0.7575, 0.01])
    with torch.no_grad():
        weights = activations[0](model.distances, model.rpe_proj)[0, 0]
    assert weights.argmax() == 0, "the nearest token weighs most"
    assert weights.argmin() == 15
    assert all(model.decays(name, value) == (value.ndim > 1) for name, value in model.named_parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 72}, "multiple of 16"),
        ({"image_size": 16}, "32 to 512"),
        ({"image_size": 1024}, "32 to 512"),
        ({"heads": 5}, "heads"),
        ({"depths": (2, 2)}, "4 numbers"),
        ({"depths": (2, 2, 0, 1)}, "depths"),
        ({"depths": (2, 2, 1000, 1)}, "at most 24"),
        ({"widths": (48, 72, 88, 10**6)}, "at most 2,048"),
        ({"widths": (48, 72, 88, 2048), "depths": (1, 1, 1, 24)}, "weights, more than 400,000,000"),
        ({"image_size": 512, "depths": (24, 24, 24, 24)}, "position weights, more than"),
    ],
)
def test_configurations_that_give_no_network_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        PerVitConfig.from_dict({**NARROW.to_dict(), **change})
