"""Distillation: its loss by hand, a teacher of another size, order and normalization, and teachers that are refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from scipy.stats import entropy

from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.train import distillation
from hemf_export.train.distillation import Teacher
from hemf_export.train.losses import Objective
from hemf_export.train.recipe import Recipe
from tests.conftest import CLASSES, TINY, tiny_checkpoint

SMALL = ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]


def test_the_divergence_by_hand():
    # Softened by T = 2: the teacher's ln 9 becomes ln 3, so 3/4 and 1/4; the student's are 1/2 and 1/2.
    teacher, student = torch.tensor([[math.log(9.0), 0.0]]), torch.zeros(1, 2)
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert float(distillation.divergence(student, teacher, 2.0)) == pytest.approx(by_hand)


def test_the_divergence_is_scipys_mean_over_the_images():
    logits = np.random.default_rng(0).normal(0, 3, (2, 5, 4))
    expected = 9 * np.mean(entropy(softmax(logits[1] / 3, axis=1), softmax(logits[0] / 3, axis=1), axis=1))
    assert float(distillation.divergence(*torch.from_numpy(logits), 3.0)) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_lost_where_both_agree_and_large_logits_stay_finite():
    same = torch.tensor([[3e4, -3e4, 0.0]])
    assert float(distillation.divergence(same.half(), same.half(), 1.0)) == 0.0
    assert math.isfinite(float(distillation.divergence(-same, same, 1.0)))


def test_the_weight_shares_between_labels_and_teacher():
    student, teacher, task = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), torch.tensor(5.0)
    apart = distillation.divergence(student, teacher, 2.0)

    def blended(weight: float) -> float:
        return float(distillation.blend(task, student, teacher, weight=weight, temperature=2.0))

    assert blended(0.0) == 5.0
    assert blended(1.0) == pytest.approx(float(apart))
    assert blended(0.25) == pytest.approx(0.75 * 5 + 0.25 * float(apart))


def test_the_gradient_is_the_difference_of_the_softened_probabilities_times_t():
    """Equation 2 of the paper, T² times: (student's - teacher's probability) · T, an image."""
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True), torch.tensor([[0.0, 2.0, 1.0]])
    distillation.divergence(student, teacher, 4.0).backward()
    expected = 4 * ((student / 4).softmax(1) - (teacher / 4).softmax(1))
    torch.testing.assert_close(student.grad, expected.detach())


def test_a_teacher_gives_its_own_logits_in_the_students_order_of_classes():
    saved = tiny_checkpoint(classes=("dark", "striped", "bright"))
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0))
    found = Teacher(saved, CLASSES, saved.preprocess)(images)
    with torch.no_grad():
        own = saved.model()(images)
    torch.testing.assert_close(found, own[:, [2, 0, 1]])
    assert not found.requires_grad


def test_a_teacher_sees_the_crop_in_its_own_size_and_normalization():
    config = dataclasses.replace(TINY, image_size=96)
    own = dataclasses.replace(Preprocess.for_size(96), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    saved = dataclasses.replace(tiny_checkpoint(config=config), preprocess=own)
    student = Preprocess.for_size(64)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    given = torch.from_numpy(student.normalize(pixels))[None]
    seen: list[torch.Tensor] = []
    teacher = Teacher(saved, CLASSES, student)
    teacher._model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert teacher(given).shape == (1, 3)
    # Pillow's own filter on the pixels, a second way to the same: it rounds to whole grey levels.
    large = np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BILINEAR))
    step = 1 / 255 / np.array(own.std).reshape(3, 1, 1)
    assert (np.abs(seen[0][0].numpy() - own.normalize(large)) <= 1.01 * step).all()


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    path = tmp_path / "teacher.pt"
    checkpoint.save(tiny_checkpoint(classes=("bright", "dark", "spotted")), path)
    with pytest.raises(BadInputError, match=r"teacher\.pt.*it lacks striped; it has besides spotted"):
        distillation.load(path, CLASSES, Preprocess.for_size(64))


def test_a_teacher_that_is_not_finite_is_refused(tmp_path):
    saved = tiny_checkpoint()
    saved.state["head.bias"][0] = math.nan
    checkpoint.save(saved, tmp_path / "teacher.pt")
    with pytest.raises(BadInputError, match=r"teacher\.pt: Non-finite values in 1 tensors: head\.bias"):
        distillation.load(tmp_path / "teacher.pt", CLASSES, Preprocess.for_size(64))


@pytest.mark.extended
def test_a_run_with_a_teacher_says_so_and_resumes_with_that_one_alone(image_data, tmp_path, run_cli):
    teachers = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for seed, path in enumerate(teachers):
        checkpoint.save(tiny_checkpoint(seed), path)
    command = ("train", image_data, "-o", tmp_path / "run", *SMALL, "--teacher")
    code, _, err = run_cli(*command, teachers[0], "--distillation-weight", "0.7")
    assert code == 0, err
    assert "taught by a test-local-only" in err
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    assert saved.provenance["teacher"] == {
        "model": "test-local-only",
        "checkpoint_sha256": artifacts.sha256(teachers[0]),
    }
    assert saved.provenance["recipe"]["distillation_weight"] == 0.7
    code, _, err = run_cli(*command, teachers[1], "--distillation-weight", "0.7", "--resume")
    assert code == 1
    assert f"teacher: {artifacts.sha256(teachers[0])} → {artifacts.sha256(teachers[1])}" in err


def test_the_objective_blends_the_recipes_loss_with_the_teachers():
    saved, recipe = tiny_checkpoint(), Recipe(label_smoothing=0.1, distillation_weight=0.3, temperature=3.0)
    teacher, student = Teacher(saved, CLASSES, saved.preprocess), tiny_checkpoint(1).model()
    images, labels = torch.randn(4, 3, 64, 64, generator=torch.manual_seed(0)), torch.tensor([0, 1, 2, 0])
    alone = Objective(recipe, [1, 1, 1])(student, images, labels, (0, 0, 0))
    taught = Objective(recipe, [1, 1, 1], teacher)(student, images, labels, (0, 0, 0))
    apart = distillation.divergence(student(images), teacher(images), 3.0)
    torch.testing.assert_close(taught.loss, 0.7 * alone.loss + 0.3 * apart)
    assert taught.correct == alone.correct


def test_the_teacher_sees_the_mixed_images():
    seen: list[torch.Tensor] = []

    def teacher(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.zeros(len(images), 3)

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(4, 3, 2, 2, generator=torch.manual_seed(0))
    objective = Objective(Recipe(mixup_alpha=1.0), [1, 1, 1], teacher)
    objective(network, images, torch.tensor([0, 1, 2, 0]), (0, 0, 0))
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], images)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--temperature", "3"], 2, "temperature does nothing without a teacher"),
        (["--teacher", "none.pt"], 1, "No checkpoint at none.pt"),
        (["--teacher", "teacher.pt", "--distillation-weight", "1.5"], 2, "distillation_weight is a share"),
        (["--teacher", "teacher.pt", "--temperature", "0"], 2, "temperature must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    more, code, message, image_data, tmp_path, run_cli, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tiny_checkpoint(), tmp_path / "teacher.pt")
    found, _, err = run_cli("train", image_data, "-o", tmp_path / "run", *SMALL, *more)
    assert found == code, err
    assert message in err
    assert not list((tmp_path / "run").glob("*"))


def test_a_larger_hemf_teaches_a_smaller_one():
    config = HemfConfig(name="wide", num_classes=3, width=64, image_size=64, elf_depth=1, egf_depth=1)
    teacher = tiny_checkpoint(config=config)
    assert Teacher(teacher, CLASSES, Preprocess.for_size(64))(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
