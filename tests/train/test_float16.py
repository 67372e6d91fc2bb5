"""float16 with PyTorch's own autocast and gradient scaler, which compute on a CPU what they compute on a GPU, slowly.

AdamW is fused here, as it is on a GPU: by that, the scaler leaves more to the optimizer (torch/amp/grad_scaler.py).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hemf_export.checkpoints import checkpoint
from hemf_export.networks.hemf.variants import vary
from hemf_export.train import trainer as training
from hemf_export.train.distributed import Group
from hemf_export.train.hardware import Hardware, choose
from hemf_export.train.job import Job
from hemf_export.train.losses import MicroBatchLoss, Objective
from hemf_export.train.recipe import Recipe
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.step import Step
from hemf_export.train.trainer import DivergedError, Trainer
from tests.conftest import TINY
from tests.train.runs import Quiet, job, outcome

IMAGES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3
SMALL = vary(TINY, "local-only")
INITIAL_SCALE = 2.0**16


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def stepper(model: nn.Module, amp: str = "float16", **recipe: object) -> Step:
    hardware = choose("cpu", amp)
    chosen = Recipe(batch_size=8, **recipe)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    return Step(model, model, Objective(chosen, [3, 3, 2]), chosen, optimizer, hardware.scaler(), hardware, Group())


def scaled(step: Step, factor: float) -> Step:
    """Make the loss of a step larger by a factor."""
    step.objective = ScaledLoss(step.objective, factor)  # type: ignore[assignment]
    return step


class ScaledLoss:
    """An objective whose loss, and with it every gradient, is larger by a factor."""

    teacher = None

    def __init__(self, objective: Objective, factor: float) -> None:
        self.objective, self.factor = objective, factor

    def __call__(self, *arguments: Any) -> MicroBatchLoss:
        result = self.objective(*arguments)
        return MicroBatchLoss(result.loss * self.factor, result.correct)


def divided(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    pieces = list(sizes) or [8]
    return list(zip(IMAGES.split(pieces), LABELS.split(pieces), strict=True))


def everything(step: Step, model: nn.Module) -> list[Tensor]:
    """Weights, BatchNorm's statistics, and the optimizer's moments and step counts."""
    kept = [value for state in step.optimizer.state.values() for value in state.values()]
    return copy.deepcopy([*model.state_dict().values(), *kept])


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_network_computes_in_float16_and_its_weights_are_float32():
    model, seen = network(), []
    model[4].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    step = stepper(model)
    assert step(divided(), 8, rate=0.1, drawing=(0, 0)).finite
    assert seen == [torch.float16]
    assert {value.dtype for value in (*model.parameters(), *(each.grad for each in model.parameters()))} == {
        torch.float32
    }
    assert step.scaler.get_scale() == INITIAL_SCALE


@pytest.mark.parametrize("sizes", [(8,), (4, 4)])
def test_a_gradient_beyond_float16_changes_nothing_but_the_scale(sizes):
    """Finite in float32, it is infinite times 65,536: until the scale has been halved often enough."""
    model, exact = network(), network()
    step, expected = stepper(model), stepper(exact, "off")
    for each in (step, expected):
        assert each(divided(*sizes), 8, rate=1e-3, drawing=(0, 0)).finite
        scaled(each, 1000.0)
    before, skipped = everything(step, model), 0
    while not step(divided(*sizes), 8, rate=1e-3, drawing=(0, 1 + skipped)).finite:
        skipped += 1
        assert same(everything(step, model), before)
        assert step.scaler.get_scale() == INITIAL_SCALE / 2**skipped
    assert 3 < skipped < training.MAX_SKIPPED_IN_A_ROW
    assert not same(everything(step, model), before)
    assert expected(divided(*sizes), 8, rate=1e-3, drawing=(0, 1)).finite
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        # BatchNorm takes away the bias before it, whose gradient is nothing but rounding.
        if ours is not model[1].bias:
            assert float((ours.grad - theirs.grad).norm()) < 0.01 * float(theirs.grad.norm())
    assert {float(state["step"]) for state in step.optimizer.state.values()} == {2.0}, "steps that were taken"


def test_the_scale_grows_again_after_so_many_finite_steps():
    step = scaled(stepper(network()), 1000.0)
    step.scaler.set_growth_interval(3)
    scales = []
    while len(scales) < 14:
        step(divided(), 8, rate=0.0, drawing=(0, len(scales)))
        scales.append(step.scaler.get_scale())
    least = scales.index(min(scales))
    assert scales[: least + 1] == [INITIAL_SCALE / 2 ** (1 + number) for number in range(least + 1)]
    # Three finite steps double it, the next one overflows and halves it.
    assert [scale / min(scales) for scale in scales[least:]][:5] == [1.0, 1.0, 1.0, 2.0, 1.0]


def test_gradients_of_micro_batches_are_unscaled_once_and_clipped_as_they_are():
    """Without BatchNorm, whose statistics are those of a micro-batch."""
    gradients = []
    for amp, sizes in (("off", (8,)), ("float16", (8,)), ("float16", (4, 4))):
        model = network()
        model[2] = nn.Identity()
        step = stepper(model, amp, gradient_clip=0.01)
        assert step(divided(*sizes), 8, rate=1e-3, drawing=(0, 0)).finite
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters()]))
    exact = gradients[0]
    assert float(exact.norm()) == pytest.approx(0.01, rel=1e-4)
    for found in gradients[1:]:
        assert float((found - exact).norm()) < 0.01 * float(exact.norm())


def in_float16(image_data: Path, **recipe: object) -> Job:
    """Six training images, two of each class, and three for validation."""
    whole = job(image_data, config=SMALL, **recipe)
    train, validation = (
        images.select(
            [index for start in range(0, len(images), len(images) // 3) for index in range(start, start + count)]
        )
        for images, count in ((whole.train, 2), (whole.validation, 1))
    )
    return dataclasses.replace(whole, train=train, validation=validation, hardware=Hardware("cpu", "float16"))


def test_a_resumed_run_has_the_scale_that_it_was_saved_with(image_data, tmp_path):
    """One step an epoch, the first of which overflows: it leaves the average alone, and half the scale behind."""

    def start(name: str, *, resume: bool = False) -> Trainer:
        averaged = in_float16(image_data, epochs=2, batch_size=6, ema_decay=0.9)
        trainer = Trainer(averaged, RunFolder(tmp_path / name, resume=resume), resume=resume)
        if not resume:
            trainer.state.scaler.load_state_dict({**trainer.state.scaler.state_dict(), "scale": 2.0**40})
        return trainer

    class Stopping(Quiet):
        def epoch(self, line: dict[str, object]) -> None:
            super().epoch(line)
            raise KeyboardInterrupt

    whole = start("whole")
    whole.state.scaler.set_backoff_factor(2.0**-30)
    whole.fit(Quiet())
    cut = start("cut")
    cut.state.scaler.set_backoff_factor(2.0**-30)
    initial = copy.deepcopy(cut.state.weights())
    with pytest.raises(KeyboardInterrupt):
        cut.fit(Stopping())
    saved = checkpoint.load(cut.run.last)
    assert saved.training["scaler"]["scale"] == 2.0**10
    assert (saved.training["skipped_steps"], saved.training["average_updates"]) == (1, 0)
    assert all(torch.equal(value, initial[name]) for name, value in saved.state.items())
    resumed = start("cut", resume=True)
    assert resumed.state.scaler.get_scale() == 2.0**10
    resumed.fit(Quiet())
    assert outcome(cut.run.path) == outcome(whole.run.path)
    assert resumed.state.counters.steps_taken == 1


def overflowing(image_data: Path, folder: Path, factor: float) -> Trainer:
    """A run of one step of two images after the other, whose gradients are larger by a factor."""
    whole = in_float16(image_data, epochs=6, batch_size=2)
    losses = ScaledLoss(Objective(whole.recipe, whole.class_counts()), factor)
    return Trainer(whole, RunFolder(folder / "run", resume=False), resume=False, objective=losses)  # type: ignore[arg-type]


def test_a_run_goes_on_for_as_long_as_a_lower_scale_may_help(image_data, tmp_path):
    trainer = overflowing(image_data, tmp_path, 2.0**12)
    trainer.fit(Quiet())
    counters = trainer.state.counters
    assert training.MAX_SKIPPED_IN_A_ROW < counters.skipped_steps < counters.step_count == 18
    assert trainer.state.scaler.get_scale() == INITIAL_SCALE / 2**counters.skipped_steps
    assert checkpoint.load(trainer.run.best).metrics["epoch"] > 4


def test_a_run_that_no_scale_helps_is_told_of_float16(image_data, tmp_path, monkeypatch):
    """From what 24 steps have left behind: two more, and it has come down from 65,536 to 1 and by ten more halves."""
    trainer = overflowing(image_data, tmp_path, torch.inf)
    counters, scaler = trainer.state.counters, trainer.state.scaler
    counters.skipped_in_a_row = counters.skipped_steps = counters.step_count = 24
    scaler.load_state_dict({**scaler.state_dict(), "scale": INITIAL_SCALE / 2**24})
    monkeypatch.setattr(training, "has_bfloat16", lambda device: device != "cpu")
    with pytest.raises(DivergedError) as raised:
        trainer.fit(Quiet())
    assert raised.value.message == (
        "The training diverged: the loss or its gradient was not finite in 26 steps in a row, the last of them in "
        "epoch 1, though float16's gradient scale came down to 0.000977."
    )
    assert raised.value.hint == (
        "No epoch had a finite result: there is no best.pt. float16 ends at 65,504: train again without AMP "
        "(`amp='off'`), and if it diverges there too, with a lower `learning_rate` or more `warmup_epochs`."
    )
    monkeypatch.setattr(training, "has_bfloat16", lambda device: device == "cpu")
    with pytest.raises(DivergedError, match=r"in bfloat16 \(`amp='bfloat16'`\) or without AMP \(`amp='off'`\)"):
        trainer.fit(Quiet())
