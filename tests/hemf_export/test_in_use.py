"""Commands that make a file or a folder which another one is making: exit 1 at once, and nothing is touched."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hemf_export.checkpoints import checkpoint
from hemf_export.files import locks
from hemf_export.train.run_folder import RunFolder
from tests.conftest import Made
from tests.train.runs import ARGUMENTS, command, environment, free_port

SMALL = [*ARGUMENTS, "--variant", "local-only", "--epochs", "1"]


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Somebody else owns `path`."""
    owned, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.owned(path):
            owned.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    owned.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# What is in use below the folder that the command writes into, and the command: OUT, DATA, and files of MADE.
COMMANDS = {
    "train": ("run", "train DATA -o OUT/run"),
    "train, resumed": ("run", "train DATA -o OUT/run --resume"),
    "ablate": ("out", "ablate DATA -o OUT/out"),
    "ablate, one of its runs": ("out/full", "ablate DATA -o OUT/out"),
    "data": ("set", "data class-folders DATA/train -o OUT/set"),
    "evaluate": ("found", "evaluate MADE.onnx --data DATA -o OUT/found"),
    "evaluate, by default": ("model.evaluation", "evaluate OUT/model.pt --data DATA"),
    "explain": ("shown", "explain MADE.pt DATA/val -o OUT/shown"),
    "onnx": ("x.onnx", "onnx MADE.pt -o OUT/x.onnx"),
    "onnx, by default": ("model.onnx", "onnx OUT/model.pt"),
    "calibrate": ("x.onnx", "calibrate MADE.onnx --precision fp16 --images DATA -o OUT/x.onnx"),
    "calibrate, to FP16 perhaps": ("model.fp16.onnx", "calibrate OUT/model.onnx --precision int8 --images DATA"),
    "calibrate for a CPU": ("model.int8-cpu.onnx", "calibrate OUT/model.onnx --precision int8 --for cpu --images DATA"),
    "finetune": ("model.qat.int8.onnx", "finetune OUT/model.int8.onnx --data DATA"),
    "trt": ("model.fp16.onnx", "trt OUT/model.onnx --fp16 --backend tensorrt-rtx"),
    "verify": ("page.html", "verify MADE.onnx --data DATA --report OUT/page.html"),
    "verify, in Markdown": ("page.md", "verify MADE.onnx --data DATA --markdown OUT/page.md"),
    "bench": ("bench.json", "bench MADE.onnx -o OUT/bench.json"),
    "bundle": ("x.tar.zst", "bundle MADE.fp16.onnx -o OUT/x.tar.zst"),
    "ship": ("shipped", "ship MADE.pt --data DATA -o OUT/shipped"),
    "ship, one of several": ("shipped/model", "ship OUT --data DATA -o OUT/shipped"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_in_use_is_refused(made: Made, image_data, tmp_path, run_cli, name):
    place, line = COMMANDS[name]
    out = tmp_path / "out folder"
    out.mkdir()
    checkpoint.save(checkpoint.load(made.checkpoint), out / "model.pt")
    (out / "model.onnx").write_bytes(made.onnx.read_bytes())
    if name.startswith("train"):
        (out / "run").mkdir()
    before = contents(out)
    words = [word.replace("DATA", str(image_data)).replace("OUT", str(out)).replace("MADE", str(made.folder / "model"))
             for word in line.split()]  # fmt: skip
    with in_use(out / place):
        code, stdout, err = run_cli(*words, "--json")
    assert code == 1, err
    assert "is in use: another hemf-export" in err
    assert str(out / place) in err
    assert json.loads(stdout)["exit_code"] == 1
    added = {path: data for path, data in contents(out).items() if path not in before}
    assert {path: data for path, data in contents(out).items() if path in before} == before
    assert not [path for path, data in added.items() if data is not None], "folders alone may be there"


@pytest.mark.extended
def test_two_trainings_into_one_folder(image_data, tmp_path, run_cli, monkeypatch):
    """The second one is refused, from another home as well; what the first one has written is its own alone."""
    run, line = tmp_path / "run", ["-o", tmp_path / "run", *SMALL[:-1], "5000"]
    with subprocess.Popen(
        command(image_data, *line), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        assert first.stderr is not None
        assert any(told.startswith("epoch   1") for told in first.stderr)
        for resume, cache in (([], None), (["--resume"], tmp_path / "another")):
            if cache is not None:
                monkeypatch.setenv("HEMF_EXPORT_CACHE", str(cache))
            code, _, err = run_cli("train", image_data, *line, *resume)
            assert (code, "is in use" in err) == (1, True), err
        first.kill()
        first.communicate()
    code, _, err = run_cli("train", image_data, *line)
    assert (code, "already holds a run" in err) == (1, True), "nobody is at work there any more"
    epochs = [line["epoch"] for line in RunFolder(run, resume=True).read_metrics()]
    assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.slow
def test_several_processes_of_one_run_are_refused_together(image_data, tmp_path):
    port, run = free_port(), tmp_path / "run"
    with in_use(run):
        line, environments = command(image_data, "-o", run, *SMALL), [environment(rank, 2, port) for rank in range(2)]
        both = [subprocess.Popen(line, env=each, stderr=subprocess.PIPE, text=True) for each in environments]
        told = [each.communicate(timeout=240)[1] for each in both]
    assert [each.returncode for each in both] == [1, 1], told
    assert ["is in use" in each for each in told] == [True, False], "the first one speaks for both"


@pytest.mark.slow
def test_several_processes_of_one_run_do_not_stand_in_each_others_way(image_data, tmp_path):
    port = free_port()
    line = command(image_data, "-o", tmp_path / "run", *SMALL)
    both = [
        subprocess.Popen(line, env=environment(rank, 2, port), stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    told = [each.communicate(timeout=240)[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], told
