"""The Python API: every example in its docstrings runs, importing it is cheap, and results show themselves."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hemf_export
from hemf_export.api.training import train
from tests.conftest import PROJECT, once

ORDER = (
    "train", "load", "predict", "export_onnx", "quantize", "verify", "evaluate", "explain", "benchmark", "bundle",
    "self_test",
)  # fmt: skip


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
    function = {"train": train, "predict": hemf_export.Model.predict}.get(name) or getattr(hemf_export, name)
    runner, said = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"hemf_export": hemf_export})
    assert example.examples, f"{name} has no example"
    if name == "predict":
        hemf_export.export_onnx("best.pt")
    runner.run(example, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", ORDER)
def test_examples_run(workshop: Path, name: str):
    assert not json.loads((workshop / "failures.json").read_text()).get(name)


def test_every_function_has_an_example_or_is_run_elsewhere():
    functions = [name for name in hemf_export.__all__ if name.islower()]
    assert set(functions) - set(ORDER) == {"build_engine", "ship"}


@pytest.mark.extended
@pytest.mark.parametrize("name", ["build_engine", "ship"])
def test_examples_that_build_engines_run(workshop: Path, tmp_path: Path, monkeypatch, name: str):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    shutil.copytree(workshop, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
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


def test_training_is_a_function_and_a_package():
    from hemf_export.train.recipe import Recipe

    assert callable(hemf_export.train)
    assert Recipe is hemf_export.Recipe


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
    assert verification.facts() == {"verdict": "passed", "best.onnx": "100% of 12 images keep their class"}
    assert json.dumps(evaluation.to_dict())


def test_a_class_name_cannot_inject_html(workshop: Path):
    from hemf_export.api.results import OnnxFile

    file = OnnxFile(workshop / "best.onnx", {"precision": "fp32", "classes": ["<script>", "b"]})
    assert "<script>" not in file._repr_html_()
    assert "&lt;script&gt;" in file._repr_html_()
