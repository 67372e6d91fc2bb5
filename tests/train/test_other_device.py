"""What training computes stays on the network's device: on "meta", as on a GPU, a tensor on the CPU is an error.

PyTorch refuses operations on tensors of two devices ("Expected all tensors to be on the same device"), of "meta" as of
"cuda"; only single numbers may be on the CPU.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hemf_export.images.images import Preprocess
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.registry import build
from hemf_export.train.distillation import Teacher
from hemf_export.train.losses import Objective
from hemf_export.train.recipe import Recipe
from hemf_export.train.weight_average import WeightAverage
from tests.conftest import TINY, tiny_checkpoint

ELSEWHERE = torch.device("meta")
IMAGES = torch.zeros(4, 3, 64, 64, device=ELSEWHERE)
LABELS = torch.zeros(4, dtype=torch.long, device=ELSEWHERE)


@pytest.fixture(scope="module")
def network():
    made = build(TINY, seed=0).to(ELSEWHERE)
    set_drop_path(made, 0.3)
    return made.train()


def test_operations_of_two_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"same device|meta"):
        IMAGES + torch.zeros(64)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cross-entropy", "mixup_alpha": 0.5},
        {"loss": "class-balanced", "cutmix_alpha": 1.0},
        {"loss": "focal"},
        {"loss": "logit-adjusted"},
    ],
    ids=str,
)
def test_losses(network, options):
    recipe = Recipe(label_smoothing=0.1, **options)
    result = Objective(recipe, [3, 2, 1])(network, IMAGES, LABELS, [0, 0, 0])
    assert {result.loss.device, result.correct.device} == {ELSEWHERE}


def test_a_teacher_of_another_size_and_normalization(network):
    saved = tiny_checkpoint()
    student = dataclasses.replace(Preprocess.for_size(32), mean=(0.1, 0.2, 0.3))
    teacher = Teacher(saved, saved.classes[::-1], student, ELSEWHERE)
    assert teacher(IMAGES[:, :, :32, :32]).device == ELSEWHERE


def test_gradients_and_the_average_of_the_weights(network):
    network(IMAGES).sum().backward()
    assert {parameter.grad.device for parameter in network.parameters()} == {ELSEWHERE}
    average = WeightAverage(network, 0.9)
    average.update(network)
    assert {value.device for value in average.weights.values()} == {ELSEWHERE}
