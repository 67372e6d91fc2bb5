"""BiFormer: the authors' numbers, an independent transcription, its choice of windows, training, files and export."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.plain import biformer as plain
from hemf_export.files.errors import BadInputError
from hemf_export.networks import registry
from hemf_export.networks.biformer import SIZES, BiFormer, BiFormerConfig, RoutingAttention
from hemf_export.networks.drop_path import set_drop_path
from tests.networks import peer_checks

NARROW = SIZES["biformer-narrow"]
TOLERANCE = 1e-5


def network(config: BiFormerConfig = NARROW, seed: int = 0) -> BiFormer:
    return peer_checks.spread_network(config, seed)


@pytest.mark.parametrize(("seed", "classes"), [(1, 3), (2, 10)])
def test_logits_agree_with_an_independent_transcription(seed, classes):
    config = dataclasses.replace(NARROW, num_classes=classes, image_size=96, windows=3, chosen=(2, 4, 7))
    model, naive = network(config, seed), plain.build(config).eval()
    naive.load_state_dict(model.state_dict())
    images = peer_checks.noise(2, 96)
    with torch.no_grad():
        expected = naive(images)
        assert (model(images) - expected).abs().max() < TOLERANCE * max(1, float(expected.abs().max()))
        model.stages[1][0].attn.chosen = 3
        assert (model(images) - expected).abs().max() > 1e-3, "a window less would be seen"


def test_no_gradient_goes_through_the_choice_of_windows():
    attention = RoutingAttention(16, heads=1, windows=2, chosen=1)
    query = torch.randn(4, 1, 4, 16, requires_grad=True)
    chosen = attention._choose(query, query)
    assert not chosen.requires_grad


def test_of_windows_that_are_equally_good_the_lower_numbers_are_chosen():
    attention = RoutingAttention(16, heads=1, windows=3, chosen=4)
    query, key = torch.ones(2 * 9, 1, 4, 16), torch.ones(2 * 9, 1, 4, 16)
    assert attention._choose(query, key).tolist() == [[[0, 1, 2, 3]] * 9] * 2
    key[5::9] = 2
    assert attention._choose(query, key).tolist() == [[[5, 0, 1, 2]] * 9] * 2


@pytest.mark.parametrize("chosen", [1, 4, 16])
def test_onnx_runtime_chooses_the_lower_numbers_too(chosen):
    """The exported TopK does: ONNX defines the order of equal values, PyTorch leaves that of its own TopK open."""
    scores = np.random.default_rng(0).integers(0, 4, (50, 49)).astype(np.float32)
    names = {"x": TensorProto.FLOAT, "values": TensorProto.FLOAT, "indices": TensorProto.INT64}
    x, values, indices = (helper.make_tensor_value_info(name, kind, None) for name, kind in names.items())
    count = numpy_helper.from_array(np.array([chosen]), "count")
    graph = helper.make_graph(
        [helper.make_node("TopK", ["x", "count"], ["values", "indices"])], "g", [x], [values, indices], [count]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(["indices"], {"x": scores})[0]
    expected = torch.from_numpy(scores).sort(stable=True, descending=True).indices[:, :chosen]
    assert (found == expected.numpy()).all()


def test_folding_changes_nothing_but_roundings():
    model, images = network(), peer_checks.noise(3)
    with torch.no_grad():
        before = model(images)
        model.fold()
        torch.testing.assert_close(model(images), before, atol=TOLERANCE, rtol=TOLERANCE)
        assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_drop_path_is_drawn_in_training_alone_with_rates_by_depth():
    model, images = network(), peer_checks.noise(2)
    set_drop_path(model, 0.4)
    assert [round(block.drop_rates[0], 6) for stage in model.stages for block in stage] == [0, 0.1, 0.2, 0.3, 0.4]
    with torch.no_grad():
        dropped = model(images)
        set_drop_path(model, 0.0)
        torch.testing.assert_close(dropped, model(images))
        block, maps = model.stages[3][0], torch.randn(64, 128, 2, 2)
        block.train().drop_rates = (0.5,)
        torch.manual_seed(0)
        kept = torch.isclose(block(maps), maps + block.pos_embed(maps), atol=1e-6).flatten(1).all(1)
    assert 4 < int(kept.sum()) < 28, "both branches left out: a quarter of the images"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision_chooses_the_windows_in_float32(dtype, monkeypatch):
    model = network().train()
    seen = []
    sort = Tensor.sort
    monkeypatch.setattr(Tensor, "sort", lambda self, **options: seen.append(self.dtype) or sort(self, **options))
    with torch.autocast("cpu", dtype):
        loss = cross_entropy(model(peer_checks.noise(4)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert seen == [torch.float32] * 4
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_initialization_is_the_authors():
    model = registry.build(NARROW, seed=3)
    assert abs(model.stages[3][0].mlp[0].weight.std() - 0.02) < 0.001
    assert abs(model.stages[2][0].attn.qkv.qkv.weight.std() - 0.02) < 0.001
    assert not model.stages[2][0].attn.qkv.qkv.bias.any()
    bound = (9 * 64) ** -0.5  # of PyTorch's uniform initialization
    assert 0.98 * bound < model.downsample_layers[3][0].weight.abs().max() <= bound
    again = registry.build(NARROW, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 48}, "multiple of 32 for 2 windows"),
        ({"depths": (1, 1, 2)}, "depths must be 4 numbers"),
        ({"depths": (1, 1, 65, 1)}, "depths must be at most 64"),
        ({"chosen": (1, 2, 5)}, "chosen must be at most 4"),
        ({"chosen": 2}, "chosen must be 3 numbers"),
        ({"width": 24}, "multiple of head_channels"),
        ({"last_heads": 3}, "don't split"),
        ({"windows": 0}, "windows"),
        ({"width": 512, "depths": (1, 1, 2, 64)}, "weights, more than 400,000,000"),
        ({"image_size": 1024, "chosen": (4, 4, 4)}, "attention scores, more than"),
    ],
)
def test_configurations_that_give_no_network_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        BiFormerConfig.from_dict({**NARROW.to_dict(), **change})
