"""`evaluate`: figures that are scikit-learn's, of files of every kind and of folds; and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics

from hemf_export.checkpoints import checkpoint
from hemf_export.metrics.percentage import coefficient, percentage
from tests.conftest import CLASSES, Made, tiny_checkpoint, write_class_folders
from tests.hemf_export.conftest import no_inference

PNG = b"\x89PNG"
NAMES = ("evaluation.json", "predictions.csv", "confusion.png", "confusion.svg", "roc.png", "roc.svg")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots that nobody looks at take seconds."""
    monkeypatch.setattr("hemf_export.train.figures.encode", lambda figure, kind: b"")


def labels_and_probabilities(folder: Path, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """With nothing but torch and the description of the preprocessing."""
    saved = tiny_checkpoint(seed)
    paths = [path for name in CLASSES for path in sorted((folder / name).iterdir())]
    pixels = np.stack([saved.preprocess.load(path) for path in paths])
    with torch.inference_mode():
        logits = saved.model()(torch.from_numpy(saved.preprocess.normalize(pixels)))
    return np.array([CLASSES.index(path.parent.name) for path in paths]), softmax(logits.double().numpy(), axis=1)


def save(path: Path, seed: int = 0, **changed: torch.Tensor) -> Path:
    saved = tiny_checkpoint(seed)
    saved.state.update(changed)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(saved, path)
    return path


def evaluated(run_cli, *arguments: object) -> dict:
    code, out, err = run_cli("evaluate", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_every_figure_is_scikit_learns(model: Path, folder: Path, tmp_path: Path, run_cli, undrawn):
    found = evaluated(run_cli, model, "--data", folder, "-o", tmp_path / "out")["models"][0]
    truth, shares = labels_and_probabilities(folder)
    predicted = shares.argmax(1)
    averages = {"average": "macro", "zero_division": 0.0}
    expected = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, predicted),
        "macro_precision": metrics.precision_score(truth, predicted, **averages),
        "macro_recall": metrics.recall_score(truth, predicted, **averages),
        "macro_f1": metrics.f1_score(truth, predicted, **averages),
        "mcc": metrics.matthews_corrcoef(truth, predicted),
        "kappa": metrics.cohen_kappa_score(truth, predicted),
        "auc": metrics.roc_auc_score(truth, shares, multi_class="ovr", average="macro"),
        "brier": metrics.brier_score_loss(truth, shares, labels=range(3), scale_by_half=False),
        "loss": metrics.log_loss(truth, shares),
    }
    assert {name: found["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["metrics"]["confusion"] == metrics.confusion_matrix(truth, predicted, labels=range(3)).tolist()
    report = metrics.classification_report(
        truth, predicted, target_names=CLASSES, output_dict=True, zero_division=0.0, labels=range(3)
    )
    for index, name in enumerate(CLASSES):
        own = found["by_class"][name]
        assert [own[key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(
            [report[name][key] for key in ("precision", "recall", "f1-score", "support")]
        )
        assert own["auc"] == pytest.approx(metrics.roc_auc_score(truth == index, shares[:, index]))
    assert found["images"]["images"] == 15


def test_the_folder_has_figures_plots_and_every_image(model: Path, folder: Path, tmp_path: Path, run_cli):
    code, out, err = run_cli("evaluate", model, "--data", folder, "-o", tmp_path / "out")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)
    for name in ("confusion.png", "roc.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(PNG)
    truth, shares = labels_and_probabilities(folder)
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["true"] for row in rows] == [CLASSES[label] for label in truth]
    assert [row["predicted"] for row in rows] == [CLASSES[index] for index in shares.argmax(1)]
    found = np.array([[float(row[f"p({name})"]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(found, shares, atol=1e-5)
    assert all((folder / row["image"]).is_file() for row in rows)
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"][0]["metrics"]
    assert percentage(values["accuracy"], values["images"]) in out
    assert coefficient(values["kappa"], values["images"]) in out
    assert "next: hemf-export explain" in err
    wrong = {path.name for path, label, top in zip(
        (folder / row["image"] for row in rows), truth, shares.argmax(1), strict=True) if label != top}  # fmt: skip
    named = err.split("hemf-export explain", 1)[1].split()[1:]
    assert {Path(word).name for word in named} <= wrong, "what it got wrong is what to look at"


def test_results_are_the_same_bytes_and_replaced_only_by_force(model: Path, folder: Path, tmp_path: Path, run_cli):
    out = tmp_path / "out"
    arguments = ("evaluate", model, "--data", folder, "-o", out)
    assert run_cli(*arguments)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, _, err = run_cli(*arguments)
    assert code == 1
    assert "holds earlier results" in err
    assert "--force" in err
    assert run_cli(*arguments, "--force")[0] == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_default_folder_lies_beside_the_file(checkpoint_file: Path, folder: Path, run_cli, undrawn):
    assert run_cli("evaluate", checkpoint_file, "--data", folder)[0] == 0
    assert (checkpoint_file.parent / "model.evaluation" / "evaluation.json").is_file()


def test_an_onnx_file_is_as_good_as_its_checkpoint(made: Made, folder: Path, tmp_path: Path, run_cli, undrawn):
    """And a float16 one as a GPU would round it, which is said."""
    arguments = (made.checkpoint, made.onnx, made.half, "--data", folder, "-o", tmp_path / "out")
    code, out, err = run_cli("evaluate", *arguments, "--json")
    assert code == 0, err
    models = json.loads(out)["models"]
    assert [one["precision"] for one in models] == ["fp32", "fp32", "fp16"]
    for name in ("accuracy", "auc", "brier"):
        assert models[1]["metrics"][name] == pytest.approx(models[0]["metrics"][name], abs=1e-5)
    assert models[2]["metrics"]["brier"] != models[0]["metrics"]["brier"]
    assert models[2]["metrics"]["brier"] == pytest.approx(models[0]["metrics"]["brier"], abs=0.05)
    assert models[2]["float16_emulated"]
    assert "float16 is emulated" in err


def test_folds_are_averaged_each_with_its_own_images(tmp_path: Path, run_cli, monkeypatch, undrawn):
    """Also where the folds' checkpoints have one name."""
    files = [save(tmp_path / f"fold{seed}" / "best.pt", seed) for seed in (0, 1)]
    data = [write_class_folders(tmp_path / f"data{seed}", 3 + seed, seed) for seed in (0, 1)]
    pairs = [word for folder in data for word in ("--data", folder)]
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("evaluate", *files, *pairs)
    assert code == 0, err
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    total = np.zeros((3, 3), int)
    scores: dict[str, list[float]] = {"accuracy": [], "auc": [], "kappa": []}
    for seed, folder in enumerate(data):
        truth, shares = labels_and_probabilities(folder, seed)
        total += metrics.confusion_matrix(truth, shares.argmax(1), labels=range(3))
        scores["accuracy"].append(metrics.accuracy_score(truth, shares.argmax(1)))
        scores["kappa"].append(metrics.cohen_kappa_score(truth, shares.argmax(1)))
        scores["auc"].append(metrics.roc_auc_score(truth, shares, multi_class="ovr"))
    assert found["confusion"] == total.tolist()
    for name, values in scores.items():
        assert found["mean"][name] == pytest.approx(statistics.mean(values), abs=1e-6)
        assert found["standard_deviation"][name] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    recalls = [one["by_class"]["dark"]["recall"] for one in found["models"]]
    assert found["mean"]["by_class"]["dark"]["recall"] == pytest.approx(statistics.mean(recalls))
    rows = [line.split() for line in out.splitlines()]
    assert ["mean", f"{statistics.mean(scores['accuracy']):.0%}"] in [row[:2] for row in rows]
    names = [row[0] for row in rows if row]
    assert {"fold0/best.pt", "fold1/best.pt"} <= set(names), "a row for each, told apart"
    for number in (1, 2):
        assert (tmp_path / "evaluation" / f"{number}-best" / "predictions.csv").is_file()
    assert (tmp_path / "evaluation" / "roc.svg").is_file()


def test_the_test_split_is_taken_and_val_only_with_a_word(
    model: Path, image_data: Path, tmp_path: Path, run_cli, undrawn
):
    arguments = ("evaluate", model, "--data", image_data)
    code, out, err = run_cli(*arguments, "-o", tmp_path / "a", "--json")
    assert code == 0, err
    assert json.loads(out)["models"][0]["images"]["folder"] == "test"
    assert "chose the best epoch" not in err
    shutil.rmtree(image_data / "test")
    code, out, err = run_cli(*arguments, "-o", tmp_path / "b", "--json")
    assert json.loads(out)["models"][0]["images"]["folder"] == "val"
    assert "chose the best epoch" in err


BAD_DATA = {
    "another class": (lambda root: (root / "dark").rename(root / "dim"), "missing dark; unexpected dim"),
    "an empty class": (lambda root: [path.unlink() for path in (root / "dark").iterdir()], "has no images"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_is_exit_1_before_any_image_is_run(model: Path, tmp_path: Path, run_cli, monkeypatch, kind: str):
    spoil, message = BAD_DATA[kind]
    root = write_class_folders(tmp_path / "data", 3)
    spoil(root)
    no_inference(monkeypatch)
    code, out, err = run_cli("evaluate", model, "--data", root, "-o", tmp_path / "out", "--json")
    assert code == 1, err
    assert message in err
    assert json.loads(out)["exit_code"] == 1
    assert not (tmp_path / "out").exists()


def test_logits_that_are_not_finite_are_exit_3_and_nothing_is_kept(folder: Path, tmp_path: Path, run_cli, undrawn):
    path = save(tmp_path / "nan.pt", **{"head.bias": torch.tensor([0.0, float("nan"), 0.0])})
    code, out, err = run_cli("evaluate", path, "--data", folder, "-o", tmp_path / "out", "--json")
    assert code == 3
    assert "the logits of 15 of 15 images are not finite" in err
    assert json.loads(out)["exit_code"] == 3
    assert not (tmp_path / "out").exists()


def test_wrong_usage(model: Path, folder: Path, run_cli):
    code, _, err = run_cli("evaluate", model, model.with_name("b.pt"), *["--data", folder] * 3)
    assert code == 2
    assert "2 files and 3 data folders" in err
    code, _, err = run_cli("evaluate", model, model, "--data", folder)
    assert code == 2
    assert "is named twice" in err


def test_models_of_other_classes_are_not_averaged(model: Path, folder: Path, tmp_path: Path, run_cli):
    checkpoint.save(tiny_checkpoint(classes=("bright", "dark", "grey")), tmp_path / "other.pt")
    code, _, err = run_cli("evaluate", model, tmp_path / "other.pt", "--data", folder, "-o", tmp_path / "o")
    assert code == 1
    assert "bright, dark, grey" in err


def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    model: Path, folder: Path, tmp_path, run_cli, monkeypatch
):
    no_inference(monkeypatch)
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "out", folder):
        code, _, err = run_cli("evaluate", model, "--data", folder, "-o", output, "--force")
        assert code == 1, output
        assert "-o" in err
