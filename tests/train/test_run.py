"""A whole run: it learns, it keeps what is worth keeping, and it says what it refuses."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.cli.commands.train import command as train_command
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, HemfError
from hemf_export.metrics.classification import summarize
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import MAX_SKIPPED_IN_A_ROW, DivergedError, Trainer
from tests.conftest import TINY, write_images
from tests.train.runs import ARGUMENTS as RUN_ARGUMENTS
from tests.train.runs import Quiet, command, job

ARGUMENTS = [*RUN_ARGUMENTS, "--epochs", "3"]


def test_it_learns_and_keeps_the_best(image_data, tmp_path):
    listener, run = Quiet(), RunFolder(tmp_path / "run", resume=False)
    Trainer(job(image_data), run, resume=False).fit(listener)
    assert listener.lines[-1]["loss"] < 0.6 * listener.lines[0]["loss"]
    best = checkpoint.load(run.best)
    accuracies = [line["val_accuracy"] for line in listener.lines]
    assert best.metrics["validation"]["accuracy"] == max(accuracies) > 0.6
    assert [json.loads(line)["epoch"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_a_run_in_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "my run").mkdir()
    monkeypatch.chdir(tmp_path / "my run")
    assert RunFolder(Path(), resume=False).name == "my run", "the curve's title ended in a comma"
    assert RunFolder(Path(".."), resume=False).name == tmp_path.name
    assert RunFolder(tmp_path / "other", resume=False).name == "other"


@pytest.mark.extended
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extended)])
def test_an_interrupted_run_keeps_its_checkpoint_and_says_so(image_data, tmp_path, sent):
    arguments = [*ARGUMENTS, "--epochs", "5000"]
    line = command(image_data, "-o", tmp_path / "run", *arguments)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("epoch   1"):
                running.send_signal(sent)
                break
        rest = running.stderr.read()
    assert running.returncode == 130
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
    trainer = Trainer(job(image_data, config=TINY, epochs=1), run, resume=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6, backoff_factor=2.0**-100)
    trainer.state.scaler = trainer.step.scaler = scaler
    trainer.fit(listener)
    assert listener.lines[0]["skipped_steps"] == 1, "the first step alone: the scale was lowered for the others"
    assert trainer.state.counters.step_count == trainer.steps == 3, "the schedule goes on"
    kept = checkpoint.load(run.last)
    assert kept.training["skipped_steps"] == 1
    assert kept.check_finite() is None
    resumed = Trainer(job(image_data, config=TINY, epochs=1), run, resume=True)
    resumed.state.scaler = torch.amp.GradScaler("cpu")
    resumed.state.restore(kept.state, kept.training)
    assert resumed.state.scaler.get_scale() == 2.0**27, "saved and restored, not made anew"


def test_an_output_folder_that_cannot_be_written_is_told_before_any_work(image_data, tmp_path, run_cli):
    (tmp_path / "file").write_text("")
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "file" / "run", *ARGUMENTS)
    assert code == 1
    assert "Can't write into" in err


def test_weight_decay_leaves_out_biases_and_norms(image_data, tmp_path):
    trainer = Trainer(job(image_data), RunFolder(tmp_path / "run", resume=False), resume=False)
    decayed, plain = trainer.state.optimizer.param_groups
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


def test_the_curve_has_all_figures_of_validation_for_each_epoch(image_data, tmp_path):
    run = RunFolder(tmp_path / "run", resume=False)
    Trainer(job(image_data, epochs=2), run, resume=False).fit(Quiet())
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    best = checkpoint.load(run.best)
    validation = best.metrics["validation"]
    line = lines[best.metrics["epoch"] - 1]
    for name in ("loss", "accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "mcc", "kappa", "auc", "ece"):
        assert line[f"val_{name}"] == validation[name]
    assert (line["val_brier"], line["val_recall"]) == (validation["brier"], validation["recall"])
    assert 0 <= line["loader_share"] <= 1


def test_averaged_weights_are_what_is_evaluated_and_kept(image_data, tmp_path):
    run = RunFolder(tmp_path / "run", resume=False)
    trainer = Trainer(job(image_data, epochs=2, ema_decay=0.9), run, resume=False)
    trainer.fit(Quiet())
    kept = checkpoint.load(run.last)
    own = trainer.model.state_dict()
    assert any(not torch.equal(own[name], value) for name, value in kept.state.items())
    assert all(torch.equal(own[name], value) for name, value in kept.training["network"].items())
    trainer.model.load_state_dict(kept.state)
    logits = trainer.predict(trainer.job.validation)
    figures = summarize(trainer.job.validation.labels, logits, trainer.job.validation.classes)
    assert figures["loss"] == kept.metrics["validation"]["loss"]


def test_the_tenth_epoch_is_later_than_the_ninth(image_data, tmp_path):
    """Numbers, not names: the kind of mistake that takes epoch_9.pt for the last of ten."""
    run = RunFolder(tmp_path / "run", resume=False)
    ten = job(image_data, epochs=10, batch_size=24)
    Trainer(ten, run, resume=False).fit(Quiet())
    assert [json.loads(line)["epoch"] for line in run.metrics.read_text().splitlines()] == list(range(1, 11))
    assert checkpoint.load(run.last).metrics["epoch"] == 10
    assert Trainer(ten, run, resume=True).next_epoch == 10


def test_rare_classes_are_not_hidden_by_a_frequent_one(tmp_path, run_cli):
    """100 : 1. A network that knows the frequent class only is right for 99 %, and its table shows what that hides."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        write_images(root / split / "common", 100, "bright", side=8)
        write_images(root / split / "rare", 1, "dark", side=8)
    arguments = [*RUN_ARGUMENTS, "--batch-size", "101", "--epochs", "1"]
    code, out, err = run_cli("train", root, "-o", tmp_path / "run", *arguments)
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["splits"]["val"]
    assert set(summary["recall"]) == {"common", "rare"}
    recall = summary["recall"]
    assert summary["balanced_accuracy"] == pytest.approx((recall["common"] + recall["rare"]) / 2)
    row = next(line for line in out.splitlines() if line.startswith("val"))
    assert f"{summary['balanced_accuracy']:.1%}" in row
    assert f"common {recall['common']:.0%}  rare {recall['rare']:.0%}" in row


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
def test_four_loader_processes_train_the_same_network_as_none(image_data, tmp_path):
    states = []
    for workers in (0, 4):
        run = RunFolder(tmp_path / str(workers), resume=False)
        recipe = {
            "epochs": 2,
            "augmentation": "rand",
            "sampling": "class-balanced",
            "drop_path": 0.2,
            "mixup_alpha": 0.2,
        }
        with_workers = dataclasses.replace(job(image_data, **recipe), workers=workers)
        Trainer(with_workers, run, resume=False).fit(Quiet())
        states.append(checkpoint.load(run.last))
    assert all(torch.equal(states[0].state[name], value) for name, value in states[1].state.items())
    assert states[0].metrics["validation"] == states[1].metrics["validation"]


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_full_disk_keeps_what_was_there_whatever_could_not_be_written(image_data, tmp_path, monkeypatch, fails_at):
    """Three files an epoch: the second epoch's are refused one after the other, and the first one's stay whole."""
    run, writes = RunFolder(tmp_path / "run", resume=False), []
    replace = artifacts.os.replace

    def full(source, target):
        writes.append(target)
        if len(writes) == fails_at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(artifacts.os, "replace", full)
    with pytest.raises(BadInputError, match="No space left on device"):
        Trainer(job(image_data, epochs=9, batch_size=24), run, resume=False).fit(Quiet())
    monkeypatch.setattr(artifacts.os, "replace", replace)
    assert not list(run.path.glob(".*.tmp"))
    for path in (run.best, run.last):
        if path.exists():
            assert checkpoint.load(path).check_finite() is None
    if run.last.exists() or run.best.exists():
        resumed = Trainer(job(image_data, epochs=9, batch_size=24), run, resume=True)
        assert resumed.next_epoch == (checkpoint.load(run.last).metrics["epoch"] if run.last.exists() else 0)
        assert len(run.read_metrics()) == resumed.next_epoch


