"""The Python API: every example in its docstrings runs, importing it is cheap, and results show themselves."""

from __future__ import annotations

import doctest
import inspect
import json
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hemf_export
from hemf_export.api.inspection import doctor
from hemf_export.api.training import train
from hemf_export.bench import run as bench_run
from hemf_export.cli import COMMANDS
from hemf_export.cli.flags import FUNCTIONS
from hemf_export.files import locks
from hemf_export.verification import verification
from tests.conftest import PROJECT, once

ORDER = (
    "doctor", "info", "list_networks", "split_data", "check_split", "recipe_file", "train", "load", "Model.predict",
    "predict", "export_onnx", "inspect", "quantize", "verify", "evaluate", "explain", "benchmark", "bundle",
    "self_test",
)  # fmt: skip
SERVING = ("triton_repository", "serve_versions", "check_repository")  # which need tritonclient, in this order
BUILDING = ("build_engine", "ship", "ship_all")  # which need TensorRT-RTX
# Run by tests of the commands, which call them: minutes of training, a server, and what needs a GPU.
ELSEWHERE = {"ablate", "check_gpu", "finetune", "predict_served"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, pictures: Path, trained_checkpoint: Path) -> Path:
    """A folder in which every example has run; nobody may change it."""

    def make(folder: Path) -> None:
        shutil.copytree(pictures, folder / "data")
        shutil.copy(trained_checkpoint, folder / "best.pt")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            failures = {name: failed for name in ORDER if (failed := run_example(name))}
        (folder / "failures.json").write_text(json.dumps(failures))

    return once(tmp_path_factory, "api", make)


