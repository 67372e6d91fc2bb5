"""`hemf-export ablate` with different networks: sizes, metrics, latencies and tests of every pair, in one table."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hemf_export
from hemf_export.checkpoints.reading import PLAIN
from hemf_export.comparing import latency, report
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images.folders import LabelledImages
from hemf_export.metrics.comparison import McNemar
from hemf_export.networks import registry
from hemf_export.networks.hemf.variants import vary
from hemf_export.train import ablation, configurations, predictions
from hemf_export.train.datasets.published_sets import SETS
from hemf_export.train.recipe import Recipe
from hemf_export.train.run import Images, Options
from tests.conftest import TINY, Made, once, write_class_folders

LINE = ["--image-size", "32", "--epochs", "1", "--batch-size", "12", "--learning-rate", "1e-3"]
LIST = """
[[configuration]]
name = "one"
model = "tiny-local"
[[configuration]]
name = "tiny-global"
model = "tiny-global"
"""


@pytest.fixture(autouse=True)
def two_networks(monkeypatch):
    """Two registered networks of a few milliseconds; the second takes images of another size by itself."""
    for name, variant, size in (("tiny-local", "local-only", 64), ("tiny-global", "global-only", 32)):
        config = dataclasses.replace(vary(TINY, variant), name=name, image_size=size)
        monkeypatch.setitem(registry.SIZES, name, config)


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """A data folder, a list, and a comparison in `out` without latencies; nobody may change them."""

    def make(root: Path) -> None:
        for seed, (split, count) in enumerate((("train", 4), ("val", 3), ("test", 5))):
            write_class_folders(root / "data" / split, count, seed)
        (root / "list.toml").write_text(LIST)
        with pytest.MonkeyPatch.context() as patch:
            for name, variant in (("tiny-local", "local-only"), ("tiny-global", "global-only")):
                patch.setitem(registry.SIZES, name, dataclasses.replace(vary(TINY, variant), name=name))
            found = compare_in(root, root / "out")
        artifacts.write_json(root / "table.json", [found.table.columns, *found.table.rows])

    return once(tmp_path_factory, "networks_compared", make)


def compare_in(root: Path, output: Path, seconds: float = 0) -> hemf_export.Ablation:
    recipe = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-3}
    return hemf_export.ablate(
        root / "data", output, configurations=root / "list.toml", image_size=32, bench_seconds=seconds, recipe=recipe
    )


def test_the_table_has_sizes_metrics_and_tests(compared: Path):
    values = json.loads((compared / "out" / "ablation.json").read_text())
    titles, one, other = json.loads((compared / "table.json").read_text())
    assert titles[:4] == ["network", "is", "params M", "multiply-adds G"]
    assert titles[4:10] == ["accuracy %", "F1 %", "precision %", "recall %", "MCC", "kappa"]
    assert titles[10:] == ["p", "p, Holm"]
    assert {"one": one, "tiny-global": other}[values["best"]][10:] == ["best", "best"]
    assert (one[:2], other[:2]) == (["one", "tiny-local"], ["tiny-global", "tiny-global"])
    first, second = values["configurations"]
    summary = json.loads((compared / "out" / "one" / "summary.json").read_text())["splits"]["test"]
    assert first["mean"]["accuracy"] == summary["accuracy"]
    assert first["mean"]["mcc"] == summary["mcc"]
    assert first["mean"].get("kappa") == summary["kappa"]
    assert one[2] == f"{first['parameters'] / 1e6:.2f}"
    config = registry.registered("tiny-local", num_classes=3, image_size=32)
    assert first["parameters"] == registry.count_parameters(config)
    assert first["multiply_adds"] == sum(part.products for part in registry.count_parts(config).values())
    assert first["multiply_adds"] != second["multiply_adds"]
    assert (first["published"], values["latency"]) == (None, None)
    markdown = (compared / "out" / "ablation.md").read_text()
    assert "# Networks compared" in markdown
    assert f"| {' | '.join(one)} |" in markdown
    assert "McNemar's exact test" in markdown


@pytest.mark.extended
def test_each_network_is_exported_beside_its_checkpoint_and_timed(compared: Path, tmp_path):
    shutil.copytree(compared / "out", tmp_path / "out")
    found = compare_in(compared, tmp_path / "out", 0.1)
    timed = found.values["latency"]
    assert (timed["runner"], timed["batch"], timed["not_timed"]) == ("ort-cpu", 1, {})
    place = found.table.columns.index("latency ms")
    assert float(found.table.rows[0][place]) == pytest.approx(timed["networks"]["one"]["latency_ms"]["p50"], rel=0.01)
    assert timed["conditions"]["cpu"]["threads"] >= 1
    assert "ONNX Runtime on the CPU" in (tmp_path / "out" / "ablation.md").read_text()
    manifests = [tmp_path / "out" / name / "best.onnx.json" for name in ("one", "tiny-global")]
    written = [manifest.stat().st_mtime_ns for manifest in manifests]
    again = compare_in(compared, tmp_path / "out", 0.1)
    assert [manifest.stat().st_mtime_ns for manifest in manifests] == written, "exported once"
    assert again.values["latency"]["conditions"]["date"] >= timed["conditions"]["date"], "measured anew"


def test_p_values_are_of_what_the_checkpoints_predict(compared: Path):
    """Computed anew from each checkpoint, image by image."""
    values = json.loads((compared / "out" / "ablation.json").read_text())
    (tests,) = values["mcnemar"]
    images = sorted((compared / "data" / "test").rglob("*.png"))
    right = []
    for name in ("one", "tiny-global"):
        found = hemf_export.predict(compared / "out" / name / "best.pt", images)
        right.append(
            np.array([prediction.label == path.parent.name for prediction, path in zip(found, images, strict=True)])
        )
    (pair,) = tests["pairs"]
    assert (pair["first"], pair["second"]) == ("one", "tiny-global")
    assert pair["only_first"] == (right[0] & ~right[1]).sum()
    assert pair["only_second"] == (right[1] & ~right[0]).sum()
    expected = McNemar(pair["only_first"], pair["only_second"]).p_value
    assert tests["p_values"] == [[None, expected], [expected, None]] == tests["corrected"]
    assert tests["images"] == 15


def test_a_finished_member_is_not_repeated_and_lost_predictions_come_from_its_checkpoint(
    compared: Path, tmp_path, run_cli
):
    shutil.copytree(compared / "out", tmp_path / "out")
    lost = tmp_path / "out" / "one" / "predictions.npz"
    before = lost.read_bytes()
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("best.*")}
    line = ["ablate", compared / "data", "-o", tmp_path / "out", "--configs", compared / "list.toml", *LINE]
    code, out, err = run_cli(*line, "--bench-seconds", "0", "--json")
    assert code == 0, err
    assert err.count("finished before") == 2
    assert lost.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("best.*")} == kept
    _, shown, _ = run_cli(*line, "--bench-seconds", "0")
    assert max(map(len, shown.splitlines())) < 100, "fits a terminal"
    earlier, now = json.loads((compared / "out" / "ablation.json").read_text()), json.loads(out)
    assert now["mcnemar"] == earlier["mcnemar"]


def test_networks_of_different_image_sizes_need_one_for_all(compared: Path, tmp_path):
    with pytest.raises(UsageError, match="32, 64 pixels") as refused:
        hemf_export.ablate(compared / "data", tmp_path / "out", configurations=compared / "list.toml")
    assert "`image_size=32`" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(compared: Path, tmp_path, seconds):
    with pytest.raises(UsageError, match="bench_seconds"):
        hemf_export.ablate(compared / "data", tmp_path / "out", bench_seconds=seconds)


def labelled(counts: dict[str, int]) -> LabelledImages:
    labels = tuple(label for label, count in enumerate(counts.values()) for _ in range(count))
    return LabelledImages(
        Path("x"), tuple(counts), tuple(Path("x", str(index)) for index in range(len(labels))), labels
    )


def images_of(name: str) -> Images:
    """The images of one of the paper's data sets, by number, a tenth of them in test/."""
    counts = SETS[name].counts  # type: ignore[index]
    few = {label: count // 10 for label, count in counts.items()}
    rest = {label: count - 2 * few[label] for label, count in counts.items()}
    return Images(labelled(rest), labelled(few), labelled(few), ())


def outcomes(tmp_path: Path, images: Images, accuracies: dict[str, float], seeds: tuple[int, ...] = (0,)):
    """Results of runs by model, whose first predictions are right."""
    listed = [configurations.Configuration(model, model=model) for model in accuracies]
    assert images.test is not None
    assert images.test.labels is not None
    truth = np.asarray(images.test.labels)
    found = []
    for member in ablation.plan(listed, tmp_path, seeds):
        accuracy = accuracies[member.configuration.name]
        predicted = np.where(
            np.arange(len(truth)) < accuracy * len(truth), truth, (truth + 1) % len(images.test.classes)
        )
        logits = np.eye(len(images.test.classes), dtype=np.float32)[predicted]
        member.folder.mkdir(parents=True, exist_ok=True)
        predictions.write(member.folder / "predictions.npz", "abc", {"test": images.test}, {"test": logits})
        metrics = {"accuracy": accuracy, "macro_f1": 0.5, "macro_precision": 0.5, "balanced_accuracy": 0.5, "mcc": 0.25,
                   "kappa": None}  # fmt: skip
        summary = {"splits": {"test": metrics}, "epoch": 1, "checkpoint_sha256": "abc"}
        found.append(ablation.Outcome(member, "trained", summary))
    return found


@pytest.mark.parametrize(
    ("data_set", "line"),
    [
        ("isic2018", ["66.64 / 10.01", "87.34 / 78.89 / 80.42 / 77.59", "0.7553 / 0.7551"]),
        ("kvasir", ["66.64 / 10.01", "87.03 / 87.02 / 87.34 / 87.03", "0.8459 / 0.8580"]),
        ("covid-ct", ["66.64 / 10.01", "82.26 / 82.20 / 82.18 / 82.22", ""]),
    ],
)
def test_the_papers_figures_stand_beside_its_networks_and_data_alone(tmp_path, data_set, line, monkeypatch):
    monkeypatch.setattr(report, "_multiply_adds", lambda config: 10**9)
    images, options = images_of(data_set), Options(Path("data"), tmp_path)
    found = outcomes(tmp_path, images, {"hemf-base": 0.75, "hemf-tiny": 0.5})
    titles, (base, tiny) = report.compare(found, options, images).columns_and_cells()
    assert titles[-3:] == ["paper: M / G", "paper: acc / F1 / prec / recall %", "paper: MCC / kappa"]
    assert list(base[-3:]) == line
    assert tiny[-3:] == ("", "", "")
    notes = "\n".join(report.compare(found, options, images).notes())
    assert ("doubtful" in notes) == (data_set == "kvasir")
    other = Images(images.test, images.validation, images.test, ())  # type: ignore[arg-type]
    titles, (base, _) = report.compare(found, options, other).columns_and_cells()
    assert (titles[-1], base[-1]) == ("paper: M / G", "66.64 / 10.01")
    smaller = dataclasses.replace(options, image_size=64)
    assert "paper" not in report.compare(found, smaller, images).columns_and_cells()[0][-1]


def test_each_seed_has_its_own_tests_and_kappa_may_be_undefined(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_multiply_adds", lambda config: 10**9)
    images, options = images_of("covid-ct"), Options(Path("data"), tmp_path, image_size=64)
    found = outcomes(tmp_path, images, {"hemf-base": 0.5, "hemf-small": 0.75, "hemf-tiny": 0.75}, (0, 3))
    compared = report.compare(found, options, images)
    assert [set(tests.seeds.values()) for tests in compared.tests] == [{0}, {3}]
    assert compared.best == "hemf-small", "the first of equals"
    titles, cells = compared.columns_and_cells()
    places = {title: place for place, title in enumerate(titles)}
    assert [line[places["kappa"]] for line in cells] == ["", "", ""]
    assert [line[places["runs"]] for line in cells] == ["2 of 2"] * 3
    # 73 images, 37 and 55 of them right: 18 that only the better has right, 2 · (1/2)^18 < 0.001, times 3 pairs.
    assert [line[places["p"]] for line in cells] == ["< 0.001", "best", "1.000"]
    first = compared.tests[0].between("hemf-base", "hemf-small")
    assert first is not None
    assert (first.only_first, first.only_second, first.p_value) == (0, 18, pytest.approx(2 / 2**18))
    assert first.corrected == pytest.approx(3 * 2 / 2**18)
    lines = compared.markdown().splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {len(titles) + 1}
    assert json.dumps(compared.to_dict())
    parts = compared.tables()
    assert sorted(title for part in parts for title in part.columns[1:]) == sorted(titles[1:])
    assert [row[0] for part in parts for row in part.rows] == [line[0] for line in cells] * 2
    assert parts[0].rows[1] == tuple(cells[1][places[title]] for title in parts[0].columns)


def test_predictions_of_other_images_or_another_checkpoint_are_none(tmp_path):
    images = labelled({"a": 2, "b": 1})
    path, logits = tmp_path / "predictions.npz", np.zeros((3, 2), np.float32)
    assert predictions.read(path, "abc", "test", images) is None
    predictions.write(path, "abc", {"test": images}, {"test": logits})
    found = predictions.read(path, "abc", "test", images)
    assert found is not None
    assert (found == logits).all()
    assert predictions.read(path, "abd", "test", images) is None
    assert predictions.read(path, "abc", "val", images) is None
    assert predictions.read(path, "abc", "test", labelled({"a": 2, "b": 2})) is None
    for content in (b"", b"no archive", path.read_bytes()[:300]):
        path.write_bytes(content)
        assert predictions.read(path, "abc", "test", images) is None


def test_files_that_are_there_are_timed_and_what_cannot_be_is_told(made: Made, whole_network: Made, tmp_path):
    for folder, source in (("one", made), ("two", whole_network), ("other", made)):
        shutil.copytree(source.folder, tmp_path / folder)
    shutil.copy(whole_network.checkpoint, tmp_path / "other" / "model.pt")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.pt").write_bytes(b"no checkpoint")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = latency.measure(
        {name: (tmp_path / name / "model.pt", PLAIN) for name in ("broken", "one", "two", "other")}, seconds=0.1
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert list(found.timings) == ["one", "two"]
    assert found.kind == "ort-cpu"
    assert found.median_ms("one") == np.median(found.timings["one"].latencies_ms)
    assert found.median_ms("broken") is None
    assert "is not a checkpoint" in found.missing["broken"]
    assert "is of another checkpoint" in found.missing["other"]
    assert any(note.startswith("other is not timed") for note in found.notes)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["networks"]["two"]["median_ms"]["median"] == found.median_ms("two")
    assert "ONNX Runtime on the CPU" in found.describe()
    none = latency.measure({"broken": (tmp_path / "broken" / "model.pt", PLAIN)}, seconds=0.1)
    assert (none.timings, set(none.missing)) == ({}, {"broken"})


def test_a_network_of_the_users_own_is_read_by_its_factory(tmp_path):
    listed = [configurations.Configuration("own", model="package.module:factory"), configurations.Configuration("base")]
    options = Options(Path("data"), tmp_path, model="hemf-tiny")
    assert [ablation.reading(one, options).factory for one in listed] == ["package.module:factory", None]
    assert ablation.models(listed, options) == ("package.module:factory", "hemf-tiny")


def test_a_file_exported_with_other_options_is_not_timed(made: Made, tmp_path):
    shutil.copy(made.checkpoint, tmp_path / "model.pt")
    shutil.copy(made.half, tmp_path / "model.onnx")
    found = latency.measure({"half": (tmp_path / "model.pt", PLAIN)}, seconds=0.1)
    assert "exported with other options" in found.missing["half"]


def listed(tmp_path: Path, text: str):
    path = tmp_path / "list.toml"
    path.write_text(text)
    return configurations.read(path, Recipe(epochs=7, seed=5))


def test_a_configuration_names_a_network_and_a_recipe(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = 3\nweight_decay = 0.5\n")
    names, paper, mine = listed(
        tmp_path,
        '[[configuration]]\nname = "a"\nmodel = "package.module:factory"\n'
        '[[configuration]]\nname = "b"\nrecipe = "paper"\nbatch_size = 4\n'
        '[[configuration]]\nname = "c"\nmodel = "hemf-tiny"\nvariant = "both"\nrecipe = "mine.toml"\nepochs = 4\n',
    )
    assert (names.model, names.recipe.epochs, names.fixed) == ("package.module:factory", 7, ())
    assert (paper.model, paper.recipe) == (None, Recipe(batch_size=4, seed=5))
    assert (mine.model, mine.variant, mine.recipe) == ("hemf-tiny", "both", Recipe(epochs=4, weight_decay=0.5, seed=5))
    assert set(mine.fixed) == {"epochs", "weight_decay"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "hemf-tinny"', "Did you mean 'hemf-tiny'?"),
        ("model = 3", "A model must be text, not 3"),
        ('model = "package.module:factory"\nvariant = "both"', "No variant of package.module:factory is named 'both'"),
        ('model = "hemf-tiny"\nvariant = "bth"', "Did you mean 'both'?"),
        ("recipe = 3", "recipe must be a text in quotes, not 3"),
    ],
)
def test_what_names_nothing_is_wrong_usage(tmp_path, text, message):
    with pytest.raises(UsageError) as refused:
        listed(tmp_path, f'[[configuration]]\nname = "a"\n{text}')
    assert message in str(refused.value)


def test_a_recipe_file_that_is_missing_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match=r"none\.toml"):
        listed(tmp_path, '[[configuration]]\nname = "a"\nrecipe = "none.toml"')
