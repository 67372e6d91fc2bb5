"""Two processes on a CPU, over Gloo: the same training as one process of the same batch."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import MissingCapabilityError, UsageError
from hemf_export.networks.registry import build
from hemf_export.train import distributed
from hemf_export.train.distributed import Group, launched
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import Trainer
from tests.conftest import TINY, write_class_folders
from tests.train.runs import ARGUMENTS, Quiet, environment, free_port, job, lines
from tests.train.two_processes import EPOCHS, SCENARIOS


@pytest.fixture(scope="module")
def two_class_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 training images: the last step of an epoch has two, too few for two processes."""
    root = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate((("train", 8), ("val", 5))):
        write_class_folders(root / split, count, seed)
    for extra in sorted((root / "train" / "dark").iterdir())[:2]:
        extra.with_name(f"again_{extra.name}").write_bytes(extra.read_bytes())
    return root


@pytest.fixture(scope="module")
def together(two_class_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made."""
    output, port = tmp_path_factory.mktemp("together"), free_port()
    line = [sys.executable, "-m", "tests.train.two_processes", str(two_class_data), str(output)]
    started = [
        subprocess.Popen(line, env=environment(rank, 2, port), stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    return output


@pytest.fixture(scope="module")
def alone(two_class_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """One process: the state dict and the lines of a run, by its recipe."""

    def train(**recipe: object) -> tuple[dict[str, torch.Tensor], list[dict]]:
        listener, folder = Quiet(), tmp_path_factory.mktemp("alone")
        whole = job(two_class_data, config=TINY, epochs=EPOCHS, **recipe)
        # The two images that two processes leave out at the end of an epoch: here, too.
        trainer = Trainer(whole, RunFolder(folder, resume=False), resume=False)
        object.__setattr__(trainer.division, "images", 24)
        trainer.fit(listener)
        return trainer.model.state_dict(), listener.lines

    return train


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, statistics: bool) -> float:
    """Norm of the difference, of BatchNorm's statistics or of all else, as a share of how far training moved them.

    Not weight by weight: of biases that a BatchNorm takes away again AdamW makes whole steps of rounding.
    """
    start = build(TINY, seed=0).state_dict()
    names = [name for name in one if one[name].is_floating_point() and ("running" in name) == statistics]
    parts = [
        sum(float((a[name] - b[name]).square().sum()) for name in names) for a, b in ((one, other), (other, start))
    ]
    return float((parts[0] / parts[1]) ** 0.5)


@pytest.mark.extended
def test_with_synchronized_statistics_two_processes_are_one_of_the_same_batch(together, alone):
    """Losses, weights and BatchNorm's statistics: all that there is, to the rounding of another order of sums."""
    expected, expected_lines = alone()
    found = torch.load(together / "synchronized0.pt")
    for ours, theirs in zip(lines(together / "synchronized"), expected_lines, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-2)
    assert lines(together / "synchronized")[0]["loss"] == pytest.approx(expected_lines[0]["loss"], rel=1e-5)
    assert difference(found, expected, statistics=False) < 0.02
    assert difference(found, expected, statistics=True) < 0.005
    assert found.keys() == expected.keys()


@pytest.mark.extended
def test_without_them_two_processes_are_one_of_two_micro_batches(together, alone):
    """Each piece has statistics of its own, in both; what is made of the running ones differs."""
    expected, expected_lines = alone(accumulation_steps=2)
    found = torch.load(together / "apart0.pt")
    ours = [line["loss"] for line in lines(together / "apart")]
    assert ours == pytest.approx([line["loss"] for line in expected_lines], rel=1e-3)
    assert ours[0] == pytest.approx(expected_lines[0]["loss"], rel=1e-5)
    assert difference(found, expected, statistics=False) < 0.02
    assert ours[0] != pytest.approx(alone()[1][0]["loss"], rel=1e-4), "which is not one process of one piece"


@pytest.mark.extended
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_both_processes_end_with_the_same_network(together, scenario):
    first, second = (torch.load(together / f"{scenario}{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.extended
def test_validation_is_shared_out_and_put_together_in_order(together, two_class_data):
    found = [torch.load(together / f"logits{rank}.pt", weights_only=False) for rank in range(2)]
    trainer = Trainer(job(two_class_data, config=TINY), RunFolder(together / "check", resume=False), resume=False)
    trainer.model.load_state_dict(torch.load(together / "apart0.pt"))
    expected = trainer.predict(trainer.job.validation)
    assert len(expected) == 15, "not the same number for each process"
    for logits in found:
        assert torch.allclose(torch.from_numpy(logits), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.extended
def test_an_error_of_the_first_process_ends_all(together):
    first, second = json.loads((together / "told.json").read_text())
    assert first == ["BadInputError", "The disk is full. Make room.", 1]
    assert second[0] == "FailedElsewhereError"
    assert "The disk is full." in second[1]


@pytest.mark.extended
def test_only_the_first_process_wrote(together):
    assert {path.name for path in (together / "apart").iterdir()} == {"best.pt", "last.pt", "metrics.jsonl"}
    assert checkpoint.load(together / "apart" / "last.pt").training["description"]["processes"] == 2


def test_one_process_alone_needs_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == Group()
    assert Group().from_first(lambda: 5) == 5
    assert Group().gather("a") == ["a"]
    with distributed.joined("cpu") as group:
        assert group.first


def test_the_environment_describes_the_group(monkeypatch):
    for name, value in environment(3, 4, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert launched() == Group(3, 4, 1, 2)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match="RANK is 4 of WORLD_SIZE 4"):
        launched()
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(UsageError, match="must be numbers"):
        launched()


def test_more_processes_than_gpus_is_exit_4(monkeypatch):
    for name, value in environment(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(MissingCapabilityError, match="2 processes on this host, which has 1 GPUs"),
        distributed.joined("cuda"),
    ):
        pass


@pytest.mark.extended
def test_a_process_that_dies_ends_the_other_with_a_message(image_data, tmp_path):
    """kill -9, as the kernel does where memory runs out; and Ctrl-C of the first one is heard."""
    line = [
        sys.executable,
        "-m",
        "hemf_export",
        "train",
        str(image_data),
        "-o",
        str(tmp_path / "run"),
        *ARGUMENTS,
        "--epochs",
        "5000",
    ]
    port = free_port()
    started = [
        subprocess.Popen(
            line, env=environment(rank, 2, port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        assert started[0].stderr is not None
        for text in started[0].stderr:
            if text.startswith("epoch   1"):
                break
        started[1].send_signal(signal.SIGKILL)
        rest = started[0].communicate(timeout=240)[1]
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
    assert started[0].returncode == 1
    assert "error: Another process of this run ended, or can't be reached." in rest
    assert "Traceback" not in rest
    assert checkpoint.load(tmp_path / "run" / "last.pt").training is not None


@pytest.mark.slow
def test_sigterm_to_torchrun_ends_all_and_keeps_the_checkpoint(image_data, tmp_path):
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "hemf_export", "train",
        str(image_data), "-o", str(tmp_path / "run"), *ARGUMENTS, "--epochs", "5000",
    ]  # fmt: skip
    with subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as agent:
        assert agent.stderr is not None
        for text in agent.stderr:
            if text.startswith("epoch   1"):
                agent.send_signal(signal.SIGTERM)
                break
        rest = agent.stderr.read()
    assert agent.returncode != 0
    assert rest.count("error: Interrupted.") == 1, rest
    assert not (tmp_path / "run" / "summary.json").exists()
    assert checkpoint.load(tmp_path / "run" / "last.pt").training is not None
    assert not list((tmp_path / "run").glob(".*.tmp"))
    deadline = time.monotonic() + 240
    while _alive(agent.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _alive(agent.pid), "no process of the run is left"


def _alive(session: int) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                return True
    return False


@pytest.mark.gpu
@pytest.mark.parametrize("options", [[], ["--sync-batch-norm"], ["--compile", "--accumulation-steps", "2"]])
def test_two_gpus_train_one_network(image_data, tmp_path, options):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "hemf_export", "train",
        str(image_data), "-o", str(tmp_path / "run"), *ARGUMENTS, "--epochs", "4", *options,
    ]  # fmt: skip
    subprocess.run(line, check=True, capture_output=True, timeout=280)
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert checkpoint.load(tmp_path / "run" / "best.pt").check_finite() is None


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm1d, (6, 3, 4)), (nn.BatchNorm2d, (6, 3, 4, 5))]
)
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_every_kind_of_batch_norm_is_synchronized_to_what_pytorch_computes(kind, shape, options, monkeypatch):
    """A single process, whose sums over all processes are its own."""
    monkeypatch.setattr(distributed, "_sum", lambda values: values)
    torch.manual_seed(0)
    plain = nn.Sequential(kind(3, **options))
    ours = copy.deepcopy(plain)
    distributed.synchronize_batch_norm(ours, torch.device("cpu"))
    assert type(ours[0]) is distributed.SynchronizedBatchNorm
    for _ in range(2):
        values = torch.randn(*shape) * 3 + 1
        torch.testing.assert_close(ours(values), plain(values))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(values), plain.eval()(values))
