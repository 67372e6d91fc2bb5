"""The losses: against their formulas written down again, and against each other where one is a case of another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError
from hemf_export.train import losses
from hemf_export.train.recipe import Recipe

COUNTS = (6705, 1113, 115)
LABELS = torch.tensor([0, 2, 1, 0, 2])
LOGITS = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (5, 3)).astype(np.float32))
SOFT = torch.from_numpy(np.random.default_rng(1).dirichlet([1, 1, 1], 5).astype(np.float32))
RECIPES = [
    Recipe(),
    Recipe(label_smoothing=0.1),
    Recipe(loss="class-balanced", class_balanced_beta=0.99),
    Recipe(loss="class-balanced", label_smoothing=0.1),
    Recipe(loss="focal", focal_gamma=1.5),
    Recipe(loss="focal", label_smoothing=0.2),
    Recipe(loss="logit-adjusted", logit_adjustment=0.7),
    Recipe(loss="logit-adjusted", label_smoothing=0.1),
]


def expected(recipe: Recipe, targets: np.ndarray) -> float:
    """Image by image and class by class, in float64."""
    rows, classes = LOGITS.double().numpy(), len(COUNTS)
    if recipe.loss == "logit-adjusted":
        rows = rows + recipe.logit_adjustment * np.log(np.array(COUNTS) / sum(COUNTS))
    beta, total = recipe.class_balanced_beta, 0.0
    raw = [(1 - beta) / (1 - beta**count) for count in COUNTS]
    for row, target in zip(log_softmax(rows, axis=1), targets, strict=True):
        for index in range(classes):
            share = target[index] * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
            term = -share * row[index]
            if recipe.loss == "class-balanced":
                term *= raw[index] * classes / sum(raw)
            elif recipe.loss == "focal":
                term *= (1 - math.exp(row[index])) ** recipe.focal_gamma
            total += term
    return total / len(targets)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.loss}-{recipe.label_smoothing}")
def test_labels_and_probabilities_give_the_formula(recipe):
    loss = losses.make(recipe, COUNTS)
    hard = loss(LOGITS, LABELS)
    assert hard.shape == ()
    assert float(hard) == pytest.approx(expected(recipe, np.eye(3)[LABELS.numpy()]), rel=1e-5)
    assert float(loss(LOGITS, SOFT)) == pytest.approx(expected(recipe, SOFT.double().numpy()), rel=1e-5)


def test_the_default_is_torchs_cross_entropy_to_the_bit():
    logits = LOGITS.clone().requires_grad_()
    losses.make(Recipe(), COUNTS)(logits, LABELS).backward()
    plain = LOGITS.clone().requires_grad_()
    F.cross_entropy(plain, LABELS).backward()
    assert torch.equal(logits.grad, plain.grad)


def test_weights_of_classes_by_hand():
    # β = 1/2, n = 1 and 2: 0.5 / 0.5 = 1 and 0.5 / 0.75 = 2/3, scaled by 2 / (5/3).
    assert losses.effective_weights([1, 2], 0.5).tolist() == pytest.approx([1.2, 0.8])
    assert losses.effective_weights(COUNTS, 0.0).tolist() == [1, 1, 1]
    shares = losses.effective_weights(COUNTS, 1 - 1e-9)
    assert (shares * torch.tensor(COUNTS)).tolist() == pytest.approx([float(shares[0]) * COUNTS[0]] * 3, rel=1e-4)


def test_focal_without_gamma_is_cross_entropy():
    assert float(losses.focal(LOGITS, LABELS, gamma=0.0)) == pytest.approx(float(F.cross_entropy(LOGITS, LABELS)))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_has_finite_gradients_where_the_network_is_certain(gamma):
    logits = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    losses.focal(logits, torch.tensor([0, 0]), gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()


def test_logit_adjustment_asks_for_a_larger_margin_of_rare_classes():
    loss = losses.make(Recipe(loss="logit-adjusted"), COUNTS)
    even = torch.zeros(1, 3)
    assert float(loss(even, torch.tensor([0]))) == pytest.approx(-math.log(6705 / 7933))
    assert float(loss(even, torch.tensor([2]))) == pytest.approx(-math.log(115 / 7933))


@pytest.mark.parametrize("kind", ["class-balanced", "logit-adjusted"])
def test_a_class_without_images_is_refused(kind):
    with pytest.raises(BadInputError, match="number 1"):
        losses.make(Recipe(loss=kind), [3, 0, 2])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.loss}-{recipe.label_smoothing}")
def test_float16_logits_are_taken_in_float32(recipe):
    """As CUDA's autocast gives them."""
    loss = losses.make(recipe, COUNTS)
    half = LOGITS.half()
    for targets in (LABELS, SOFT):
        found = loss(half, targets)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(loss(half.float(), targets)), rel=1e-6)
