"""A float32 model that is no better than guessing on labelled images is told, and what it was probably made for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hemf_export.models import plausibility
from tests.conftest import CLASSES, Made, write_images
from tests.hemf_export import heads

NAMES = ("a", "b", "c", "d")


def counts(labels: list[int], predicted: list[int], classes: int) -> np.ndarray:
    return plausibility.confusion(labels, np.eye(classes)[predicted])


def simulated(accuracy: float, images: int, classes: int, seed: int, shares: list[float] | None = None) -> np.ndarray:
    """A classifier that is right so often, and else guesses by the shares of the classes."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, images, p=shares)
    guesses = random.choice(classes, images, p=shares)
    predicted = np.where(random.random(images) < accuracy, labels, guesses)
    return counts(labels.tolist(), predicted.tolist(), classes)


@pytest.mark.parametrize("shares", [None, [0.7, 0.2, 0.05, 0.05]], ids=["even", "uneven"])
@pytest.mark.parametrize("images", [24, 64, 512])
def test_a_guesser_is_told_and_a_fair_model_is_not(images: int, shares: list[float] | None):
    told = [plausibility.guessing(simulated(0, images, 4, seed, shares)) for seed in range(200)]
    assert np.mean(told) > 0.8
    fair = [plausibility.guessing(simulated(0.6, images, 4, seed, shares)) for seed in range(200)]
    assert np.mean(fair) < (0.05 if images < 64 else 0.01)


def test_a_model_that_always_says_the_commonest_class_only_guesses():
    labels = [0] * 90 + [1] * 10
    assert plausibility.guessing(counts(labels, [0] * 100, 2)), "accuracy 90 %, and nothing learned"
    assert not plausibility.guessing(counts(labels, [0] * 80 + [1] * 20, 2)), "accuracy 90 %, every rare one found"


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0] * 50, [1]], ids=["few", "one class", "one image"])
def test_nothing_is_said_where_nothing_could_show_it(labels: list[int]):
    assert not plausibility.guessing(counts(labels, [0] * len(labels), 2))
    assert not plausibility.doubts(counts(labels, [0] * len(labels), 2), NAMES[:2])


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 2, 1, 0], [0, 2, 3, 1]], ids=str)
@pytest.mark.parametrize("accuracy", [0.8, 1.0])
def test_classes_in_another_order_are_told_with_the_right_one(order: list[int], accuracy: float):
    right = simulated(accuracy, 200, 4, 1)
    found = plausibility.other_names(right[:, order])
    assert found is not None
    assert found.tolist() == order
    assert plausibility.other_names(right) is None
    (*_, text) = plausibility.doubts(right[:, order], NAMES)
    assert ", ".join(NAMES[index] for index in order) in text


@pytest.mark.parametrize("classes", [2, 4, 11])
def test_no_order_is_made_up_for_a_guesser(classes: int):
    for images in (12, 48, 300):
        told = [plausibility.other_names(simulated(0, images, classes, seed)) is not None for seed in range(100)]
        assert np.mean(told) <= 0.01


def test_no_order_is_made_up_where_a_wrong_class_is_always_said():
    assert plausibility.other_names(counts([0] * 80 + [1] * 20, [1] * 100, 2)) is None


def colours(folder: Path, count: int, seed: int) -> Path:
    """Reddish, greenish and bluish pictures: their channels are all that tells them apart."""
    from PIL import Image

    random = np.random.default_rng(seed)
    for split in ("train", "val"):
        for index, name in enumerate(("blue", "green", "red")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(110, 25, (40, 40, 3))
                pixels[..., 2 - index] += 50
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(folder / split / name / f"{number}.png")
    return folder


def before(path: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> Path:
    """The file with nodes between its input and its first one, from `x` to `x2`."""
    model = onnx.load(path)
    model.graph.node[0].input[0] = "x2"
    for place, one in enumerate(nodes):
        model.graph.node.insert(place, one)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colours(tmp_path_factory.mktemp("colours"), 12, 0)


MADE_FOR = {
    "channels in the order blue, green, red": (
        [helper.make_node("Gather", ["x", "bgr"], ["x2"], axis=1)], {"bgr": np.array([2, 1, 0], np.int64)}
    ),
    "values from 0 to 255": (
        [helper.make_node("Div", ["x", "s"], ["x1"]), helper.make_node("Sub", ["x1", "m"], ["x2"])],
        {"s": np.array(127.5, np.float32), "m": np.array(1, np.float32)},
    ),
    "values from 0 to 1 (mean 0, std 1)": (
        [helper.make_node("Mul", ["x", "s"], ["x1"]), helper.make_node("Sub", ["x1", "m"], ["x2"])],
        {"s": np.array(2, np.float32), "m": np.array(1, np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("made_for", list(MADE_FOR)[:2])
def test_calibrate_tells_before_it_works_what_a_file_was_made_for(data, tmp_path, run_cli, made_for):
    path = heads.write(tmp_path / "m.onnx", heads.LOGITS["flat"], data=data)
    nodes, weights = MADE_FOR[made_for]
    before(path, *nodes, **weights)
    command = ("calibrate", path, "--precision", "fp16", "--images", data, "--max-logit-diff", 10, "--min-agreement", 0)
    code, _, err = run_cli(*command, "--json")
    assert code == 0, err
    said = " ".join(err.split())
    assert "No better than guessing" in said or "another order" in said
    assert said.index(made_for.split(" (")[0]) < said.index("Recording all values"), "before the work"


def test_calibrate_tells_the_order_of_the_classes(data, tmp_path, run_cli):
    path = heads.write(tmp_path / "m.onnx", heads.LOGITS["flat"], data=data)
    command = ("calibrate", path, "--precision", "fp16", "--images", data, "--json", "--max-logit-diff", 1)
    code, _, err = run_cli(*command)
    assert code == 0, err
    assert "guessing" not in err
    assert "another order" not in err
    code, _, err = run_cli(*command, "--classes", "red,blue,green", "-o", tmp_path / "o.onnx")
    assert code == 0, err
    assert "With its classes in another order it would be right on 100.0%" in " ".join(err.split())
    assert "blue, green, red" in " ".join(err.split())
    # What was made tells it as well, wherever it meets labels.
    for name, words in (("evaluate", ("--data", data, "-o", tmp_path / "e", "--json")),):
        code, out, err = run_cli(name, tmp_path / "o.onnx", *words)
        assert code == 0, err
        assert "blue, green, red" in " ".join(err.split())
        assert json.loads(out)["models"][0]["doubts"]


def test_verify_and_bench_tell_it(made: Made, run_cli, tmp_path):
    for seed, name in enumerate(CLASSES):  # alike: nothing can tell them apart
        write_images(tmp_path / "data" / name, 5, "dark", seed)
    data = tmp_path / "data"
    code, out, err = run_cli("verify", made.onnx, "--data", data, "--json")
    assert code == 0, err
    assert json.loads(out)["doubts"]
    assert "No better than guessing" in " ".join(err.split())
    (tmp_path / "v.json").write_text(out)
    bench = ("bench", made.onnx, "--runners", "ort-cpu", "--batch", 1, "--seconds", 0.2, "--no-memory", "--json")
    for more in (("--verified", tmp_path / "v.json"), ("--images", data)):
        code, _, err = run_cli(*bench, *more)
        assert code == 0, err
        assert "No better than guessing" in " ".join(err.split()), more
