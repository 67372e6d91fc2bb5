"""`explain`: maps that a second way to compute them gives too, pictures by name, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.evaluation import explanation
from hemf_export.files import artifacts
from hemf_export.images.images import decode
from tests.conftest import CLASSES, TINY, Made, tiny_checkpoint, write_images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoint.save(tiny_checkpoint(config=TINY), path)
    return path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that nobody looks at take seconds."""
    monkeypatch.setattr("hemf_export.train.figures.encode", lambda figure, kind: b"")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    for kind in CLASSES:
        write_images(tmp_path / "images", 1, kind)
    return sorted((tmp_path / "images").iterdir())


def explained(run_cli, *arguments: object) -> dict:
    code, out, err = run_cli("explain", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def by_hooks(path: Path, label: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Map, probabilities and class of an image, from the gradients of a whole pass, in float64; the formula as it is
    printed, in NumPy."""
    saved = tiny_checkpoint(config=TINY)
    model = saved.model().double()
    kept = []
    model.fusion_stages[-1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    pixels = torch.from_numpy(saved.preprocess.normalize(saved.preprocess.load(path)[None])).double()
    logits = model(pixels)
    kept[0].retain_grad()
    label = int(logits.argmax()) if label is None else label
    logits[0, label].backward()
    values, slopes = kept[0].detach().numpy()[0], kept[0].grad.numpy()[0]
    coarse = np.zeros(values.shape[1:])
    for channel, slope in zip(values, slopes, strict=True):
        total = max(channel.sum(), 0)
        alpha = slope**2 / (2 * slope**2 + slope**3 * total)
        coarse += (alpha * np.maximum(slope, 0)).sum() * channel
    side = saved.preprocess.size
    # Bilinear by the cells' centres: weights of the nearest two cells along each side.
    cells = coarse.shape[0]
    places = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0)
    heat = weights @ np.maximum(coarse, 0) @ weights.T
    return heat / heat.max(), torch.softmax(logits, 1).detach().numpy()[0], label


@pytest.mark.parametrize("label", [None, 0, 1, 2])
def test_maps_and_probabilities_are_those_of_a_whole_pass(
    model: Path, images, tmp_path: Path, run_cli, label, monkeypatch, undrawn
):
    drawn = []
    monkeypatch.setattr(explanation.heatmaps, "panel", drawn.append)
    words = ["--class", CLASSES[label]] if label is not None else []
    found = explained(run_cli, model, *images, *words, "-o", tmp_path / "out")
    assert len(drawn) == 3
    for path, entry, heat in zip(images, found["images"], drawn, strict=True):
        expected, shares, chosen = by_hooks(path, label)
        np.testing.assert_allclose(heat.values, expected, atol=1e-3)
        assert entry["class"] == CLASSES[chosen]
        assert entry["probability"] == pytest.approx(shares[chosen], abs=1e-5)
        assert entry["predicted"] == CLASSES[int(shares.argmax())]
        assert (entry["peak"]["row"], entry["peak"]["column"]) == np.unravel_index(heat.values.argmax(), (64, 64))
        assert heat.caption.startswith(f"{CLASSES[chosen]} {shares[chosen]:.1%}")
        assert ("predicted" in heat.caption) == (chosen != shares.argmax())
        np.testing.assert_array_equal(heat.pixels, tiny_checkpoint().preprocess.load(path))
    assert found["cells"] == [2, 2]


def test_a_picture_an_image_and_a_sheet(model: Path, images, tmp_path: Path, run_cli):
    out = tmp_path / "out"
    code, text, err = run_cli("explain", model, tmp_path / "images", "-o", out)
    assert code == 0, err
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(["explanation.json", "sheet-1.png", *(path.name for path in images)])
    assert all(decode(out / name).width > 300 for name in names if name.endswith(".png"))
    assert all(path.name in text for path in images)
    assert "2 × 2 cells of 32 × 32 pixels" in err
    assert "next: hemf-export onnx" in err


def test_one_image_gets_no_sheet_and_the_folder_lies_beside_the_checkpoint(
    checkpoint_file: Path, images, run_cli, undrawn
):
    assert run_cli("explain", checkpoint_file, images[0])[0] == 0
    made = checkpoint_file.parent / "model.explained"
    assert sorted(path.name for path in made.iterdir()) == [images[0].name, "explanation.json"]
    code, _, err = run_cli("explain", checkpoint_file, images[0])
    assert code == 1
    assert "--force" in err
    assert run_cli("explain", checkpoint_file, images[0], "--force")[0] == 0


def test_images_of_one_name_and_of_strange_ones_get_pictures_of_their_own(
    model: Path, tmp_path: Path, run_cli, undrawn
):
    root = tmp_path / "images"
    write_images(root, 1, "bright")
    for name in ("a/x.png", "b/x.png", "a/x.jpg", "b/2-x.png", "a/線\n$.png", "b/sheet-1.png", f"b/{'long' * 60}.png"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "bright0.png", root / name)
    found = explained(run_cli, model, root / "a", root / "b", "-o", tmp_path / "out")
    pictures = [entry["picture"] for entry in found["images"]]
    assert len(set(pictures)) == 7
    assert all((tmp_path / "out" / name).is_file() for name in [*pictures, *found["sheets"]])
    assert not set(found["sheets"]) & set(pictures)


def test_more_than_a_page_are_several_sheets(model: Path, tmp_path: Path, run_cli, monkeypatch, undrawn):
    monkeypatch.setattr(explanation.heatmaps, "SHEET_SIZE", 2)
    write_images(tmp_path / "images", 3, "dark")
    found = explained(run_cli, model, tmp_path / "images", "-o", tmp_path / "out")
    assert found["sheets"] == ["sheet-1.png", "sheet-2.png"]


def test_the_folders_class_is_told_where_it_is_another(model: Path, tmp_path: Path, run_cli, undrawn):
    for kind in CLASSES:  # all the same picture: it is wrong in two folders
        write_images(tmp_path / "images" / kind, 1, "bright")
    code, out, err = run_cli("explain", model, tmp_path / "images", "-o", tmp_path / "out")
    assert code == 0, err
    assert out.count("✗") == 2
    entries = json.loads((tmp_path / "out" / "explanation.json").read_text())["images"]
    assert [entry["true"] for entry in entries] == list(CLASSES)


def test_nothing_that_speaks_for_a_class_is_an_empty_map_and_said(images, tmp_path: Path, run_cli, undrawn):
    """The class's row of the classifier is zero: so are all gradients."""
    saved = tiny_checkpoint()
    saved.state["head.weight"][1] = 0
    checkpoint.save(saved, tmp_path / "flat.pt")
    code, out, err = run_cli(
        "explain", tmp_path / "flat.pt", images[0], "--class", CLASSES[1], "-o", tmp_path / "out", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["images"][0]["empty"]
    assert "Nothing speaks for the class in 1 of 1 images" in err


def test_an_unknown_class_is_exit_2_with_the_nearest(model: Path, images, tmp_path: Path, run_cli):
    code, out, err = run_cli("explain", model, images[0], "--class", "strped", "-o", tmp_path / "out", "--json")
    assert code == 2
    assert "Did you mean 'striped'?" in err
    assert json.loads(out)["exit_code"] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx"])
def test_an_onnx_file_is_exit_2_with_the_checkpoint_that_it_was_made_from(made: Made, images, run_cli, name: str):
    code, _, err = run_cli("explain", made.folder / name, images[0])
    assert code == 2
    assert "heatmaps need gradients" in err
    assert f"({made.checkpoint})" in err


def test_an_engine_is_exit_2(images, tmp_path: Path, run_cli):
    (tmp_path / "model.engine").write_bytes(b"x")
    artifacts.write_manifest(tmp_path / "model.engine", {"kind": "engine"})
    code, _, err = run_cli("explain", tmp_path / "model.engine", images[0])
    assert code == 2
    assert "Name the checkpoint that it was made from." in err


def test_bad_images_are_all_named_before_any_is_explained(model: Path, images, tmp_path: Path, run_cli):
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:90])
    (tmp_path / "text.png").write_text("no image")
    out = tmp_path / "out"
    code, _, err = run_cli("explain", model, *images, tmp_path / "cut.png", tmp_path / "text.png", "-o", out)
    assert code == 1
    assert "cut.png" in err
    assert "text.png" in err
    assert not out.exists()


@pytest.mark.parametrize(("value", "code"), [(float("nan"), 1), (3e38, 3)])
def test_weights_or_logits_that_are_not_finite(images, tmp_path: Path, run_cli, value: float, code: int):
    """A NaN in the file is a bad file; weights that overflow on the way are a check that failed."""
    saved = tiny_checkpoint()
    saved.state["head.weight"][:] = value
    checkpoint.save(saved, tmp_path / "bad.pt")
    found, out, err = run_cli("explain", tmp_path / "bad.pt", *images, "-o", tmp_path / "out", "--json")
    assert found == code, err
    assert json.loads(out)["exit_code"] == code
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*")), "no temporary folder is left"
