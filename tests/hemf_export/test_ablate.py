"""`hemf-export ablate`: a table of what each configuration reached; cut, gone on with, and failing in part."""

from __future__ import annotations

import json
import statistics
import traceback
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from hemf_export.checkpoints import checkpoint
from hemf_export.files import gpu_memory
from hemf_export.images.folders import LabelledImages
from hemf_export.train import ablation, ablation_report, configurations, run_folder
from hemf_export.train.datasets.published_sets import SETS
from hemf_export.train.recipe import Recipe
from hemf_export.train.run import Images, Options
from tests.conftest import write_class_folders

TRAINING = ["--model", "hemf-tiny", "--image-size", "32", "--batch-size", "8", "--learning-rate", "1e-3"]
SHORT = [*TRAINING, "--epochs", "2"]
TWO = '[[configuration]]\nname = "one"\nvariant = "local-only"\n[[configuration]]\nname = "two"\nvariant = "both"\n'


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    path = tmp_path / "pair.toml"
    path.write_text(TWO)
    return path


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Networks of one block a stage: quicker, and as right here."""
    import dataclasses

    from hemf_export.networks.hemf import config

    sizes = {name: dataclasses.replace(size, elf_depth=1, egf_depth=1) for name, size in config.SIZES.items()}
    monkeypatch.setattr(config, "SIZES", sizes)


@pytest.mark.extended
def test_two_configurations_cut_in_the_second_and_gone_on_with(image_data, tmp_path, pair, run_cli, monkeypatch):
    out, line = tmp_path / "out", ["ablate", image_data, "-o", tmp_path / "out", "--configs", pair, *SHORT]
    code, whole, err = run_cli("ablate", image_data, "-o", tmp_path / "whole", "--configs", pair, *SHORT)
    assert code == 0, err
    assert [row.split()[0] for row in whole.splitlines()[2:]] == ["one", "two"]

    save = run_folder.checkpoint.save

    def cut(saved, path):
        save(saved, path)
        if path == out / "two" / "last.pt" and saved.metrics["epoch"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.checkpoint, "save", cut)
    assert run_cli(*line)[0] == 130
    monkeypatch.setattr(run_folder.checkpoint, "save", save)
    so_far = json.loads((out / "ablation.json").read_text())
    assert [row["name"] for row in so_far["configurations"]] == ["one"]
    first = (out / "one" / "last.pt").stat().st_mtime_ns

    code, stdout, err = run_cli(*line)
    assert code == 0, err
    assert "[1/2] one: finished before" in err
    assert "[2/2] two: gone on" in err
    assert "going on after epoch 1" in err
    assert (out / "one" / "last.pt").stat().st_mtime_ns == first
    assert stdout == whole
    for name in ("one", "two"):
        digests = [(root / name / "best.pt").read_bytes() for root in (out, tmp_path / "whole")]
        assert digests[0] == digests[1]
    assert checkpoint.load(out / "two" / "best.pt").config.name == "hemf-tiny-both"

    found = json.loads((out / "ablation.json").read_text())
    row = found["configurations"][1]
    summary = json.loads((out / "two" / "summary.json").read_text())["splits"]["test"]
    assert row["mean"]["macro_recall"] == summary["balanced_accuracy"]
    assert row["mean"]["macro_f1"] == summary["macro_f1"]
    assert row["components"] == {"elf": True, "egf": True, "mhea": False, "gates": False, "sirmlp": False}
    assert row["published"] is None
    assert "paper" not in stdout
    assert f"| two | ✓ | ✓ |  |  |  | {row['parameters'] / 1e6:.3f} |" in (out / "ablation.md").read_text()


def test_another_description_is_refused_before_anything_is_trained(image_data, tmp_path, pair, run_cli):
    out = tmp_path / "out"
    pair.write_text(TWO.split('[[configuration]]\nname = "two"')[0])
    assert run_cli("ablate", image_data, "-o", out, "--configs", pair, *TRAINING, "--epochs", "1")[0] == 0
    pair.write_text('[[configuration]]\nname = "new"\nvariant = "both"\n' + pair.read_text())
    code, _, err = run_cli("ablate", image_data, "-o", out, "--configs", pair, *SHORT)
    assert code == 1
    assert "one: The run was started with another configuration: epochs: 1 → 2" in err
    assert not (out / "new" / "best.pt").exists()


def test_seeds_give_a_mean_and_a_standard_deviation(image_data, tmp_path, pair, run_cli):
    pair.write_text(TWO.split('[[configuration]]\nname = "two"')[0])
    line = ["ablate", image_data, "-o", tmp_path / "out", "--configs", pair, *TRAINING, "--epochs", "1"]
    assert run_cli(*line)[0] == 0
    code, stdout, err = run_cli(*line, "--seeds", "0,3", "--json")
    assert code == 0, err
    assert "[1/2] one: finished before" in err
    row = json.loads(stdout)["configurations"][0]
    reached = [run["figures"]["accuracy"] for run in row["runs"]]
    assert [run["seed"] for run in row["runs"]] == [0, 3]
    assert row["mean"]["accuracy"] == statistics.fmean(reached)
    assert row["standard_deviation"]["accuracy"] == statistics.stdev(reached)
    assert "±" in (tmp_path / "out" / "ablation.md").read_text()


def test_one_that_fails_leaves_the_others_and_is_told_at_the_end(image_data, tmp_path, pair, run_cli):
    out = tmp_path / "out"
    (out / "one").mkdir(parents=True)
    (out / "one" / "last.pt").write_bytes(b"not a checkpoint")
    line = ["ablate", image_data, "-o", out, "--configs", pair, *TRAINING, "--epochs", "1"]
    code, stdout, err = run_cli(*line)
    assert code == 1
    assert "1 of 2 runs failed (one)" in err
    assert "last.pt is not a checkpoint" in err
    rows = stdout.splitlines()[2:]
    assert "failed" in rows[0]
    assert "failed" not in rows[1]
    found = json.loads((out / "ablation.json").read_text())["configurations"]
    assert (found[0]["runs"][0]["status"], found[1]["runs"][0]["status"]) == ("failed", "trained")
    code, stdout, _ = run_cli(*line, "--json")
    assert code == 1
    assert json.loads(stdout)["exit_code"] == 1


def test_a_defect_of_ours_in_one_run_is_exit_70_after_the_others(image_data, tmp_path, pair, run_cli, monkeypatch):
    prepare = ablation.training.prepare

    def broken(options, *rest):
        if options.variant == "local-only":
            raise ZeroDivisionError("planted")
        return prepare(options, *rest)

    monkeypatch.setattr(ablation.training, "prepare", broken)
    line = ["ablate", image_data, "-o", tmp_path / "out", "--configs", pair, *TRAINING, "--epochs", "1"]
    code, stdout, err = run_cli(*line)
    assert code == 70
    assert "planted" in err
    assert "two" in stdout


def test_a_run_that_fails_leaves_its_memory_to_the_next(tmp_path, monkeypatch):
    """A GPU that one run has filled would be full for all later ones, if what went wrong held on to the network."""
    networks = []

    class Network:
        def __init__(self) -> None:
            self.itself = self
            networks.append(weakref.ref(self))

        def compute(self) -> None:
            raise RuntimeError("CUDA error: out of memory")

    def fit() -> None:
        network = Network()
        with gpu_memory.needed("a batch", "Try less."):
            network.compute()

    def prepare(*_: object) -> SimpleNamespace:
        assert [network() for network in networks] == [None] * len(networks)
        return SimpleNamespace(trainer=SimpleNamespace(next_epoch=0), headline="", fit=fit)

    monkeypatch.setattr(ablation.training, "prepare", prepare)
    pair = [configurations.Configuration(name) for name in ("one", "two")]
    members = ablation.plan(pair, tmp_path)
    outcomes = ablation.run(members, Options(tmp_path, tmp_path), Images(None, None, None, ()))  # type: ignore[arg-type]
    assert [(outcome.status, str(outcome.error)) for outcome in outcomes] == [
        ("failed", "The GPU's memory doesn't hold a batch. Try less.")
    ] * 2
    assert len(networks) == 2
    assert "compute" in "".join(traceback.format_exception(outcomes[0].error)), "for --debug"


def test_what_a_kill_in_the_first_epoch_leaves_does_not_stop_it(image_data, tmp_path, pair, run_cli):
    pair.write_text(TWO.split('[[configuration]]\nname = "two"')[0])
    stray = tmp_path / "out" / "one"
    stray.mkdir(parents=True)
    (stray / "metrics.jsonl").write_text('{"epoch": 1}\n')
    (stray / "best.pt").write_bytes(b"")
    code, _, err = run_cli("ablate", image_data, "-o", tmp_path / "out", "--configs", pair, *TRAINING, "--epochs", "1")
    assert code == 0, err
    assert len((stray / "metrics.jsonl").read_text().splitlines()) == 1


def test_without_a_test_split_it_says_what_the_figures_are_of(tmp_path, pair, run_cli):
    for split in ("train", "val"):
        write_class_folders(tmp_path / "data" / split, 4)
    pair.write_text(TWO.split('[[configuration]]\nname = "two"')[0])
    line = ["ablate", tmp_path / "data", "-o", tmp_path / "out", "--configs", pair, *TRAINING, "--epochs", "1"]
    code, stdout, err = run_cli(*line)
    assert code == 0, err
    assert "has no test/" in err
    assert "val: 12 images" in stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seeds", "0,0"], 2, "must differ"),
        (["--seeds", "0,1", "--seed", "2"], 2, "Leave one out"),
        (["--epochs", "0"], 2, "epochs must be at least 1"),
    ],
)
def test_wrong_calls_are_told_before_anything_is_trained(image_data, tmp_path, run_cli, arguments, code, message):
    found, _, err = run_cli("ablate", image_data, "-o", tmp_path / "out", *TRAINING, *arguments)
    assert found == code
    assert message in err


def test_an_unknown_key_in_the_list_is_exit_2_with_the_nearest(image_data, tmp_path, pair, run_cli):
    pair.write_text(TWO + "epoch = 3\n")
    code, _, err = run_cli("ablate", image_data, "-o", tmp_path / "out", "--configs", pair)
    assert code == 2
    assert "unknown key 'epoch'" in err
    assert "Did you mean 'epochs'?" in err
    assert not (tmp_path / "out").exists()


def test_it_takes_every_option_of_a_training_that_is_not_each_runs_own():
    from hemf_export.cli.commands.ablate import command

    names = {parameter.name for parameter in command.params}
    wanted = {*Recipe().to_dict(), *Options.__dataclass_fields__} - {"variant", "resume", "init", "init_model"}
    assert wanted <= names
    assert not {"variant", "resume", "init", "init_model"} & names


def labelled(classes: tuple[str, ...], counts: list[int]) -> LabelledImages:
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    return LabelledImages(Path("x"), classes, tuple(Path(str(index)) for index in range(len(labels))), labels)


def test_the_papers_figures_stand_only_beside_its_own_data_and_network():
    classes = ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC")
    counts = [SETS["isic2018"].counts[name] for name in classes]
    small = [count // 4 for count in counts]
    rest = [whole - 2 * part for whole, part in zip(counts, small, strict=True)]
    images = Images(labelled(classes, rest), labelled(classes, small), labelled(classes, small), ())
    fewer = Images(labelled(classes, small), labelled(classes, small), labelled(classes, small), ())
    options = Options(Path("data"), Path("out"))
    members = ablation.plan(configurations.table_10(Recipe()), Path("out"))[-1:]
    figures = {"accuracy": 0.87, "macro_f1": 0.78, "macro_precision": 0.8, "balanced_accuracy": 0.77}
    outcome = ablation.Outcome(
        members[0], "trained", {"splits": {"test": figures}, "epoch": 3, "checkpoint_sha256": ""}
    )

    def printed(options: Options, images: Images) -> tuple[list[str], list[tuple[str, ...]]]:
        rows = ablation.rows([outcome], options, images)
        return ablation_report.columns_and_cells(rows, options, images)

    titles, cells = printed(options, images)
    assert titles[-1].startswith("paper")
    assert cells[0][-1] == "87.34 / 78.89 / 80.42 / 77.59"
    for other in (fewer, Images(labelled(("a", *classes[1:]), rest), images.validation, images.test, ())):
        assert not printed(options, other)[0][-1].startswith("paper")
    assert not printed(Options(Path("data"), Path("out"), model="hemf-tiny"), images)[0][-1].startswith("paper")


def test_recipes_of_one_network_are_compared_without_the_parts_that_it_has():
    images = Images(labelled(("a", "b"), [2, 2]), labelled(("a", "b"), [1, 1]), None, ())
    options = Options(Path("data"), Path("out"), model="hemf-tiny")

    def printed(*variants: str) -> list[str]:
        chosen = [configurations.Configuration(f"row{number}", variant) for number, variant in enumerate(variants)]
        outcomes = [ablation.Outcome(member, "failed") for member in ablation.plan(chosen, Path("out"))]
        rows = ablation.rows(outcomes, options, images)
        titles, cells = ablation_report.columns_and_cells(rows, options, images)
        assert {len(line) for line in cells} == {len(titles)}
        lines = ablation_report.markdown(rows, options, images).splitlines()
        assert {line.count("|") for line in lines if line.startswith("|")} == {len(titles) + 1}
        return titles

    assert printed("full", "full") == ["configuration", "accuracy %", "F1 %", "precision %", "recall %"]
    for networks in (("full",), ("full", "both")):
        assert printed(*networks)[1:7] == ["ELF", "EGF", "MHEA", "CA&SA", "SIRMLP", "params M"]


def test_a_recipe_that_diverges_is_no_figure_and_the_others_go_on(image_data, tmp_path, run_cli):
    configs = tmp_path / "rates.toml"
    configs.write_text(
        '[[configuration]]\nname = "wild"\nvariant = "local-only"\nlearning_rate = 1e30\nwarmup_epochs = 0\n'
        '[[configuration]]\nname = "calm"\nvariant = "local-only"\n'
    )
    line = ("ablate", image_data, "-o", tmp_path / "out", "--configs", configs, *SHORT)
    code, stdout, err = run_cli(*line)
    assert code == 3, err
    rows = {row.split()[0]: row.split()[1:] for row in stdout.splitlines()[2:]}
    assert rows["wild"] == ["diverged"] * 4
    assert not {"diverged", "failed"} & set(rows["calm"])
    assert "wild failed: The training diverged" in err
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())["configurations"]
    assert [row["runs"][0]["status"] for row in found] == ["diverged", "trained"]
    assert (found[0]["mean"], found[0]["runs"][0]["figures"]) == ({}, None)
    assert not (tmp_path / "out" / "wild" / "best.pt").exists()
    code, again, _ = run_cli(*line, "--json")
    assert code == 3, "and again, run again"
    assert json.loads(again)["exit_code"] == 3
