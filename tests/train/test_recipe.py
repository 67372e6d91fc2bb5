"""The recipe: the paper's schedule, and values that make no sense."""

from __future__ import annotations

import re

import pytest

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.train.recipe import Recipe, differences, refuse_differences


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


def test_nothing_beyond_the_paper_is_on_by_default():
    recipe = Recipe()
    assert (recipe.accumulation_steps, recipe.loss, recipe.augmentation) == (1, "cross-entropy", "crop-flip")
    assert (recipe.sampling, recipe.sync_batch_norm) == ("shuffled", False)
    for name in ("gradient_clip", "drop_path", "label_smoothing", "mixup_alpha", "cutmix_alpha", "ema_decay"):
        assert getattr(recipe, name) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"warmup_start": float("inf")}, "warmup_start must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"warmup_epochs": -1}, "warmup_epochs must not be negative"),
        ({"gradient_clip": float("nan")}, "gradient_clip must not be negative"),
        ({"mixup_alpha": float("inf")}, "mixup_alpha must not be negative, nor infinite"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and less than 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0"),
        ({"ema_decay": 1.5}, "ema_decay must be at least 0"),
        ({"loss": "class-balanced", "class_balanced_beta": 1.0}, "class_balanced_beta must be"),
        ({"augmentation": "rand", "rand_magnitude": 31.0}, "rand_magnitude must be 0 to 30"),
        ({"augmentation": "rand", "rand_operations": 0}, "rand_operations must be at least 1"),
        ({"loss": "focal", "focal_gamma": -1.0}, "focal_gamma must not be negative"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"loss": "focla"}, "Did you mean 'focal'"),
        ({"sampling": "balanced"}, "Did you mean 'class-balanced'"),
        ({"augmentation": "none"}, "Known: crop-flip, rand"),
        ({"focal_gamma": 3.0}, "focal_gamma does nothing with loss 'cross-entropy'. Choose loss 'focal'"),
        ({"rand_magnitude": 3.0}, "rand_magnitude does nothing with augmentation 'crop-flip'"),
    ],
)
def test_values_without_sense_are_refused(change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Recipe(**change)


def test_differences_are_shown():
    assert differences({"epochs": 3, "seed": 0}, {"epochs": 4, "seed": 0}) == ["epochs: 3 → 4"]
    with pytest.raises(BadInputError, match="epochs: 3 → 4"):
        refuse_differences({"epochs": 3}, {"epochs": 4})