def run_example(name: str) -> str:
    """Run the example of a function; what went wrong."""
    named = {"doctor": doctor, "train": train, "Model.predict": hemf_export.Model.predict}
    function = named.get(name) or getattr(hemf_export, name)
    runner, said = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"hemf_export": hemf_export})
    assert example.examples, f"{name} has no example"
    if name == "Model.predict":
        hemf_export.export_onnx("best.pt")
    runner.run(example, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", ORDER)
def test_examples_run(workshop: Path, name: str):
    assert not json.loads((workshop / "failures.json").read_text()).get(name)


def test_every_function_has_an_example_or_is_run_elsewhere():
    functions = [name for name in hemf_export.__all__ if name.islower()]
    assert set(functions) == {*ORDER, *SERVING, *BUILDING, *ELSEWHERE} - {"Model.predict"}


def test_examples_of_serving_run(workshop: Path, tmp_path: Path, monkeypatch):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    shutil.copytree(workshop, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    assert [run_example(name) for name in SERVING] == [""] * len(SERVING)


@pytest.mark.extended
@pytest.mark.parametrize("name", BUILDING)
def test_examples_that_build_engines_run(workshop: Path, tmp_path: Path, monkeypatch, name: str):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    shutil.copytree(workshop, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    for run in ("a", "b"):  # what `ship_all` finds
        (tmp_path / "work" / "runs" / run).mkdir(parents=True)
        shutil.copy("best.pt", tmp_path / "work" / "runs" / run)
    assert run_example(name) == ""


def test_importing_it_imports_nothing_heavy():
    code = "import hemf_export, sys; sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'click'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_all_names_are_there_and_nothing_else_is_promised():
    assert sorted(hemf_export.__all__) == hemf_export.__all__
    for name in hemf_export.__all__:
        assert getattr(hemf_export, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = hemf_export.nothing_of_ours


def test_training_and_the_doctor_are_functions_and_packages():
    from hemf_export.doctor import checkup
    from hemf_export.train.recipe import Recipe

    assert callable(hemf_export.train)
    assert callable(hemf_export.doctor)
    assert checkup.Report
    assert Recipe is hemf_export.Recipe


def test_every_command_is_a_function_of_the_api():
    assert set(COMMANDS) == {name.split()[0] for name in FUNCTIONS.values()}
    assert set(FUNCTIONS) <= set(hemf_export.__all__)


def test_a_model_takes_paths_images_arrays_and_any_iterable_of_them(workshop: Path):
    model = hemf_export.load(workshop / "best.pt")
    paths = sorted((workshop / "data" / "test" / "dark").iterdir())
    expected = model.predict(paths)
    pictures = [Image.open(path) for path in paths]
    for images in (
        paths[0].parent, [str(path) for path in paths], iter(paths), pictures,
        (np.asarray(picture) for picture in pictures),
    ):  # fmt: skip
        found = model.predict(images, batch=3)
        assert [one.label for one in found] == [one.label for one in expected]
        np.testing.assert_allclose(
            [one.probabilities for one in found], [one.probabilities for one in expected], atol=1e-6
        )
    (single,) = model.predict(pictures[0])
    assert (single.label, single.path) == (expected[0].label, Path())
    with pytest.raises(hemf_export.UsageError, match="no image"):
        model.predict([3])
    with pytest.raises(hemf_export.UsageError, match="no image"):
        model.predict(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(hemf_export.UsageError, match="no image"):
        model.predict(np.zeros((0, 4, 3), np.uint8))


def test_pixels_that_are_no_input_are_refused(workshop: Path):
    model = hemf_export.load(workshop / "best.pt")
    size = model.preprocess.size
    assert model.logits(np.zeros((2, size, size, 3), np.uint8)).shape == (2, len(model.classes))
    for shape in (0, size, size, 3), (1, size + 8, size, 3), (size, size, 3):
        with pytest.raises(hemf_export.UsageError, match="can't take pixels of shape"):
            model.logits(np.zeros(shape, np.uint8))
    with pytest.raises(hemf_export.UsageError, match="float32"):
        model.logits(np.zeros((1, size, size, 3), np.float32))


def test_images_in_memory_are_for_a_loaded_model(workshop: Path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    for images in pixels, Image.fromarray(pixels), [pixels]:
        with pytest.raises(hemf_export.UsageError, match="load"):
            hemf_export.predict(workshop / "best.pt", images)


def test_one_string_is_no_list_of_class_names(workshop: Path):
    with pytest.raises(hemf_export.UsageError, match="not the string 'bright'"):
        hemf_export.load(workshop / "best.pt", classes="bright")


def test_one_runner_and_one_batch_size_need_no_list(workshop: Path):
    timed = hemf_export.benchmark(workshop / "best.onnx", runners="ort-cpu", batches=2, seconds=0.05, memory=False)
    assert [(one["runner"], one["batch"]) for one in timed.values["timings"]] == [("ort-cpu", 2)]


def test_a_result_shows_itself_when_its_files_are_gone(workshop: Path, tmp_path: Path):
    explanation = hemf_export.explain(workshop / "best.pt", workshop / "data" / "test" / "dark", tmp_path / "pictures")
    assert "<img" in explanation._repr_html_()
    shutil.rmtree(explanation.path)
    assert "<table>" in explanation._repr_html_()
    file = hemf_export.OnnxFile(tmp_path / "moved.onnx", json.loads((workshop / "best.onnx.json").read_text()))
    assert "moved.onnx" in file._repr_html_()


def test_an_explanation_of_no_image_is_refused(workshop: Path, tmp_path: Path):
    with pytest.raises(hemf_export.UsageError, match="No image was named"):
        hemf_export.explain(workshop / "best.pt", [], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_images_stream_and_the_first_bad_one_ends_it(workshop: Path, tmp_path: Path):
    model = hemf_export.load(workshop / "best.pt")
    good = sorted((workshop / "data" / "test" / "dark").iterdir())[0]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    taken = []

    def images():
        for path in (good, good, bad, good):
            taken.append(path)
            yield path

    stream = model.stream(images(), batch=2)
    assert [next(stream).label, next(stream).label] == [model.predict(good)[0].label] * 2
    assert len(taken) == 2, "nothing is read ahead"
    with pytest.raises(hemf_export.BadInputError, match=r"bad\.png"):
        next(stream)


def test_results_show_themselves_and_are_paths(workshop: Path, monkeypatch):
    monkeypatch.chdir(workshop)
    model = hemf_export.load("best.onnx")
    assert "<table>" in model._repr_html_()
    assert model.to_dict()["precision"] == "fp32"
    timed = hemf_export.benchmark(["best.pt", "best.onnx"], batches=[1], seconds=0.05, memory=False)
    assert "ort-cpu, best.onnx, batch 1" in timed.facts()
    evaluation = hemf_export.evaluate("best.onnx", "data")
    assert "best.onnx" in evaluation._repr_html_()
    verification = hemf_export.verify("best.onnx", "data")
    assert verification.facts() == {
        "verdict": f"passed: {verification.verdict}", "best.onnx": "100% of 12 images keep their class",
    }  # fmt: skip
    assert verification.verdict.startswith("best.onnx is the model that was validated: all 12 images keep their class")
    assert json.dumps(evaluation.to_dict())


def test_a_class_name_cannot_inject_html(workshop: Path):
    from hemf_export.api.results import OnnxFile

    file = OnnxFile(workshop / "best.onnx", {"precision": "fp32", "classes": ["<script>", "b"]})
    assert "<script>" not in file._repr_html_()
    assert "&lt;script&gt;" in file._repr_html_()


def test_no_option_is_without_a_name():
    for name in (each for each in hemf_export.__all__ if each.islower()):
        function = {"doctor": doctor, "train": train}.get(name) or getattr(hemf_export, name)
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}, name


def test_reports_are_written_where_python_asks_for_them(workshop: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(workshop)
    page, summary = tmp_path / "pages" / "verify.html", tmp_path / "verify.md"
    verified = hemf_export.verify("best.onnx", "data", report=page, markdown=summary)
    assert page.read_text().lower().startswith("<!doctype html>")
    assert "## Verification passed" in summary.read_text()
    timed = hemf_export.benchmark(
        ["best.pt", "best.onnx"], batches=[1], seconds=0.05, memory=False, verification=verified,
        output=tmp_path / "bench.json", markdown=tmp_path / "bench.md",
    )  # fmt: skip
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(timed.to_dict()))
    assert "## Benchmark" in (tmp_path / "bench.md").read_text()
    assert timed.tables[0].title.startswith("Batch 1")


def test_a_report_that_cannot_be_written_is_refused_before_any_work(workshop: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(verification, "verify", lambda *_: pytest.fail("it worked"))
    monkeypatch.setattr(bench_run, "run", lambda *_: pytest.fail("it worked"))
    with pytest.raises(hemf_export.BadInputError, match="is a folder"):
        hemf_export.verify("best.onnx", "data", report=tmp_path)
    with pytest.raises(hemf_export.BadInputError, match="is the input itself"):
        hemf_export.benchmark("best.onnx", output="best.onnx")
    with pytest.raises(hemf_export.UsageError, match="named for two outputs"):
        hemf_export.verify("best.onnx", "data", report=tmp_path / "a", markdown=tmp_path / "a")
    with locks_of_another_thread(tmp_path / "a"), pytest.raises(hemf_export.BadInputError, match="is in use"):
        hemf_export.verify("best.onnx", "data", report=tmp_path / "a")


@contextmanager
def locks_of_another_thread(path: Path) -> Iterator[None]:
    """Hold the lock of a file as another user of it would."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.owned(path):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_bound_that_is_missed_is_raised_where_it_is_required(workshop: Path, monkeypatch):
    monkeypatch.chdir(workshop)
    failed = hemf_export.verify("best.fp16.onnx", "data", max_logit_difference=0.0)
    assert not failed.passed
    with pytest.raises(hemf_export.CheckFailedError, match="1 bound missed"):
        failed.require()
    hemf_export.verify("best.fp16.onnx", "data").require()


def test_predictions_are_a_sequence_that_knows_what_the_folders_say(workshop: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(workshop)
    shutil.copytree("data/test", tmp_path / "test")
    (tmp_path / "test" / "notes.txt").write_text("no image")
    predictions = hemf_export.predict("best.onnx", tmp_path / "test")
    assert len(predictions) == len(list(predictions)) == 12
    assert predictions.true == tuple(prediction.path.parent.name for prediction in predictions)
    right = sum(one.label == true for one, true in zip(predictions, predictions.true, strict=True))
    assert [(share.images, share.right) for share in predictions.shares] == [(12, right)]
    assert predictions.to_dict()["class_folders"][0]["right"] == right
    assert any("notes.txt" in note for note in predictions.notes)
    assert predictions[0].label in predictions._repr_html_()
    (from_memory,) = hemf_export.load("best.onnx").predict(Image.open(predictions[0].path))
    assert from_memory.label == predictions[0].label


def test_all_bad_images_are_named_where_paths_are_given(workshop: Path, tmp_path: Path):
    bad = [tmp_path / name for name in ("a.png", "b.png")]
    for path in bad:
        path.write_bytes(b"no image")
    with pytest.raises(hemf_export.BadInputError, match=r"(?s)a\.png.*b\.png"):
        hemf_export.load(workshop / "best.onnx").predict(bad)


def test_the_contract_of_the_command_line_names_every_room():
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    (contract,) = [
        each for each in settings["tool"]["importlinter"]["contracts"]
        if each.get("source_modules") == ["hemf_export.cli"]
    ]  # fmt: skip
    rooms = {path.stem for path in (PROJECT / "hemf_export").iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms = {room for room in rooms if not room.startswith("_")} - {"api", "cli", "files", "metrics", "pages"}
    assert {f"hemf_export.{room}" for room in rooms} <= set(contract["forbidden_modules"])
