"""Processes that load images: what they die of is no defect of ours, and what they refuse reads as if refused here."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hemf.errors import BadInputError, HemfError, MissingCapabilityError
from train.loader_processes import from_processes


class Fails(Dataset[torch.Tensor]):
    """A single item that never comes."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.how == "refused":
            raise BadInputError("cells/a.png can't be decoded: cut short.", "Copy it again.")
        if self.how == "room":
            raise RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)")
        os.kill(os.getpid(), getattr(signal, self.how))
        raise AssertionError("not reached")


def loaded(how: str) -> list[torch.Tensor]:
    return list(from_processes(DataLoader(Fails(how), num_workers=1)))


@pytest.mark.parametrize("how", ["SIGBUS", "SIGKILL", "room"])
def test_a_process_that_dies_is_exit_4_with_a_way_out(how):
    with pytest.raises(MissingCapabilityError) as raised:
        loaded(how)
    assert "A process that loads images ended" in raised.value.message
    assert "shm-size" in str(raised.value.hint)
    assert "Traceback" not in str(raised.value)


def test_what_is_refused_there_reads_as_if_refused_here():
    with pytest.raises(HemfError) as raised:
        loaded("refused")
    assert type(raised.value) is BadInputError
    assert raised.value.message == "cells/a.png can't be decoded: cut short. Copy it again."


def test_a_defect_there_stays_one():
    def batches():
        raise RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  …\n"
            "RuntimeError: shapes disagree"
        )
        yield

    with pytest.raises(RuntimeError, match="shapes disagree"):
        list(from_processes(batches()))
