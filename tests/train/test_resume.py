"""`kill -9` at any moment, then --resume: the same as a run that was never stopped, to the bit, on a CPU.

With all that draws at random or has a state of its own: averaged weights, drop path, mixing, augmentation, sampling.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf import checkpoint
from hemf.checkpoint_files import read_pickle
from hemf.errors import BadInputError
from tests.train.runs import ARGUMENTS, EXTRAS, Quiet, command, environment, free_port, job, lines, outcome
from train.hardware import Hardware
from train.run_folder import RunFolder
from train.trainer import Trainer

DEADLINE_S = 300


def start(
    data: Path, output: Path, epochs: int, processes: int = 1, variant: str = "full"
) -> list[subprocess.Popen[bytes]]:
    """The processes of one start; it resumes what is there."""
    resume = ["--resume"] if (output / "last.pt").exists() or (output / "best.pt").exists() else []
    line = command(data, "-o", output, *ARGUMENTS, *EXTRAS, "--epochs", epochs, "--variant", variant, *resume)
    port = free_port()
    environments = [environment(rank, processes, port) for rank in range(processes)] if processes > 1 else [None]
    return [
        subprocess.Popen(line, env=each, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for each in environments
    ]


def finish(running: list[subprocess.Popen[bytes]]) -> None:
    told = [process.communicate(timeout=DEADLINE_S)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), told


def killed(running: list[subprocess.Popen[bytes]], epochs: int, wait_s: float) -> bool:
    """Wait for as many epochs of this start, and a little, then kill -9; whether that came before the end."""
    out = running[0].stderr
    assert out is not None
    for text in out:
        epochs -= text.startswith(b"epoch")
        if epochs < 0:
            break
    time.sleep(wait_s)
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
    for process in running:
        process.communicate()
    return running[0].returncode == -signal.SIGKILL


def kill_and_resume(
    data: Path, folder: Path, *, epochs: int, kills: int, processes: int = 1, variant: str = "full"
) -> None:
    """A whole run; another one with kills at random moments of its epochs and of writing them down; the same outcome.

    How long to wait for a kill is measured by the whole run's epochs. Where it comes too late, the run that has come to
    its end is compared all the same, and a new one begun.
    """
    whole, cut = folder / "whole", folder / "cut"
    finish(start(data, whole, epochs, processes, variant))
    told = RunFolder(whole, resume=True).read_metrics()
    epoch_s = float(np.median([line["seconds"] for line in told]))
    generator, done, starts = np.random.default_rng(0), 0, 0
    while done < kills:
        starts += 1
        assert starts < 3 * kills, "most starts must end by a kill"
        running = start(data, cut, epochs, processes, variant)
        if killed(running, int(generator.random() < 0.5), float(generator.uniform(0, 1.5 * epoch_s))):
            done += 1
            continue
        assert outcome(cut) == outcome(whole)
        shutil.rmtree(cut)
    finish(start(data, cut, epochs, processes, variant))
    assert outcome(cut) == outcome(whole)


def test_a_run_killed_at_two_moments_ends_as_one_that_was_not(image_data, tmp_path):
    """One branch of the network, which has all that a run has to keep, and is three times as quick."""
    kill_and_resume(image_data, tmp_path, epochs=6, kills=2, variant="local-only")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_twenty_moments_ends_as_one_that_was_not(image_data, tmp_path):
    kill_and_resume(image_data, tmp_path, epochs=40, kills=20)


def test_two_processes_killed_end_as_two_that_were_not(image_data, tmp_path):
    kill_and_resume(image_data, tmp_path, epochs=3, kills=1, processes=2, variant="local-only")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_killed_at_twenty_moments_end_as_two_that_were_not(image_data, tmp_path):
    kill_and_resume(image_data, tmp_path, epochs=40, kills=20, processes=2)


def test_resumed_in_the_same_process_too(image_data, tmp_path, monkeypatch):
    """Nothing that a run depends on lives outside its files. With float16's gradient scaler, which grows on the way."""
    monkeypatch.setattr(Hardware, "scaler", lambda _: torch.amp.GradScaler("cpu", 2.0**10, growth_interval=2))
    extras = {
        "epochs": 3, "ema_decay": 0.9, "drop_path": 0.3, "mixup_alpha": 0.2, "cutmix_alpha": 1.0,
        "augmentation": "rand", "sampling": "class-balanced", "accumulation_steps": 2,
    }  # fmt: skip
    whole, cut = RunFolder(tmp_path / "whole", resume=False), RunFolder(tmp_path / "cut", resume=False)
    Trainer(job(image_data, **extras), whole, resume=False).fit(Quiet())

    class Stop(Exception):  # noqa: N818
        pass

    class Stopping(Quiet):
        def epoch(self, line: dict[str, object]) -> None:
            if line["epoch"] == 1:
                raise Stop

    with pytest.raises(Stop):
        Trainer(job(image_data, **extras), cut, resume=False).fit(Stopping())
    Trainer(job(image_data, **extras), cut, resume=True).fit(Quiet())
    assert outcome(cut.path) == outcome(whole.path)
    assert checkpoint.load(whole.last).training["scaler"]["scale"] > 2.0**10


@pytest.mark.parametrize("kept", [(), ("metrics.jsonl",), ("metrics.jsonl", "best.pt")])
def test_killed_while_the_first_epoch_was_written_down(image_data, tmp_path, kept):
    """last.pt is written last. What was there before it must neither be lost nor stand in the way."""
    whole = RunFolder(tmp_path / "whole", resume=False)
    twice = job(image_data, epochs=2)
    Trainer(twice, whole, resume=False).fit(Quiet())
    cut = RunFolder(tmp_path / "cut", resume=False)
    with pytest.raises(KeyboardInterrupt):
        Trainer(twice, cut, resume=False).fit(_StopAfterOne())
    for path in (cut.last, cut.best, cut.metrics):
        if path.name not in kept:
            path.unlink()
    (cut.path / ".last.pt.x1.tmp").write_bytes(b"half a checkpoint")
    resume = bool({"best.pt"} & set(kept))
    Trainer(twice, RunFolder(cut.path, resume=resume), resume=resume).fit(Quiet())
    assert outcome(cut.path) == outcome(whole.path)


class _StopAfterOne(Quiet):
    def epoch(self, line: dict[str, object]) -> None:
        raise KeyboardInterrupt


def test_a_best_checkpoint_of_something_else_is_not_taken_for_a_first_epoch(image_data, tmp_path):
    run = RunFolder(tmp_path / "run", resume=False)
    Trainer(job(image_data, epochs=1), run, resume=False).fit(Quiet())
    run.last.unlink()
    with pytest.raises(BadInputError, match="Nothing to resume"):
        Trainer(job(image_data, epochs=2), run, resume=True)


def test_going_on_with_another_number_of_processes_is_refused(image_data, tmp_path):
    run = RunFolder(tmp_path / "run", resume=False)
    Trainer(job(image_data, epochs=1), run, resume=False).fit(Quiet())
    content = read_pickle(run.last)
    assert content["training"]["description"]["processes"] == 1
    assert len(lines(run.path)) == 1
    saved = checkpoint.load(run.last)
    saved.training["description"]["processes"] = 2
    checkpoint.save(saved, run.last)
    with pytest.raises(BadInputError, match="processes: 2 → 1"):
        Trainer(job(image_data, epochs=1), run, resume=True)
