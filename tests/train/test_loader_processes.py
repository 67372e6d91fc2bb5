"""Loader processes without room in shared memory, or ended by the system: told with the way out, never waited for."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils.data import DataLoader

from hemf_export.files.errors import BadInputError, HemfError, MissingCapabilityError
from hemf_export.files.progress import IDLE, Task
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.variants import vary
from hemf_export.train import data, loader_processes
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.sampling import Division
from hemf_export.train.trainer import Trainer
from tests.conftest import TINY
from tests.train.runs import ARGUMENTS, Quiet, job

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores


def prepared(image_data, tmp_path, workers: int = 2) -> Trainer:
    described = dataclasses.replace(job(image_data, config=vary(TINY, "local-only"), epochs=1), workers=workers)
    return Trainer(described, RunFolder(tmp_path / "run", resume=False), resume=False)


def instead_of_an_image(monkeypatch, what) -> None:
    """In the loader processes alone."""
    parent = os.getpid()
    monkeypatch.setattr(data, "decode", lambda path: what() if os.getpid() != parent else None)


@pytest.mark.parametrize(("free", "refused"), [(393_215, True), (393_216, False), (None, False)])
def test_room_is_asked_for_before_the_first_epoch(image_data, tmp_path, monkeypatch, free, refused):
    """Two processes make two batches each ahead, but an epoch of 24 images has three, of 8 × 3 × 64 × 64 floats."""
    monkeypatch.setattr(loader_processes, "free_bytes", lambda: free and free * 3)
    trainer = prepared(image_data, tmp_path)
    monkeypatch.setattr(Trainer, "_epoch", lambda *_: None)
    if not refused:
        trainer.fit(Quiet())
        return
    with pytest.raises(MissingCapabilityError, match=r"has 1\.2 MB free, .* need 1\.2 MB") as raised:
        trainer.fit(Quiet())
    assert "`workers=0`" in str(raised.value.hint)
    assert "--shm-size" in str(raised.value.hint)


def test_processes_of_a_run_share_it(monkeypatch):
    monkeypatch.setattr(loader_processes, "free_bytes", lambda: 100)
    loader_processes.require_room(1, 9, 50)
    loader_processes.require_room(3, 1, 50, processes=2)
    with pytest.raises(MissingCapabilityError):
        loader_processes.require_room(1, 9, 50, processes=2)


@pytest.mark.parametrize(("blocks", "free"), [(0, None), (100, 4096 * 7)])
def test_a_mount_without_a_size_is_never_full(monkeypatch, blocks, free):
    found = os.statvfs_result((4096, 4096, blocks, 8, 7, 0, 0, 0, 0, 255))
    monkeypatch.setattr(loader_processes.os, "statvfs", lambda _: found)
    assert loader_processes.free_bytes() == free


@pytest.mark.parametrize(
    ("sent", "kind", "message"),
    [
        (signal.SIGBUS, MissingCapabilityError, "no room in shared memory"),
        (signal.SIGKILL, HemfError, "was killed, as the system does where memory runs out"),
        (signal.SIGSEGV, HemfError, "ended by a signal: Segmentation fault"),
    ],
)
def test_a_process_that_is_ended_by_a_signal(image_data, tmp_path, monkeypatch, capfd, sent, kind, message):
    instead_of_an_image(monkeypatch, lambda: os.kill(os.getpid(), sent))
    with pytest.raises(HemfError, match=message) as raised:
        prepared(image_data, tmp_path).fit(Quiet())
    assert type(raised.value) is kind
    assert "`workers=0`" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        # libtorch's and DataLoader's own words.
        ("unable to open shared memory object </torch_1_2> in read-write mode: No space left", MissingCapabilityError),
        ("unable to allocate shared memory(shm) for file </torch_1_2>: Success (0)", MissingCapabilityError),
        ("unable to mmap 64 bytes: this might be caused by insufficient shared memory (shm)", MissingCapabilityError),
        # Triton's: a T4 has 64 KB for each block of threads.
        ("OutOfResources: out of resource: shared memory, Required: 98304, Hardware limit: 65536.", RuntimeError),
    ],
)
def test_shared_memory_of_the_host_is_not_that_of_a_gpu(message, kind):
    with pytest.raises((RuntimeError, HemfError)) as raised, loader_processes.translated():
        raise RuntimeError(message)
    assert type(raised.value) is kind


def test_a_process_that_dies_while_the_network_computes(image_data, tmp_path, monkeypatch, capfd):
    """PyTorch then raises its error wherever the program is."""
    trainer, workers = prepared(image_data, tmp_path, workers=1), []
    real = DataLoader.__iter__

    def start(loader):
        found = real(loader)
        workers.extend(found._workers)
        return found

    class Killing(Quiet):
        @contextmanager
        def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
            yield _Killer() if unit == "steps" else IDLE

    class _Killer:
        def advance(self, count: float = 1) -> None:
            os.kill(workers[0].pid, signal.SIGKILL)
            for _ in range(500):
                time.sleep(0.01)

    monkeypatch.setattr(DataLoader, "__iter__", start)
    with pytest.raises(HemfError, match="was killed, as the system does"):
        trainer.fit(Killing())


def test_an_image_that_went_meanwhile_is_told_without_a_traceback(image_data, tmp_path):
    trainer = prepared(image_data, tmp_path)
    gone = trainer.job.train.paths[3]
    gone.unlink()
    with pytest.raises(BadInputError) as raised:
        trainer.fit(Quiet())
    assert raised.value.exit_code == 1
    assert gone.name in raised.value.message
    assert "Traceback" not in str(raised.value)
    assert "Caught" not in str(raised.value)


@pytest.mark.parametrize("number", [28, 38, 13, 24, 11])
def test_processes_that_cannot_be_started(image_data, tmp_path, monkeypatch, number):
    """Where a semaphore can't be made, or the system takes no more processes."""
    import multiprocessing.synchronize as synchronize

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(synchronize._multiprocessing, "SemLock", refuse)
    with pytest.raises(HemfError) as raised:
        prepared(image_data, tmp_path).fit(Quiet())
    assert "`workers=0`" in str(raised.value.hint)
    assert raised.value.exit_code == (4 if number in (28, 38, 13) else 1)


