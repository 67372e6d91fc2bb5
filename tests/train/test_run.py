"""A whole run: it learns, it can be killed at any time and resumed to the same bytes, and it says what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf import checkpoint
from hemf.checkpoint_files import read_pickle
from hemf.config import HemfConfig
from hemf.errors import HemfError
from hemf.images import Preprocess
from tests.conftest import TINY
from train import data
from train.loop import MAX_SKIPPED_IN_A_ROW, Job, Trainer
from train.recipe import Recipe
from train.run_folder import RunFolder

ARGUMENTS = [
    "--model",
    "hemf-tiny",
    "--image-size",
    "32",
    "--epochs",
    "3",
    "--batch-size",
    "8",
    "--learning-rate",
    "1e-3",
]


class Quiet:
    """A listener that only remembers."""

    def __init__(self) -> None:
        self.lines: list[dict] = []

    def step(self, *_: object) -> None:
        pass

    def epoch(self, line: dict) -> None:
        self.lines.append(line)


def job(image_data: Path, **recipe: object) -> Job:
    train, validation, _ = data.load_splits(image_data)
    settings = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-3, **recipe}
    return Job(TINY, Recipe(**settings), Preprocess.for_size(64), train, validation)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "train", *(str(argument) for argument in arguments)]


def test_it_learns_and_keeps_the_best(image_data, tmp_path):
    listener, run = Quiet(), RunFolder(tmp_path / "run", resume=False)
    Trainer(job(image_data), run, resume=False).fit(listener)
    assert listener.lines[-1]["loss"] < 0.6 * listener.lines[0]["loss"]
    best = checkpoint.load(run.best)
    accuracies = [line["val_accuracy"] for line in listener.lines]
    assert best.metrics["validation"]["accuracy"] == max(accuracies) > 0.6
    assert [json.loads(line)["epoch"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_a_killed_run_resumes_to_the_same_bytes(image_data, tmp_path):
    """`kill -9` at several moments, each followed by --resume; epochs may be cut anywhere, also while writing."""
    subprocess.run(command(image_data, "-o", tmp_path / "whole", *ARGUMENTS), check=True, capture_output=True)
    cut = tmp_path / "cut"
    # Early kills may come before the first epoch has ended: then the run starts anew.
    generator, kills = np.random.default_rng(0), 0
    for _ in range(6):
        resume = ["--resume"] if (cut / "last.pt").exists() else []
        with subprocess.Popen(
            command(image_data, "-o", cut, *ARGUMENTS, *resume),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stderr is not None
            for line in running.stderr:
                if line.startswith("epoch"):
                    time.sleep(float(generator.uniform(0, 0.3)))
                    os.kill(running.pid, signal.SIGKILL)
                    break
            running.stderr.read()
        if running.returncode == -signal.SIGKILL:
            kills += 1
        if running.returncode == 0 or kills == 3:
            break
    assert kills
    subprocess.run(command(image_data, "-o", cut, *ARGUMENTS, "--resume"), check=True, capture_output=True)
    assert (cut / "best.pt").read_bytes() == (tmp_path / "whole" / "best.pt").read_bytes()
    # Pickle writes one string or two, as they were one object or two: the content is what must be the same.
    digests = [read_pickle(run / "last.pt")["sha256"] for run in (cut, tmp_path / "whole")]
    assert digests[0] == digests[1]
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (cut, tmp_path / "whole")
    ]
    timings = ("images_per_second", "seconds")
    assert [{k: v for k, v in line.items() if k not in timings} for line in lines[0]] == [
        {k: v for k, v in line.items() if k not in timings} for line in lines[1]
    ]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_run_keeps_its_checkpoint_and_says_so(image_data, tmp_path, sent, code):
    arguments = [*ARGUMENTS, "--epochs", "200"]
    line = command(image_data, "-o", tmp_path / "run", *arguments)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("epoch   1"):
                running.send_signal(sent)
                break
        rest = running.stderr.read()
    assert running.returncode == code
    assert "Interrupted" in rest
    assert "Traceback" not in rest
    assert checkpoint.load(tmp_path / "run" / "last.pt").training is not None
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_resuming_with_another_configuration_is_refused(image_data, tmp_path, run_cli):
    code, _, _ = run_cli("train", image_data, "-o", tmp_path / "run", *ARGUMENTS[:-2], "--epochs", "1")
    assert code == 0
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", *ARGUMENTS, "--resume", "--epochs", "9")
    assert code == 1
    assert "epochs: 1 → 9" in err
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", *ARGUMENTS)
    assert code == 1
    assert "already holds a run" in err


def test_lasting_non_finite_losses_end_the_run_and_keep_the_last_good_epoch(image_data, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run", resume=False)
    trainer = Trainer(job(image_data, epochs=9, batch_size=2), run, resume=False)
    listener, epochs = Quiet(), []

    def poison(line: dict) -> None:
        epochs.append(line)
        with torch.no_grad():
            trainer.model.head.weight.fill_(float("nan"))

    monkeypatch.setattr(listener, "epoch", poison)
    with pytest.raises(HemfError, match=f"not finite in {MAX_SKIPPED_IN_A_ROW} steps"):
        trainer.fit(listener)
    assert len(epochs) == 1
    assert checkpoint.load(run.last).check_finite() is None


def test_a_step_whose_gradients_overflow_is_left_out_and_counted(image_data, tmp_path):
    """float16 AMP's gradient scaler, here on the CPU with a scale that no gradient survives."""
    run, listener = RunFolder(tmp_path / "run", resume=False), Quiet()
    trainer = Trainer(job(image_data, epochs=1), run, resume=False)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6, backoff_factor=2.0**-100)
    trainer.fit(listener)
    assert listener.lines[0]["skipped_steps"] == 1, "the first step alone: the scale was lowered for the others"
    assert trainer.step_count == trainer.steps == 3, "the schedule goes on"
    assert checkpoint.load(run.last).training["skipped_steps"] == 1
    assert checkpoint.load(run.last).check_finite() is None


def test_an_output_folder_that_cannot_be_written_is_told_before_any_work(image_data, tmp_path, run_cli):
    (tmp_path / "file").write_text("")
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "file" / "run", *ARGUMENTS)
    assert code == 1
    assert "Can't write into" in err


def test_weight_decay_leaves_out_biases_and_norms(image_data, tmp_path):
    trainer = Trainer(job(image_data), RunFolder(tmp_path / "run", resume=False), resume=False)
    decayed, plain = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(trainer.model.parameters()))


def test_cuda_where_there_is_none_is_exit_4(image_data, tmp_path, run_cli):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", "--device", "cuda")
    assert code == 4
    assert "No CUDA GPU" in err


@pytest.mark.gpu
def test_amp_training_on_a_gpu_lowers_the_loss(image_data, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    import dataclasses

    listener = Quiet()
    on_gpu = dataclasses.replace(
        job(image_data), device="cuda", config=HemfConfig(name="t", num_classes=3, width=32, image_size=64)
    )
    trainer = Trainer(on_gpu, RunFolder(tmp_path / "run", resume=False), resume=False)
    assert trainer.use_amp
    trainer.fit(listener)
    assert listener.lines[-1]["loss"] < listener.lines[0]["loss"]
