"""The README is run: each `hemf-export` line in order, in one folder; the Python; and what it says of commands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from hemf.errors import HemfError
from hemf_export import cli
from tests.conftest import PROJECT, tiny_checkpoint, write_class_folders
from train import configurations, recipe_file
from train.recipe import Recipe

README = (PROJECT / "README.md").read_text(encoding="utf-8")
# Added at the end of a line, where a later option wins: the same command, in seconds.
SHORTENED = {
    "train": ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "4"],
    "ablate": ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "8"],
    "bench": ["--seconds", "0.2", "--batch", "1", "--no-memory"],
    "calibrate": ["--count", "8", "--judges", "6"],
    "finetune": ["--epochs", "3", "--batch-size", "4", "--learning-rate", "1e-3"],
    "ship": ["--bench-seconds", "0.2", "--precision", "fp16"],  # INT8's search would take most of the time
}
LARGE_BUDGET = ["--max-drop", "50"]  # a network of one epoch knows its classes too little for half a point


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def lines() -> list[list[str]]:
    found = [shlex.split(line) for block in blocks("console") for line in block.splitlines()]
    return [words[1:] for words in found if words[0] == "hemf-export"]


@pytest.mark.documentation
@pytest.mark.timeout(900)  # every command in turn
def test_every_command_line_works(tmp_path: Path, image_data: Path, trained_checkpoint: Path, run_cli, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_checkpoint().state, "best_model.pth")
    write_class_folders(tmp_path / "scans", 12)
    rows = [f"{path.name},P{int(re.sub('[a-z]', '', path.stem)) // 2}" for path in (tmp_path / "scans").glob("*/*")]
    Path("patients.csv").write_text("\n".join(["image,patient", *rows]))
    assert image_data == tmp_path / "data"
    for words in lines():
        budget = LARGE_BUDGET if "--max-drop" in words else []
        code, _, err = run_cli(*words, *SHORTENED.get(words[0], []), *budget)
        nothing_to_regain = words[0] == "finetune" and code == 3 and "No epoch was better" in err
        assert code == 0 or nothing_to_regain, f"hemf-export {' '.join(words)}\n{err}"
        if words[0] == "train":  # what follows is as right with a shallow network, and twice as quick
            shutil.copy(trained_checkpoint, Path("run", "best.pt"))
    made = {path.name for path in (*tmp_path.iterdir(), *(tmp_path / "run").iterdir())}
    assert {"best.pt", "best.onnx", "best.fp16.onnx", "best.fp16.t4.engine", "best.engine", "raw.onnx"} <= made
    assert {"best.int8.onnx", "best.int8.t4.engine", "best.int8-cpu.onnx", "best.int8.sensitivity.png"} <= made
    assert {"last.pt", "metrics.jsonl", "summary.json", "confusion.png", "curve.png"} <= made, (
        "as the table of commands says"
    )


def test_its_list_of_configurations_is_one(tmp_path: Path):
    (listed,) = (text for text in blocks("toml") if "[[configuration]]" in text)
    (tmp_path / "list.toml").write_text(listed)
    assert len(configurations.read(tmp_path / "list.toml", Recipe())) == 2


def test_the_python_runs():
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})


def test_its_recipe_file_is_one(tmp_path: Path):
    for number, text in enumerate(text for text in blocks("toml") if "[[" not in text):
        (tmp_path / f"{number}.toml").write_text(text)
        assert recipe_file.resolve(str(tmp_path / f"{number}.toml"), {}) != Recipe()


def test_its_fields_of_a_recipe_are_fields():
    table = README.split("## Recipes beyond", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`([a-z_]+)(?: = [^`]*)?`", "".join(re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE)))
    assert set(named) <= set(Recipe().to_dict())
    assert len(named) > 10


def test_its_two_commands_and_others_are_in_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README)) - {"and", "sure"}
    assert blocks("console")[0] == "make demo\nmake test\n"
    assert named <= targets


def test_its_table_of_commands_is_complete():
    assert re.findall(r"^\| `([\w-]+)", README, re.MULTILINE) == list(cli.COMMANDS)


def test_its_table_of_exit_codes_is_the_programs():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    errors = {kind.exit_code for kind in (HemfError, *HemfError.__subclasses__())}
    assert listed == {0, *errors, cli.EXIT_INTERNAL, cli.EXIT_INTERRUPTED}


def test_its_table_of_dependencies_names_each_of_them():
    pyproject = (PROJECT / "pyproject.toml").read_text()
    for name in re.findall(r'^    "([A-Za-z0-9-]+)>=', pyproject, re.MULTILINE):
        assert re.search(rf"^\|.*\b{re.escape(name)}\b", README, re.MULTILINE), name


def test_its_links_into_the_project_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (PROJECT / target).exists(), target


@pytest.fixture(autouse=True)
def no_models_left(tmp_path: Path):
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
