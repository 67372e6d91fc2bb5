"""What a run is in the middle of."""

from __future__ import annotations

import pytest
import torch

from hemf_export.networks.initialization import build
from hemf_export.train.training_state import Counters, TrainingState, seed_of
from hemf_export.train.weight_average import WeightAverage
from tests.conftest import TINY


def test_the_best_epoch_is_that_of_the_highest_accuracy_then_of_the_lowest_loss():
    counters = Counters()
    epochs = ((0.5, 1.0), (0.5, 1.0), (0.5, 0.9), (0.4, 0.1), (0.6, 3.0))
    assert [counters.update_best(*epoch) for epoch in epochs] == [True, False, True, False, True]
    assert (counters.best_accuracy, counters.best_loss) == (0.6, 3.0)


def test_the_drawing_of_an_epoch_is_its_own_and_that_of_its_process():
    seeds = [seed_of(seed, epoch, rank) for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1)]
    assert len(set(seeds)) == 8
    assert seed_of(0, 1, 0) == seeds[2]
    torch.manual_seed(max(seeds))  # torch takes them all


def state(seed: int) -> TrainingState:
    network = build(TINY, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    return TrainingState(network, optimizer, torch.amp.GradScaler("cpu", enabled=False), WeightAverage(network, 0.9))


@pytest.mark.extended
def test_restored_it_is_what_was_saved():
    first, second = state(0), state(1)
    first.network(torch.randn(2, 3, 64, 64)).sum().backward()
    first.optimizer.step()
    assert first.average is not None
    first.average.update(first.network)
    first.counters = Counters(3, 30, 2, 0.7, 0.8)
    weights, saved = first.weights(), first.to_dict()
    assert any(not torch.equal(weights[name], value) for name, value in saved["network"].items()), "averaged"
    second.restore(weights, saved)
    assert second.counters == first.counters
    again = second.to_dict()
    for name, value in saved["network"].items():
        assert torch.equal(again["network"][name], value)
        assert torch.equal(second.weights()[name], weights[name])
    moments = zip(saved["optimizer"]["state"].values(), again["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in moments)
    assert again["average_updates"] == 1
