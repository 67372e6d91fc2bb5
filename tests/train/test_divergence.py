"""A training that diverges: what isn't finite is no result, whatever epochs, averages or teachers it comes from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import CheckFailedError
from hemf_export.networks.hemf.variants import vary
from hemf_export.train.distillation import Teacher
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import DivergedError, Trainer
from tests.conftest import TINY, tiny_checkpoint
from tests.train.runs import ARGUMENTS, Quiet, job, lines

SMALL = vary(TINY, "local-only")  # all that a run has to keep, a third of the work
WILD = [*ARGUMENTS[:-1], "1e30", "--variant", "local-only", "--warmup-epochs", "0"]  # a learning rate


class Poisoning(Quiet):
    """Changes the trainer's numbers after an epoch."""

    def __init__(self, after: int, poison) -> None:
        super().__init__()
        self.after, self.poison = after, poison

    def epoch(self, line: dict) -> None:
        super().epoch(line)
        if line["epoch"] == self.after:
            self.poison()


def overflowing(trainer: Trainer) -> Trainer:
    """Every gradient is infinite, and the loss is not."""
    trainer.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    return trainer


def test_steps_in_a_row_are_counted_over_the_epochs(image_data, tmp_path):
    """Three steps an epoch: by itself, no epoch could have ten."""
    run, listener = RunFolder(tmp_path / "run", resume=False), Quiet()
    trainer = overflowing(Trainer(job(image_data, config=SMALL, epochs=9), run, resume=False))
    with pytest.raises(DivergedError, match=r"10 steps in a row, the last of them in epoch 4\.") as raised:
        trainer.fit(listener)
    assert raised.value.exit_code == 3
    assert "there is no best.pt" in str(raised.value.hint)
    assert [line["loss"] for line in listener.lines] == [None] * 3
    assert not run.best.exists()
    assert checkpoint.load(run.last).training["skipped_in_a_row"] == 9


def test_a_resumed_run_ends_where_the_whole_one_does(image_data, tmp_path):
    diverging = job(image_data, config=SMALL, epochs=9, ema_decay=0.9, accumulation_steps=2)
    whole, cut = (RunFolder(tmp_path / name, resume=False) for name in ("whole", "cut"))
    with pytest.raises(DivergedError) as expected:
        overflowing(Trainer(diverging, whole, resume=False)).fit(Quiet())

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overflowing(Trainer(diverging, cut, resume=False)).fit(Poisoning(2, stop))
    with pytest.raises(DivergedError) as found:
        overflowing(Trainer(diverging, cut, resume=True)).fit(Quiet())
    assert str(found.value) == str(expected.value)
    assert lines(cut.path) == lines(whole.path)


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(image_data, tmp_path):
    """It lacks the newer counters, and NaN may be what it took for the best."""
    run, twice = RunFolder(tmp_path / "run", resume=False), job(image_data, config=SMALL, epochs=2)
    trainer = Trainer(twice, run, resume=False)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(Poisoning(1, lambda: (_ for _ in ()).throw(KeyboardInterrupt)))
    saved = checkpoint.load(run.last)
    del saved.training["skipped_in_a_row"], saved.training["lost_epochs"]
    saved.training.update(best_accuracy=1.0, best_loss=math.nan)
    checkpoint.save(saved, run.last)
    resumed = Trainer(twice, run, resume=True)
    resumed.fit(Quiet())
    assert resumed.state.counters.best_accuracy == checkpoint.load(run.best).metrics["validation"]["accuracy"]
    assert checkpoint.load(run.best).metrics["epoch"] == 2


