"""Stochastic depth: the schedule, what is left out and scaled, and that nothing of it is left in evaluation."""

from __future__ import annotations

import pytest
import torch

from hemf_export.networks.drop_path import ResidualBlock, set_drop_path
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.networks.hemf.global_branch import EGF
from hemf_export.networks.hemf.local_branch import ELF
from hemf_export.networks.registry import build
from tests.conftest import THIRD, TINY

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_rates_rise_linearly_from_0_in_each_branch():
    model = build(HemfConfig(name="t", num_classes=2, width=32, image_size=32, elf_depth=2, egf_depth=3), seed=0)
    set_drop_path(model, 0.7)
    local = [rate for stage in model.local_stages for block in stage for rate in block.drop_rates]
    global_ = [rate for block in model.global_stages for rate in block.drop_rates]
    assert local == pytest.approx([0.1 * index for index in range(8)])
    assert global_ == pytest.approx([0.7 / 11 * index for index in range(12)])
    set_drop_path(model, 0.0)
    assert all(block.drop_rates == () for block in model.modules() if isinstance(block, ResidualBlock))


def test_a_branch_is_left_out_for_whole_images_and_scaled_for_the_others():
    block = ELF(16)
    block.drop_rates = (0.75,)
    torch.manual_seed(0)
    rows = torch.ones(4000 * 4, 16)
    found = block.branch(rows, 4000).reshape(4000, -1)
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert (found == found[:, :1]).all(), "the pixels of an image go together"
    assert float(found.mean()) == pytest.approx(1, abs=0.1)


def test_an_elf_without_its_branch_is_the_identity():
    block, maps = ELF(16), torch.randn(64, 16, 4, 4)
    block.drop_rates = (0.5,)
    torch.manual_seed(0)
    same = (block(maps) == maps).flatten(1).all(1)
    assert 10 < int(same.sum()) < 54


def test_an_egf_without_its_branches_is_its_norms():
    block, maps = EGF(32, 4, 4, depth=1), torch.randn(64, 32, 4, 4)
    block.drop_rates = (0.9,)
    torch.manual_seed(0)
    rows = maps.permute(0, 2, 3, 1)
    expected = block.norm2(block.norm1(rows)).permute(0, 3, 1, 2)
    same = torch.isclose(block(maps), expected, atol=1e-6).flatten(1).all(1)
    assert 40 < int(same.sum()) < 64


def test_evaluation_and_rate_0_are_as_without_and_draw_nothing():
    plain, model = build(TINY, seed=0), build(TINY, seed=0)
    set_drop_path(model, 0.5)
    before = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGES), plain.eval()(IMAGES))
        set_drop_path(model, 0.0)
        assert torch.equal(model.train()(IMAGES), plain.train()(IMAGES))
    assert torch.equal(before, torch.get_rng_state())


def test_training_differs_and_has_gradients():
    plain, model = build(TINY, seed=0).train(), build(TINY, seed=0).train()
    set_drop_path(model, 0.5)
    torch.manual_seed(0)
    logits = model(IMAGES)
    assert not torch.equal(logits, plain(IMAGES))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_traced_graph_has_nothing_of_it():
    plain, model = build(THIRD, seed=0).eval(), build(THIRD, seed=0).eval()
    set_drop_path(model, 0.5)
    with torch.no_grad():
        graphs = [str(torch.export.export(each, (IMAGES,)).graph) for each in (plain, model)]
    assert graphs[0] == graphs[1]
