"""What a run is in the middle of."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn

from hemf_export.networks.registry import build
from hemf_export.train.training_state import Counters, TrainingState, _restore_optimizer, seed_of
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


class Settings(NamedTuple):
    """How a step is computed. AdamW is fused on a GPU; on a CPU it can be, and shows the same rules."""

    fused: bool
    channels_last: bool
    scaled: bool


ON_A_CPU, ON_A_GPU = Settings(False, False, False), Settings(True, True, True)
ELSEWHERE = [
    (ON_A_CPU, ON_A_GPU),
    (ON_A_GPU, ON_A_CPU),
    (ON_A_GPU, ON_A_GPU._replace(channels_last=False)),
    (ON_A_CPU, ON_A_GPU._replace(channels_last=False)),
]


def convolutions(settings: Settings) -> TrainingState:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, (3, 2)))
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=settings.fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, enabled=settings.scaled)
    return TrainingState(network, optimizer, scaler, WeightAverage(network, 0.5))


def take_steps(state: TrainingState, *steps: int) -> None:
    for step in steps:
        state.optimizer.zero_grad()
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        state.scaler.scale(state.network(images).square().mean()).backward()
        if state.scaler.is_enabled():
            state.scaler.unscale_(state.optimizer)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.average.update(state.network)


@pytest.mark.parametrize(("first", "then"), ELSEWHERE)
def test_a_run_goes_on_with_another_optimizer_and_memory_format(first, then):
    """From a CPU to a GPU and back: fused or not, scaled or not, channels-last or not, the steps are the same."""
    whole, begun, resumed = convolutions(ON_A_CPU), convolutions(first), convolutions(then)
    take_steps(whole, 0, 1, 2, 3)
    take_steps(begun, 0, 1)
    resumed.restore(begun.weights(), copy.deepcopy(begun.to_dict()))
    assert [group["fused"] for group in resumed.optimizer.param_groups] == [then.fused]
    for parameter, kept in resumed.optimizer.state.items():
        assert kept["exp_avg"].stride() == kept["exp_avg_sq"].stride() == parameter.stride()
        assert float(kept["step"]) == 2
    take_steps(resumed, 2, 3)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(resumed.average.weights[name], whole.average.weights[name], rtol=1e-4, atol=1e-6)


def test_the_fused_optimizer_gets_its_step_counts_on_its_own_device():
    """On "meta" in place of "cuda": fused kernels add to the counts on the device (torch/optim/adam.py)."""
    begun = convolutions(ON_A_CPU)
    take_steps(begun, 0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, (3, 2))).to("meta")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    optimizer.param_groups[0]["fused"] = True  # which AdamW itself refuses on this device
    _restore_optimizer(optimizer, begun.to_dict()["optimizer"])
    assert {value.device.type for kept in optimizer.state.values() for value in kept.values()} == {"meta"}
