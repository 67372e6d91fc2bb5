"""BiFormer: the authors' numbers, an independent transcription, its choice of windows, training, files and export."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.plain import biformer as plain
from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.export import onnx_export
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.networks import registry
from hemf_export.networks.biformer import FAMILY, SIZES, BiFormer, BiFormerConfig, RoutingAttention
from hemf_export.networks.drop_path import set_drop_path
from tests.networks import golden_data, peer_checks

NARROW = SIZES["biformer-narrow"]
TOLERANCE = 1e-5


def spread_weights(config: BiFormerConfig, seed: int) -> dict[str, Tensor]:
    """Weights with which signals pass through all layers, and BatchNorms with statistics of their own."""
    torch.manual_seed(seed)
    state = registry.build(config, seed=seed).state_dict()
    for name, value in state.items():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.add_(torch.randn_like(value) * 0.1)
    return state


def network(config: BiFormerConfig = NARROW, seed: int = 0) -> BiFormer:
    model = registry.build(config, seed=0)
    model.load_state_dict(spread_weights(config, seed))
    return model.eval()


def pictures(count: int, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.extended)])
def test_logits_and_every_stage_agree_with_the_authors_model(shared, authors, count):
    golden = golden_data.load(shared, "biformer-base", authors.images(0)[:count])
    expected = {"logits": golden.logits, **golden.statistics}
    model = registry.family_of(SIZES["biformer-base"]).build_empty(SIZES["biformer-base"]).eval()
    model.load_state_dict(golden.state)
    with torch.no_grad():
        features = model.features(golden.images)
        found = {"logits": model.classify(features[-1])}
    for stage, maps in enumerate(features, 1):
        wide = maps.double().flatten(2)
        found |= {f"stage_{stage}_channel_mean": wide.mean(2), f"stage_{stage}_channel_std": wide.std(2)}
    assert set(found) == set(expected)
    for name, values in found.items():
        difference = np.abs(values.numpy() - expected[name][:count]).max()
        assert difference < TOLERANCE * max(1, np.abs(expected[name]).max()), name


def test_tensors_are_those_of_the_authors_checkpoints(shared):
    shapes = FAMILY.shapes(SIZES["biformer-base"])
    assert [(name, list(shape)) for name, (shape, _) in shapes.items()] == list(
        golden_data.keys(shared, "biformer-base").items()
    )


def test_number_of_parameters_is_the_published_one():
    peer_checks.check_parameters("biformer-base", {7: 56_041_351, 1000: 56_804_968})


@pytest.mark.parametrize(("seed", "classes"), [(1, 3), (2, 10)])
def test_logits_agree_with_an_independent_transcription(seed, classes):
    config = dataclasses.replace(NARROW, num_classes=classes, image_size=96, windows=3, chosen=(2, 4, 7))
    model, naive = network(config, seed), plain.build(config).eval()
    naive.load_state_dict(model.state_dict())
    images = pictures(2, 96)
    with torch.no_grad():
        expected = naive(images)
        assert (model(images) - expected).abs().max() < TOLERANCE * max(1, float(expected.abs().max()))
        model.stages[1][0].attn.chosen = 3
        assert (model(images) - expected).abs().max() > 1e-3, "a window less would be seen"


def test_gradients_agree_with_an_independent_transcription_and_reach_every_parameter():
    model, naive = network().train(), plain.build(NARROW).train()
    naive.load_state_dict(model.state_dict())
    images, labels = pictures(4), torch.tensor([0, 1, 2, 0])
    for each in (model, naive):
        cross_entropy(each(images), labels).backward()
    expected = {name: parameter.grad for name, parameter in naive.named_parameters()}
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad - expected[name]).abs().max() < 1e-4 * largest, name
        # All keys of a head shifted alike change no softmax, and BatchNorm removes what a convolution adds.
        without = name.endswith("qkv.qkv.bias") or (name.startswith("downsample_layers") and name.endswith("bias"))
        assert without or parameter.grad.abs().max() > 0, name


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


def test_logits_of_an_image_do_not_depend_on_the_others():
    model, images = network(), pictures(5)
    with torch.no_grad():
        together = model(images)
        for count in (1, 2, 3):
            torch.testing.assert_close(model(images[:count]), together[:count], atol=TOLERANCE, rtol=TOLERANCE)


def test_folding_changes_nothing_but_roundings():
    model, images = network(), pictures(3)
    with torch.no_grad():
        before = model(images)
        model.fold()
        torch.testing.assert_close(model(images), before, atol=TOLERANCE, rtol=TOLERANCE)
        assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_evaluation_follows_what_training_changed():
    model, images = network(), pictures(4)
    naive = plain.build(NARROW)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with torch.no_grad():
        model(images)
    cross_entropy(model.train()(images), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    naive.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), naive.eval()(images), atol=TOLERANCE, rtol=TOLERANCE)


def test_drop_path_is_drawn_in_training_alone_with_rates_by_depth():
    model, images = network(), pictures(2)
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
        loss = cross_entropy(model(pictures(4)), torch.tensor([0, 1, 2, 0]))
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


@pytest.mark.parametrize("damage", [lambda state: state, lambda state: {"model": state}], ids=["bare", "under model"])
def test_a_file_of_the_authors_is_recognized(tmp_path, damage):
    path = tmp_path / "theirs.pth"
    state = spread_weights(dataclasses.replace(NARROW, num_classes=3), 0)
    torch.save(damage(state), path)
    loaded = checkpoint.load(path, classes=("a", "b", "c"))
    assert (loaded.config.name, loaded.config.num_classes, loaded.dropped) == ("biformer-narrow", 3, ())
    assert list(loaded.state) == list(state)


def test_no_other_family_takes_its_files_nor_it_theirs():
    for size in registry.SIZES.values():
        family = registry.family_of(size)
        names = list(family.shapes(size))
        assert FAMILY.layout.recognizes(names) == (family is FAMILY), size.name
        if family is FAMILY:
            assert registry.recognize(names) is FAMILY
            assert registry.recognize([name for name in names if not name.startswith("downsample")]) is FAMILY


def test_a_network_is_saved_exported_and_proven_at_several_batches(tmp_path):
    config = dataclasses.replace(NARROW, num_classes=3, depths=(1, 1, 1, 1))
    state = spread_weights(config, 0)
    saved = Checkpoint(config, ("a", "b", "c"), Preprocess.for_size(64), state)
    checkpoint.save(saved, tmp_path / "m.pt")
    loaded = checkpoint.load(tmp_path / "m.pt")
    assert loaded.config == config
    assert all(torch.equal(value, loaded.state[name]) for name, value in state.items())
    exported = onnx_export.export(tmp_path / "m.pt", tmp_path / "m.onnx", onnx_export.Options())
    assert exported.parity.comparison.finite
    session = onnxruntime.InferenceSession(exported.path)
    images = pictures(5)
    with torch.no_grad():
        expected = loaded.model()(images).numpy()
    for count in (1, 2, 3, 5):
        found = session.run(None, {session.get_inputs()[0].name: images[:count].numpy()})[0]
        assert np.abs(found - expected[:count]).max() < TOLERANCE * max(1, np.abs(expected).max())


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


def test_a_configuration_is_read_as_it_was_written():
    values = json.loads(json.dumps(NARROW.to_dict()))
    assert registry.config_from_dict(values) == NARROW