def test_no_amp_is_still_understood():
    parsed = train_command.make_context("train", ["data", "-o", "run", "--no-amp"])
    assert parsed.params["amp"] == "off"
    assert train_command.make_context("train", ["data", "-o", "run"]).params["amp"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_float16_without_a_gpu_is_exit_4_unless_the_cpu_is_asked_for(image_data, tmp_path, run_cli):
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", "--amp", "float16")
    assert code == 4
    assert "float16 training needs a CUDA GPU" in err
    assert "--device cpu" in err


def test_a_batch_that_cannot_be_divided_is_a_usage_error(image_data, tmp_path, run_cli):
    arguments = [*ARGUMENTS, "--accumulation-steps", "5"]
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", *arguments)
    assert code == 2
    assert "--batch-size 10" in err


def test_the_curve_stays_json_where_nothing_could_be_learned(image_data, tmp_path):
    """All steps of an epoch left out: there is no loss, and no word for NaN in JSON."""
    run, listener = RunFolder(tmp_path / "run", resume=False), Quiet()
    trainer = Trainer(job(image_data, config=TINY, epochs=1), run, resume=False)
    trainer.state.scaler = trainer.step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with pytest.raises(DivergedError, match="its last epoch had no finite step"):
        trainer.fit(listener)
    assert not run.best.exists(), "what no step has changed is no result"
    assert listener.lines[0]["skipped_steps"] == 3
    line = json.loads(run.metrics.read_text(), parse_constant=pytest.fail)
    assert line["loss"] is None
    assert line["val_accuracy"] >= 0
