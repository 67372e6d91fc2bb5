"""Fine-tuning a network: the best epoch is kept, a teacher pulls, and nonsense is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from hemf_export.files.errors import CheckFailedError, HemfError, UsageError
from hemf_export.files.progress import IDLE, Silent, Task
from hemf_export.finetuning import training as finetuning
from hemf_export.finetuning.recipe import FineTuning
from hemf_export.images.images import Preprocess
from hemf_export.train.datasets import checks
from tests.conftest import write_class_folders

SMALL = Preprocess.for_size(32)


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[dict] = []
        self.steps = 0

    @contextmanager
    def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        self.steps += int(total or 0) * (unit == "steps")
        yield IDLE

    def event(self, event: object) -> None:
        assert isinstance(event, finetuning.TunedEpoch)
        self.lines.append(event.metrics)


@pytest.fixture
def splits(tmp_path):
    for seed, split in enumerate(("train", "val")):
        write_class_folders(tmp_path / split, 6, seed)
    splits = checks.load_splits(tmp_path)
    return splits["train"], splits["val"]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 3))


def run(splits, model: nn.Module, **settings: object) -> tuple[finetuning.FineTuned, Listener]:
    listener = Listener()
    recipe = FineTuning(**{"epochs": 6, "batch_size": 6, "learning_rate": 1e-2, **settings})
    teacher = network(1).requires_grad_(False)
    return finetuning.finetune(model, teacher, *splits, SMALL, recipe, listener), listener


def test_it_learns_and_the_network_has_the_weights_of_the_best_epoch(splits):
    model = network()
    found, listener = run(splits, model, distillation_weight=0.0)
    assert listener.steps == 6 * 3
    assert [line["epoch"] for line in listener.lines] == [0, 1, 2, 3, 4, 5, 6]
    best = max(listener.lines, key=lambda line: (line["val_accuracy"], -line["val_loss"]))
    assert found.epoch == best["epoch"] > 0
    assert listener.lines[-1]["loss"] < 0.7 * listener.lines[1]["loss"]
    images = np.stack([SMALL.normalize(SMALL.load(path)) for path in splits[1].paths])
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(images)).numpy(), found.logits, atol=1e-5)


def test_with_all_the_weight_on_the_teacher_the_logits_come_near_it(splits):
    model = network()
    found, listener = run(splits, model, distillation_weight=1.0, epochs=8)
    assert listener.lines[-1]["val_loss"] < 0.5 * listener.lines[0]["val_loss"]
    last = run(splits, network(1), distillation_weight=1.0, epochs=1)[1].lines
    assert last[0]["val_loss"] == pytest.approx(0, abs=1e-6)
    assert last[0]["val_agreement"] == 1.0
    assert found.reference.shape == found.before.shape == found.logits.shape == (18, 3)


def test_where_no_epoch_is_better_the_network_is_what_it_was(splits):
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    found, _ = run(splits, model, learning_rate=1e-30)
    assert found.epoch == 0
    for parameter, own in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, own)


def test_a_loss_that_is_not_finite_stops_it(splits):
    with pytest.raises(CheckFailedError, match="not finite in epoch 1, step 2; nothing was kept"):
        run(splits, network(), learning_rate=1e30)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_network_that_is_not_finite_as_it_comes_is_refused(splits, bad):
    model = network()
    with torch.no_grad():
        model[4].bias[0] = bad
    with pytest.raises(CheckFailedError, match="of the quantized network of 18 of 18 validation images are not finite"):
        run(splits, model)


def test_a_teacher_that_is_not_finite_is_refused(splits):
    def teacher(images):
        return network(1)(images).detach() * torch.tensor([1.0, torch.inf, 1.0])

    with pytest.raises(CheckFailedError, match="of the float network of 18 of 18"):
        finetuning.finetune(network(), teacher, *splits, SMALL, FineTuning())


@pytest.mark.parametrize("call", [0, 1], ids=["validation", "training"])
def test_full_gpu_memory_suggests_a_smaller_batch(splits, call):
    """Nothing is trained before the first validation: its three batches are the network's first calls."""
    model, calls = network(), []

    def full(module: nn.Module, inputs: object) -> None:
        calls.append(module)
        if len(calls) > 3 * call:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    model.register_forward_pre_hook(full)
    with pytest.raises(HemfError, match=r"The GPU's memory doesn't hold a batch of 6 images\. Try `batch_size=3`\."):
        run(splits, model)
    assert len(calls) == 3 * call + 1


def test_validation_logits_that_overflow_are_never_the_best_epoch(splits, monkeypatch):
    """All of class 0 by NumPy's argmax: that could have been the most images that were ever right."""
    model = network()
    monkeypatch.setattr(Listener, "event", lambda _, event: event.number or model[4].bias.data.fill_(torch.nan))
    monkeypatch.setattr(finetuning._Tuning, "epoch", lambda *_: 0.1)
    with pytest.raises(CheckFailedError, match=r"after epoch 1 of 18 of 18 .* nothing was kept"):
        run(splits, model)


def test_the_same_seed_gives_the_same_weights(splits):
    models = [network(), network(), network()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        run(splits, model, seed=seed, epochs=1)
    same, other = (torch.equal(models[0][2].weight, model[2].weight) for model in models[1:])
    assert (same, other) == (True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"gradient_clip": float("nan")}, "gradient_clip must be positive"),
        ({"distillation_weight": -0.1}, "distillation_weight is a share"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_values_without_sense_are_refused(change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        FineTuning(**change)


def test_the_rate_falls_to_nothing_by_half_a_cosine():
    recipe = FineTuning(learning_rate=1.0)
    assert recipe.rate(0, 100) == 1.0
    assert recipe.rate(50, 100) == pytest.approx(0.5)
    assert recipe.rate(99, 100) < 1e-3


def test_float32_is_no_tf32(splits):
    """PyTorch's default for convolutions on newer GPUs; the setting is there without one."""
    model, seen = network(), {}
    model.register_forward_hook(lambda module, *_: seen.update({torch.is_grad_enabled(): setting()}))

    def setting() -> bool:
        return torch.backends.cudnn.allow_tf32

    assert setting()
    run(splits, model, epochs=1)
    assert (seen, setting()) == ({True: False, False: False}, True)