@pytest.mark.extended
@pytest.mark.parametrize(
    ("config", "name", "value"),
    [(SMALL, "head.bias", math.inf), (TINY, "running_var", math.nan)],
    ids=["a weight that only the average has", "statistics that training doesn't read"],
)
def test_validation_that_is_not_finite_keeps_what_was_best_before(image_data, tmp_path, config, name, value):
    """The loss stays finite all the while."""
    run = RunFolder(tmp_path / "run", resume=False)
    trainer = Trainer(job(image_data, config=config, epochs=4, batch_size=24, ema_decay=0.5), run, resume=False)
    kept = {}

    def poison() -> None:
        kept.update({path: path.read_bytes() for path in (run.best, run.last)})
        for weights in (trainer.state.average.weights, *([trainer.model.state_dict()] * (name == "running_var"))):
            next(each for key, each in weights.items() if key.endswith(name)).fill_(value)

    listener = Poisoning(1, poison)
    with pytest.raises(DivergedError, match="weights or BatchNorm's statistics are not finite after epoch 2") as raised:
        trainer.fit(listener)
    assert f"{run.best} keeps the best epoch before" in str(raised.value.hint)
    assert {path: path.read_bytes() for path in kept} == kept
    assert (listener.lines[1]["loss"] < 10, listener.lines[1]["val_accuracy"]) == (True, None)
    assert [line["val_accuracy"] is None for line in run.read_metrics()] == [False, True]
    assert Trainer(trainer.job, run, resume=True).next_epoch == 1, "from the last good epoch"


@pytest.mark.parametrize("lost", [2, 3])
def test_logits_that_overflow_in_one_epoch_are_not_its_result(image_data, tmp_path, monkeypatch, lost):
    """As with AMP: the weights are finite, and the next epoch may be well. The last one must be."""
    run, predict = RunFolder(tmp_path / "run", resume=False), Trainer.predict

    def overflow(trainer, images):
        found = predict(trainer, images)
        return found + np.float32(math.inf) if trainer.next_epoch == lost - 1 else found

    monkeypatch.setattr(Trainer, "predict", overflow)
    trainer, listener = Trainer(job(image_data, config=SMALL, epochs=3), run, resume=False), Quiet()
    if lost == 3:
        with pytest.raises(DivergedError, match="its last epoch had no finite step, or left a network whose"):
            trainer.fit(listener)
        with pytest.raises(DivergedError, match="its last epoch"):  # resumed, it is the same
            Trainer(job(image_data, config=SMALL, epochs=3), run, resume=True).fit(Quiet())
    else:
        trainer.fit(listener)
    assert [line["val_loss"] is None for line in listener.lines] == [line == lost - 1 for line in range(3)]
    assert checkpoint.load(run.best).metrics["epoch"] != lost


def test_a_teacher_whose_logits_overflow_is_told(image_data, tmp_path):
    """Its weights are finite; no learning rate would help."""
    saved = tiny_checkpoint()
    saved.state["head.weight"] = saved.state["head.weight"] * 1e38
    taught = job(image_data, config=SMALL, epochs=1, distillation_weight=0.5)
    teacher = Teacher(saved, taught.train.classes, taught.preprocess)
    trainer = Trainer(taught, RunFolder(tmp_path / "run", resume=False), resume=False)
    trainer.step.objective.teacher = teacher
    with pytest.raises(CheckFailedError, match=r"The teacher's logits of \d of 8 training images are not finite"):
        trainer.fit(Quiet())


def test_the_command_ends_with_3_and_so_does_resuming(image_data, tmp_path, run_cli):
    command = ("train", image_data, "-o", tmp_path / "run", *WILD, "--epochs", "3", "--gradient-clip", "1")
    code, out, err = run_cli(*command, "--json")
    assert code == 3, err
    told = json.loads(out)
    assert (told["diverged"], told["best"], told["exit_code"]) == (True, None, 3)
    assert "val acc not finite" in err
    assert "lower --learning-rate or more --warmup-epochs" in told["hint"]
    assert not {"best.pt", "summary.json"} & {path.name for path in (tmp_path / "run").iterdir()}
    code, _, again = run_cli(*command, "--resume")
    assert code == 3, again
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_best_epoch_that_overflows_on_test_images_has_no_summary(image_data, tmp_path, run_cli, monkeypatch):
    predict = Trainer.predict
    monkeypatch.setattr(
        Trainer, "predict", lambda self, images: predict(self, images) * (math.nan if images.root.name == "test" else 1)
    )
    calm = [*ARGUMENTS, "--variant", "local-only", "--epochs", "1"]
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", *calm)
    assert code == 3
    assert "best.pt: the logits of" in err
    assert "test images are not finite" in err
    assert not (tmp_path / "run" / "summary.json").exists()
