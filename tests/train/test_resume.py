"""`kill -9` at any moment, then --resume: the same as a run that was never stopped, to the bit, on a CPU.

With all that draws at random or has a state of its own: averaged weights, drop path, mixing, augmentation, sampling.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint_files import read_pickle
from hemf_export.files.errors import BadInputError
from hemf_export.train.hardware import Hardware
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import Trainer
from tests import kills
from tests.conftest import TINY
from tests.train.runs import ARGUMENTS, EXTRAS, Quiet, environment, free_port, job, lines, outcome

Process = subprocess.Popen[bytes]

DEADLINE_S = 240


def start(
    data: Path, output: Path, epochs: int, *, processes: int = 1, kill_at: int = 0, variant: str
) -> list[Process]:
    """The processes of one start, the first of which may kill itself; it resumes what is there."""
    resume = ["--resume"] if (output / "last.pt").exists() or (output / "best.pt").exists() else []
    line = ["train", data, "-o", output, *ARGUMENTS, *EXTRAS, "--epochs", epochs, "--variant", variant, *resume]
    port = free_port()
    started = []
    for rank in range(processes):
        counted = output.with_suffix(".operations") if rank == 0 else None
        command = kills.program(line, output, data, kill_at=kill_at if rank == 0 else 0, counted=counted)
        environ = environment(rank, processes, port) if processes > 1 else None
        started.append(subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return started


def finish(running: list[Process]) -> None:
    told = [process.communicate(timeout=DEADLINE_S)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), told


def die(running: list[Process]) -> None:
    """Wait for the first process to kill itself, and kill the others."""
    told = running[0].communicate(timeout=DEADLINE_S)[1]
    assert running[0].returncode == -signal.SIGKILL, told
    for process in running[1:]:
        process.kill()
        process.communicate()


def kill_and_resume(
    data: Path, folder: Path, *, epochs: int, times: int, processes: int = 1, variant: str = "full"
) -> None:
    """A whole run; another one that is killed at moments spread over it, and goes on each time; the same outcome."""
    whole, cut = folder / "whole", folder / "cut"
    finish(start(data, whole, epochs, processes=processes, variant=variant))
    operations = int(whole.with_suffix(".operations").read_text())
    generator = np.random.default_rng(0)
    for _ in range(times):
        # Of each start the same share: what a resumed one still has to do is less.
        kill_at = int(generator.uniform(0.1, 1.5) * operations / (times + 1))
        die(start(data, cut, epochs, processes=processes, kill_at=kill_at, variant=variant))
    finish(start(data, cut, epochs, processes=processes, variant=variant))
    assert outcome(cut) == outcome(whole)


@pytest.mark.extended
def test_a_run_killed_at_two_moments_ends_as_one_that_was_not(image_data, tmp_path):
    """One branch of the network, which has all that a run has to keep, and is three times as quick."""
    kill_and_resume(image_data, tmp_path, epochs=6, times=2, variant="local-only")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_twenty_moments_ends_as_one_that_was_not(image_data, tmp_path):
    kill_and_resume(image_data, tmp_path, epochs=40, times=20)


@pytest.mark.extended
def test_two_processes_killed_end_as_two_that_were_not(image_data, tmp_path):
    kill_and_resume(image_data, tmp_path, epochs=3, times=1, processes=2, variant="local-only")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_killed_at_twenty_moments_end_as_two_that_were_not(image_data, tmp_path):
    kill_and_resume(image_data, tmp_path, epochs=40, times=20, processes=2)


@pytest.mark.extended
def test_resumed_in_the_same_process_too(image_data, tmp_path, monkeypatch):
    """Nothing that a run depends on lives outside its files. With float16's gradient scaler, which grows on the way."""
    monkeypatch.setattr(Hardware, "scaler", lambda _: torch.amp.GradScaler("cpu", 2.0**10, growth_interval=2))
    extras = {
        "config": TINY, "epochs": 2, "ema_decay": 0.9, "drop_path": 0.3, "mixup_alpha": 0.2, "cutmix_alpha": 1.0,
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
