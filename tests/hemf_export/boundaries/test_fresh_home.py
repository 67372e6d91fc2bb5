"""Nothing of ours or of what we use is left outside our cache folder, and nobody is called."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import write_class_folders
from tests.hemf_export.boundaries import fresh_home
from tests.hemf_export.triton.models import means

ROOT = Path(__file__).parents[3]
_IMPORTS = re.compile(r"^\s*(?:import|from) onnxruntime\b", re.MULTILINE)


def nothing_left(left: fresh_home.Left) -> None:
    assert left.home == (), left.said
    assert left.temporary == (), left.said
    assert not left.connections, left.said


@pytest.mark.extended
def test_a_prediction_leaves_nothing_whether_it_works_or_not(tmp_path):
    data, path = write_class_folders(tmp_path / "images", 1), means(tmp_path / "m.onnx")
    left = fresh_home.run(["predict", path, data], tmp_path)
    nothing_left(left)
    assert (left.code, left.ours) == (0, ()), left.said
    left = fresh_home.run(["predict", tmp_path / "none.onnx", data], tmp_path)
    nothing_left(left)
    assert (left.code, left.ours) == (1, ()), left.said


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/dev/null/nobody"], ids=["a home", "no home"])
def test_plots_leave_a_list_of_fonts_in_our_cache_or_nothing(tmp_path, home):
    data, path = write_class_folders(tmp_path / "images", 2), means(tmp_path / "m.onnx")
    left = fresh_home.run(["evaluate", path, "--data", data, "-o", tmp_path / "evaluation"], tmp_path, home=home)
    nothing_left(left)
    assert left.code == 0, left.said
    assert [name.split("/")[2] for name in left.ours] == ([] if home else ["matplotlib"])
    assert "matplotlib" not in left.said.lower()


def test_onnx_runtime_is_imported_in_one_place():
    """Where its telemetry is off; what a server runs beside it says so itself."""
    found = []
    for room in ("train", "calibration", "engines", "hemf_export"):
        for path in (ROOT / room).rglob("*.py"):
            if _IMPORTS.search(path.read_text(encoding="utf-8")):
                found.append(str(path.relative_to(ROOT)))
    assert sorted(found) == ["calibration/session.py", "hemf_export/triton/served/onnx_runner.py"]


@pytest.mark.parametrize("room", ["hemf_export", "hemf_export.train", "hemf_export.engines"])
def test_each_room_turns_telemetry_off_before_anything_is_loaded(room):
    wrong = "os.environ.get('ORT_DISABLE_TELEMETRY') != '1' or 'onnxruntime' in sys.modules"
    code = f"import {room}, os, sys; sys.exit({wrong})"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "", "ORT_DISABLE_TELEMETRY": "0"}, cwd=ROOT, check=False
    )
    assert done.returncode == 0


def test_what_a_server_runs_turns_telemetry_off_before_it_is_loaded():
    text = (ROOT / "hemf_export/triton/served/onnx_runner.py").read_text(encoding="utf-8")
    assert text.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < text.index("import onnxruntime")


@pytest.mark.slow
def test_every_command_leaves_only_what_is_ours_and_calls_nobody(tmp_path):
    for name, arguments in fresh_home.commands(tmp_path).items():
        left = fresh_home.run(arguments, tmp_path, watch=shutil.which("strace") is not None)
        assert left.code == (4 if name == "triton-client" else 0), f"{name}: {left.said}"
        assert (left.home, left.temporary, left.connections or ()) == ((), (), ()), name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(tmp_path, number):
    """A build has a folder for temporary files of its own, and a child process."""
    import os

    commands = fresh_home.commands(tmp_path)
    for name in ("onnx", "calibrate fp16"):
        assert fresh_home.run(commands[name], tmp_path).code == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary)}
    environment.pop("HEMF_EXPORT_CACHE")
    command = [sys.executable, "-m", "hemf_export", *map(str, commands["trt"])]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not any(temporary.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(240) in (130, 0)
    assert list(temporary.iterdir()) == []
    made = {path.name for path in tmp_path.iterdir()} - set(before)
    assert not {name for name in made if name.endswith(".tmp")}
