"""The average of the weights: by hand, through a save, and put into a network for a while."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hemf_export.train.weight_average import WeightAverage
from tests.conftest import tiny_checkpoint


def network(value: float) -> nn.Sequential:
    """A Linear whose weight is `value`, and a BatchNorm that has seen `value`."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    set_to(model, value)
    return model


def set_to(model: nn.Sequential, value: float) -> None:
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[1].running_mean.fill_(10 * value)
        model[1].num_batches_tracked.fill_(int(value))


def test_the_average_by_hand():
    model = network(1.0)
    average = WeightAverage(model, decay=0.2)
    found = []
    for value in (2.0, 3.0, 5.0):
        set_to(model, value)
        average.update(model)
        found.append(float(average.weights["0.weight"]))
    # d = 1/10, then 2/11, then 0.2 in place of 3/12.
    first = 0.1 * 1 + 0.9 * 2
    second = 2 / 11 * first + 9 / 11 * 3
    assert found == pytest.approx([first, second, 0.2 * second + 0.8 * 5])
    assert float(average.weights["1.running_mean"]) == pytest.approx(10 * found[-1])


def test_counters_are_the_networks():
    model = network(1.0)
    average = WeightAverage(model, decay=0.9)
    set_to(model, 4.0)
    average.update(model)
    state = average.state_dict_for(model)
    assert list(state) == list(model.state_dict())
    assert int(state["1.num_batches_tracked"]) == 4
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_saved_and_loaded_it_goes_on_the_same():
    model = network(1.0)
    average = WeightAverage(model, decay=0.99)
    set_to(model, 2.0)
    average.update(model)
    state = copy.deepcopy(average.state)
    kept = {name: value.clone() for name, value in average.state["weights"].items()}
    other = WeightAverage(network(7.0), decay=0.99)
    other.load(state)
    set_to(model, 3.0)
    for each in (average, other):
        each.update(model)
    assert average.updates == other.updates == 2
    for name, value in average.weights.items():
        assert torch.equal(value, other.weights[name])
        assert torch.equal(state["weights"][name], kept[name]), "what was saved stays as it was"


def test_applied_to_a_network_for_a_while():
    model = tiny_checkpoint(seed=0).model()
    average = WeightAverage(model, decay=0.5)
    other = tiny_checkpoint(seed=1).model()
    average.update(other)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = copy.deepcopy(model)
    expected.load_state_dict(average.state_dict_for(model))
    with torch.no_grad():
        own = model(images)
        with average.applied_to(model):
            assert torch.equal(model(images), expected.eval()(images))
        assert torch.equal(model(images), own)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def fail() -> None:
        with average.applied_to(model):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
