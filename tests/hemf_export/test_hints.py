"""Hints that name a command: run as it is printed, with the user's own data in its placeholders, it helps.

A row is what a user did, the hint that it got, and after that command the first one works.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hemf_export.files import artifacts
from tests.conftest import Made

QUICK = {
    "calibrate": ("--no-cache", "--count", "8", "--held-out-count", "8"),
    "bench": ("--batch", "1", "--seconds", "0.05", "--no-memory"),
    "trt": ("--batch", "1:1:1",),
}  # fmt: skip


def commands(text: str) -> list[list[str]]:
    """The commands of a hint, as words; what follows a command in its sentence is cut off."""
    found = re.findall(r"hemf-export ((?:[^.;:,`]|\.(?=\w)|:(?=\w))+)", text)
    return [shlex.split(each) for each in found]


@pytest.fixture
def follow(run_cli, pictures: Path):
    """Run a command of a hint, with what stands for its placeholders."""

    def call(words: list[str], **standing: Path) -> None:
        known = {"DATA": pictures, "DIR": pictures, **standing}
        line = [str(known.get(word, word)) for word in words]
        code, _, err = run_cli(*line, *QUICK.get(line[0], ()))
        assert code == 0, f"hemf-export {shlex.join(line)}: {err}"

    return call


def hint_of(run_cli: Callable[..., tuple[int, str, str]], *line: object) -> list[list[str]]:
    code, _, err = run_cli(*line)
    assert code in (1, 2), err
    _, _, hint = err.partition("\n  ")
    found = commands(hint)
    assert found, err
    return found


@pytest.mark.extended
def test_a_folder_without_a_file_of_ours(copies: Made, exported_before, run_cli, follow, monkeypatch):
    monkeypatch.chdir(copies.folder)
    for path in (copies.onnx, copies.half):
        path.unlink()
        artifacts.manifest_path(path).unlink()
    (export,) = hint_of(run_cli, "bench")
    follow(export[:2], CKPT=copies.checkpoint)
    assert run_cli("bench", *QUICK["bench"])[0] == 0


def test_a_file_that_is_not_ours_to_predict_with(theirs: Path, run_cli, follow, pictures):
    hints = hint_of(run_cli, "predict", theirs, pictures / "val")
    follow(next(words for words in hints if words[0] == "calibrate"), FILE=theirs)
    assert run_cli("predict", theirs.with_name("theirs.fp16.onnx"), pictures / "val")[0] == 0


@pytest.fixture
def theirs(pictures: Path, tmp_path: Path) -> Path:
    import onnx

    from tests.calibration import classifiers

    onnx.save(classifiers.normalized_cnn(pictures), tmp_path / "theirs.onnx")
    return tmp_path / "theirs.onnx"


@pytest.mark.slow
def test_int8_for_a_cpu_is_no_engine(int8: Path, tmp_path, run_cli, follow, pictures):
    for path in int8.parent.iterdir():
        if not path.name.startswith(int8.name):
            shutil.copy(path, tmp_path)
    code, _, err = run_cli(
        "calibrate", tmp_path / "best.onnx", "--precision", "int8", "--for", "cpu", "--method", "max", "--images",
        pictures, *QUICK["calibrate"],
    )  # fmt: skip
    assert code == 0, err
    (calibrate,) = hint_of(run_cli, "trt", tmp_path / "best.int8-cpu.onnx")
    follow([*calibrate, str(tmp_path / "best.onnx"), "--precision", "int8", "--method", "max", "--images", "DATA"])


def test_fine_tuning_a_float32_file(trained: Path, run_cli, tmp_path, pictures):
    (calibrate,) = hint_of(run_cli, "finetune", trained, "--data", pictures)
    assert calibrate == ["calibrate", "FILE", "--precision", "int8", "--images", "DATA"]


def test_images_without_classes_to_evaluate_on(copies: Made, run_cli, follow, pictures):
    (predict,) = hint_of(run_cli, "evaluate", copies.onnx, "--data", pictures / "val" / "dark")
    follow([predict[0], str(copies.onnx), str(pictures / "val" / "dark")])


def test_a_baseline_that_is_none(copies: Made, run_cli, pictures, tmp_path):
    (tmp_path / "old.json").write_text("{}", encoding="utf-8")
    line = ("verify", copies.half, "--data", pictures)
    (verify,) = hint_of(run_cli, *line, "--baseline", tmp_path / "old.json")
    assert verify[:2] == ["verify", "--json"]
    code, out, _ = run_cli(*line, *verify[1:2])
    (tmp_path / "old.json").write_text(out, encoding="utf-8")
    assert (code, run_cli(*line, "--baseline", tmp_path / "old.json")[0]) == (0, 0)


@pytest.mark.parametrize(
    "line",
    [("inspect", "{half}"), ("inspect", "{checkpoint}"), ("verify", "{half}", "--data", "{pictures}")],
    ids=lambda line: " ".join(line),
)
def test_the_next_command(line, copies: Made, exported_before, run_cli, follow, pictures):
    """The last line of a result."""
    known = {"half": copies.half, "checkpoint": copies.checkpoint, "pictures": pictures}
    code, _, err = run_cli(*(word.format(**known) for word in line))
    assert code == 0, err
    proposed = err.strip().splitlines()[-1]
    assert proposed.startswith("next: hemf-export ")
    if proposed.split()[2] == "trt":
        pytest.importorskip("tensorrt_rtx")
    follow(shlex.split(proposed.removeprefix("next: hemf-export ")))
