"""The command line itself: quick help, exit codes, one message, valid JSON."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.cli import console
from hemf_export.networks import registry
from hemf_export.train.recipe import Recipe
from hemf_export.train.recipe_file import NAMED


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['hemf-export', '--help']\n"
        "from hemf_export.cli import run\n"
        "code = run(['--help'])\n"
        "heavy = [name for name in ('torch', 'onnx', 'numpy', 'rich', 'onnxruntime', 'PIL') if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy or code else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(run_cli, name):
    code, out, _ = run_cli(name, "--help")
    assert code == 0
    assert "--json" in out


def test_the_version_is_the_packages(run_cli):
    assert metadata.version("hemf-export") in run_cli("--version")[1]


def test_running_the_train_package_is_short_for_the_command():
    command = [sys.executable, "-m", "hemf_export.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: python -m hemf_export train [OPTIONS] DATA\n")


def test_a_misspelt_command_is_exit_2_with_the_nearest(run_cli):
    code, _, err = run_cli("onxn")
    assert code == 2
    assert "Did you mean 'onnx'?" in err


@pytest.mark.parametrize(
    ("raised", "code"),
    [(RuntimeError("boom"), 70), (KeyboardInterrupt(), 130), (MemoryError(), 4)],
    ids=["defect", "Ctrl-C", "memory"],
)
def test_whatever_escapes_has_its_exit_code(run_cli, monkeypatch, raised, code, tmp_path):
    from hemf_export.checkpoints import checkpoint

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(checkpoint, "load", fail)
    path = tmp_path / "a.pt"
    path.write_bytes(b"x")
    found, out, err = run_cli("info", path, "--json")
    assert found == code
    assert "Traceback" not in err
    assert json.loads(out)["exit_code"] == code


def test_debug_shows_the_traceback_wherever_it_stands(run_cli, tmp_path):
    assert "Traceback" in run_cli("info", tmp_path / "none.pt", "--debug")[2]
    assert "Traceback" not in run_cli("info", tmp_path / "none.pt")[2]


def test_info_shows_the_papers_figures(run_cli):
    code, out, err = run_cli("info", "hemf-base")
    assert code == 0
    assert all(figure in out for figure in ("66.678", "66.64", "10.01", "10.246", "84.419", "76.093"))
    assert "The paper prints 66.64 M and 10.01 G" in err
    report = json.loads(run_cli("info", "hemf-base", "--json")[1])
    assert report["total"]["parameters"] == 66_678_263


def test_info_of_a_variant(run_cli, checkpoint_file):
    code, out, err = run_cli("info", "hemf-base", "--variant", "full-irmlp")
    assert code == 0
    assert "HEF: IRMLP" in out
    assert "101.065" in out, "Table 3's four IRMLPs: 1.190 + 4.757 + 19.025 + 76.093"
    assert "66.64 M" not in err, "which is the whole network's"
    assert "Table 3" not in run_cli("info", "hemf-base", "--variant", "local-only")[1]
    assert run_cli("info", checkpoint_file, "--variant", "both")[0] == 2


def test_info_of_a_checkpoint(run_cli, checkpoint_file):
    code, out, _ = run_cli("info", checkpoint_file)
    assert code == 0
    assert "bright, dark, striped" in out


def test_info_lists_every_network_with_its_size(run_cli, monkeypatch):
    sizes = {name: registry.SIZES[name] for name in ("hemf-tiny", "convnext-narrow")}
    monkeypatch.setattr(registry, "SIZES", sizes)
    code, out, err = run_cli("info", "--list")
    assert code == 0, err
    rows = {line.split()[0]: line.split() for line in out.splitlines()[2:]}
    assert set(rows) == set(sizes)
    assert rows["hemf-tiny"][1:4] == ["7.48", "1.25", "224"]
    assert float(rows["convnext-narrow"][2]) > 0
    listed = json.loads(run_cli("info", "--list", "--json", "--num-classes", "3")[1])["networks"]
    assert [network["name"] for network in listed] == list(sizes)
    own = json.loads(run_cli("info", "hemf-tiny", "--json", "--num-classes", "3")[1])
    assert listed[0]["total"] == own["total"]


@pytest.mark.parametrize(("words", "named"), [
    (["hemf-tiny"], "hemf-tiny"), (["--variant", "both"], "--variant"), (["--image-size", "64"], "--image-size"),
    (["--weights", "ema"], "--weights"), (["--classes", "a,b"], "--classes"), (["--model", "a:b"], "--model"),
])  # fmt: skip
def test_info_lists_all_networks_or_shows_one(run_cli, words, named):
    code, out, err = run_cli("info", "--list", *words)
    assert (code, out) == (2, "")
    assert f"{named} does nothing with it" in err


def test_info_says_why_a_published_size_cannot_be_counted_again(run_cli):
    code, _, err = run_cli("info", "convnext-base")
    assert code == 0
    assert "The paper prints 88.59 M and 15.36 G (Table 6). The published parameters are those with a head of" in err
    assert "convolutions and linear layers alone" in err
    assert "The paper prints" not in run_cli("info", "convnext-narrow")[2]


def test_info_of_nothing_known(run_cli):
    code, _, err = run_cli("info", "hemf-bas")
    assert code == 1
    assert "Did you mean 'hemf-base'?" in err


def test_train_has_a_flag_for_each_field_of_the_recipe_with_its_default():
    from hemf_export.cli.commands.train import command

    flags = {parameter.name: parameter.default for parameter in command.params}
    fields = Recipe().to_dict()
    assert {name: flags.get(name) for name in fields} == fields


def test_the_next_command_can_be_pasted_whatever_the_path(capfd):
    console.next_command("hemf-export predict", Path("a b/it's [m].engine"), "IMAGE…")
    line = capfd.readouterr().err.removeprefix("next: ").strip()
    assert shlex.split(line) == ["hemf-export", "predict", "a b/it's [m].engine", "IMAGE…"]


def test_train_takes_a_recipe_file_and_flags_win(run_cli, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("epochs = 7\nloss = 'focal'\nbatch_size = 8\n")
    # 150 is the default: a flag that was given wins all the same.
    code, out, _ = run_cli("train", "--recipe", file, "--epochs", 150, "--batch-size", 4, "--print-recipe")
    assert code == 0
    assert tomllib.loads(out) == Recipe(epochs=150, loss="focal", batch_size=4).to_dict()


def test_the_printed_recipe_without_more_is_the_papers(run_cli):
    for arguments in ((), ("--recipe", "paper")):
        code, out, _ = run_cli("train", *arguments, "--print-recipe")
        assert code == 0
        assert tomllib.loads(out) == Recipe().to_dict()


def test_the_best_recipe_is_the_papers_with_what_helped(run_cli):
    code, out, _ = run_cli("train", "--recipe", "best", "--print-recipe")
    assert code == 0
    changed = {name: value for name, value in tomllib.loads(out).items() if value != Recipe().to_dict()[name]}
    assert changed == NAMED["best"]


def test_an_unknown_key_of_a_recipe_file_is_exit_2_with_the_nearest(run_cli, tmp_path):
    (tmp_path / "recipe.toml").write_text("learning_rat = 1e-3\n")
    code, _, err = run_cli("train", "data", "-o", tmp_path / "run", "--recipe", tmp_path / "recipe.toml")
    assert code == 2
    assert "unknown key 'learning_rat'" in err
    assert "Did you mean 'learning_rate'?" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "missing"), [((), "DATA"), (("data",), "--output")])
def test_train_without_data_or_output_is_exit_2(run_cli, arguments, missing):
    code, _, err = run_cli("train", *arguments)
    assert code == 2
    assert f"Missing {'argument' if missing == 'DATA' else 'option'}" in err
    assert missing in err


def test_trains_help_shows_each_flag_once(run_cli):
    code, out, _ = run_cli("train", "--help")
    assert code == 0
    flags = re.findall(r"^  (?:-\w, )?--([\w-]+)", out, re.MULTILINE)
    assert len(flags) == len(set(flags))
    assert {name.replace("_", "-") for name in Recipe().to_dict()} <= set(flags)
    assert "Loss (recipe):" in out
