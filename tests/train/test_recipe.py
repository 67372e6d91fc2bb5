"""The recipe: the paper's schedule, and values that make no sense."""

from __future__ import annotations

import pytest

from hemf.errors import BadInputError, UsageError
from train.recipe import Recipe, differences, refuse_differences


def test_the_rate_warms_up_then_follows_half_a_cosine():
    recipe, steps = Recipe(epochs=11), 10
    rates = [recipe.rate(step, steps) for step in range(110)]
    assert rates[0] == pytest.approx(1e-7)
    assert rates[10] == pytest.approx(1e-4)
    assert rates[60] == pytest.approx((1e-4 + 1e-6) / 2)
    assert rates[-1] == pytest.approx(1e-6, rel=0.05)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_one_epoch_has_no_warm_up():
    assert Recipe(epochs=1).rate(0, 5) == pytest.approx(1e-4)


def test_the_defaults_are_table_5():
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.final_learning_rate) == (150, 32, 1e-4, 1e-6)
    assert (recipe.weight_decay, recipe.warmup_epochs, recipe.warmup_start) == (0.01, 1, 1e-3)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0}],
)
def test_values_without_sense_are_refused(change):
    with pytest.raises(UsageError):
        Recipe(**change)


def test_differences_are_shown():
    assert differences({"epochs": 3, "seed": 0}, {"epochs": 4, "seed": 0}) == ["epochs: 3 → 4"]
    with pytest.raises(BadInputError, match="epochs: 3 → 4"):
        refuse_differences({"epochs": 3}, {"epochs": 4})
