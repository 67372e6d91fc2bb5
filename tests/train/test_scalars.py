"""Figures for TensorBoard: where it is missing, and what reaches its writer."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import ClassVar

import pytest

from hemf_export.train import scalars
from tests.train.runs import ARGUMENTS


def test_where_it_is_missing_the_command_says_so_before_any_work(image_data, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(scalars, "find_spec", lambda name: None)
    code, _, err = run_cli("train", image_data, "-o", tmp_path / "run", "--tensorboard")
    assert code == 4
    assert "pip install tensorboard" in err
    assert not (tmp_path / "run").exists()


class FakeWriter:
    """Keeps what torch's SummaryWriter is told."""

    made: ClassVar[list[FakeWriter]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.values: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.values.append((name, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake(monkeypatch) -> type[FakeWriter]:
    module = ModuleType("torch.utils.tensorboard.writer")
    module.SummaryWriter = FakeWriter
    for name in ("torch.utils.tensorboard", "torch.utils.tensorboard.writer"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(scalars, "find_spec", lambda name: object())
    monkeypatch.setattr(FakeWriter, "made", [])
    return FakeWriter


def test_numbers_go_by_name_and_epoch(fake, tmp_path):
    written = scalars.writer(tmp_path, start=4)
    written.add({"loss": 0.5, "epoch": 4, "best": True, "device": "cpu", "auc": None}, 4)
    written.close()
    assert fake.made[0].values == [("loss", 0.5, 4), ("epoch", 4, 4)]
    assert (fake.made[0].folder, fake.made[0].purge_step, fake.made[0].closed) == (str(tmp_path), 4, True)


@pytest.mark.extended
def test_a_run_and_its_resumption_send_each_epoch_once(fake, image_data, tmp_path, run_cli):
    line = ("train", image_data, "-o", tmp_path / "run", "--tensorboard", *ARGUMENTS, "--epochs", 2)  # fmt: skip
    assert run_cli(*line)[0] == 0
    losses = [(name, step) for name, _, step in fake.made[0].values if name == "val_loss"]
    assert losses == [("val_loss", 1), ("val_loss", 2)]
    assert fake.made[0].purge_step == 1
    assert fake.made[0].closed
    assert run_cli(*line, "--resume")[0] == 0
    assert fake.made[1].purge_step == 3
    assert fake.made[1].values == []


def test_the_real_writer(tmp_path):
    pytest.importorskip("tensorboard")
    written = scalars.writer(tmp_path)
    written.add({"loss": 0.5}, 1)
    written.close()
    assert next(tmp_path.iterdir()).name.startswith("events.out")
