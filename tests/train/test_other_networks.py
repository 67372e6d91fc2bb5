"""Networks beside HEMF in training: with windows and BatchNorms, with two classifiers, all as HEMF is trained."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.networks.registry import build, registered
from hemf_export.train.hardware import choose, has_bfloat16
from hemf_export.train.losses import Objective
from hemf_export.train.recipe import Recipe
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import Epoch, Trainer
from tests.train.runs import Quiet, command, environment, free_port, job, outcome

NEEDS_BFLOAT16 = pytest.mark.skipif(not has_bfloat16("cpu"), reason="this CPU has no bfloat16 arithmetic")
NETWORKS = ["hifuse-narrow", "conformer-narrow"]
EXTRAS = {
    "ema_decay": 0.9, "drop_path": 0.3, "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "augmentation": "rand",
    "sampling": "class-balanced", "gradient_clip": 1.0, "accumulation_steps": 2,
}  # fmt: skip


def config(name: str):
    return registered(name, num_classes=3, image_size=64)


class Stopped(Quiet):
    """Interrupts a run after its first epoch."""

    def event(self, event: object) -> None:
        super().event(event)
        if isinstance(event, Epoch):
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", NETWORKS)
def test_an_interrupted_run_ends_as_one_that_was_not(name, image_data, tmp_path):
    """Everything that draws at random or has a state of its own is on; the weights agree to the bit."""
    defined = job(image_data, config=config(name), epochs=2, **EXTRAS)
    Trainer(defined, RunFolder(tmp_path / "whole", resume=False), resume=False).fit(Quiet())
    with pytest.raises(KeyboardInterrupt):
        Trainer(defined, RunFolder(tmp_path / "cut", resume=False), resume=False).fit(Stopped())
    Trainer(defined, RunFolder(tmp_path / "cut", resume=True), resume=True).fit(Quiet())
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("amp", ["float16", pytest.param("bfloat16", marks=NEEDS_BFLOAT16)])
def test_mixed_precision_trains_as_float32_does(name, amp, image_data, tmp_path):
    """A few steps: the losses are those of float32 to the precision's rounding, and no step is skipped."""
    losses = {}
    for kind in ("off", amp):
        defined = dataclasses.replace(
            job(image_data, config=config(name), epochs=2, learning_rate=1e-4), hardware=choose("cpu", kind)
        )
        listener = Quiet()
        Trainer(defined, RunFolder(tmp_path / kind, resume=False), resume=False).fit(listener)
        losses[kind] = [line["loss"] for line in listener.lines]
        assert listener.lines[-1]["skipped_steps"] <= (4 if kind == "float16" else 0)  # while the scale comes down
    assert losses[amp] == pytest.approx(losses["off"], rel=0.2)
    assert losses[amp] != losses["off"]


def test_the_loss_of_two_classifiers_is_the_mean_and_the_prediction_the_sum():
    """Conformer's authors do it so."""
    model = build(config("conformer-narrow"), seed=0)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0])
    model.train()
    heads: list[tuple[torch.Tensor, ...]] = []
    model.register_forward_hook(lambda module, inputs, output: heads.append(output))
    found = Objective(Recipe(), [2, 1, 1])(model, images, labels, (0, 0, 0))
    ((first, second),) = heads
    entropies = [torch.nn.functional.cross_entropy(logits, labels) for logits in (first, second)]
    torch.testing.assert_close(found.loss, (entropies[0] + entropies[1]) / 2)
    assert int(found.correct) == int(((first + second).argmax(1) == labels).sum())


@pytest.mark.extended
@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_train_together_and_agree(name, image_data, tmp_path):
    line = command(
        image_data, "-o", tmp_path / "run", "--model", name, "--image-size", 64, "--epochs", 2, "--batch-size", 8,
        "--ema-decay", 0.9, "--device", "cpu",
    )  # fmt: skip
    port = free_port()
    running = [
        subprocess.Popen(line, env=environment(rank, 2, port), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for rank in range(2)
    ]
    told = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert checkpoint.load(tmp_path / "run" / "best.pt").config == config(name)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["splits"]["test"]["images"] == 12