def test_errors_of_other_kinds_stay_what_they_are():
    for error in (RuntimeError("shapes differ"), OSError(28, "No space left on device"), ValueError("x")):
        with pytest.raises(type(error)) as raised, loader_processes.translated():
            raise error
        assert raised.value is error


def test_labels_are_in_shared_memory_too(image_data):
    """PyTorch's own batches leave them to a thread of the loader process, whose errors nobody hears."""
    described = job(image_data)
    loader = data.TrainingLoader(
        data.TrainingImages(described.train, Preprocess.for_size(32), described.recipe),
        Division(len(described.train), 8), workers=1,
    )  # fmt: skip
    (images, labels), *_ = next(loader.epoch(0))
    loader.close()
    assert images.is_shared()
    assert labels.is_shared()
    assert labels.dtype == torch.int64


UNSHARE = shutil.which("unshare")


@pytest.mark.slow
@pytest.mark.skipif(UNSHARE is None or os.geteuid() != 0, reason="needs root, to mount a small /dev/shm")
@pytest.mark.parametrize("size", ["1m", "200k", "64k", "4k"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked before", "found out"])
def test_a_small_shared_memory_is_exit_4(image_data, tmp_path, size, asked):
    """The real thing: what Docker gives, and less."""
    look = "" if asked else "loader_processes.free_bytes = lambda: None; "
    code = f"from hemf_export.train import loader_processes; {look}from hemf_export.cli import main; main()"
    words = ["train", str(image_data), "-o", str(tmp_path / "run"), *ARGUMENTS, "--image-size", "224", "--workers", "2"]
    line = [sys.executable, "-c", code, *words, "--variant", "local-only", "--epochs", "1"]
    small = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    found = subprocess.run(
        ["unshare", "-m", "sh", "-c", small, "sh", *line], capture_output=True, text=True, timeout=200, check=False
    )
    assert found.returncode == 4, found.stderr
    assert "/dev/shm" in found.stderr
    assert "--shm-size" in found.stderr
    assert "Traceback" not in found.stderr
