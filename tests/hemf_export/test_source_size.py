"""Files that take raw images of one size: the resize inside is Pillow's, in every precision and for every command."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hemf_export.bench import contenders, lineup
from hemf_export.bench.lineup import Entry
from hemf_export.calibration import emulation, graph_types
from hemf_export.calibration.blocks import OTHER, RESIZE, block_of, blocks
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.session import Session
from hemf_export.checkpoints import checkpoint
from hemf_export.export import graph_cleanup, onnx_export, tracing
from hemf_export.export.parity import Samples
from hemf_export.export.raw_pixels import Resize
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import SourceSize
from hemf_export.models.description import Description
from hemf_export.models.model_file import ModelFile, OnnxFile
from hemf_export.precision import quantize
from hemf_export.precision.quantization_request import Request
from tests.conftest import CLASSES, tiny_checkpoint, write_class_folders, write_images
from tests.hemf_export.test_cpp_predict import assert_same_json, printed
from tests.hemf_export.triton.models import means
from tests.images.test_resampling import SHAPES, noise

SIZE = SourceSize(40, 40)  # of the shared pictures
PREPROCESS = Preprocess.for_size(64)


@dataclass(frozen=True)
class Whole:
    """A checkpoint, and files of each precision that take whole pictures."""

    checkpoint: Path
    full: Path
    half: Path
    int8: Path


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    paths = Whole(*(folder / name for name in ("m.pt", "m.onnx", "m.fp16.onnx", "m.int8.onnx")))
    checkpoint.save(tiny_checkpoint(), paths.checkpoint)
    options = onnx_export.Options(input_type="uint8", source_size=SIZE, images=pictures)
    onnx_export.export(paths.checkpoint, paths.full, options)
    quantize.make(Request(paths.full, images=pictures, output=paths.half, count=8, held_out_count=8))
    request = Request(paths.full, "int8", pictures, count=6, held_out_count=6, method="max", output=paths.int8)
    quantize.make(request)
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with four images of the right size each."""
    return write_class_folders(tmp_path_factory.mktemp("images"), 4, seed=3)


def striped(height: int, width: int, seed: int) -> np.ndarray:
    """An image whose rows differ by a number each: what is rounded wrongly in one is so in all, and adds up."""
    generator = np.random.default_rng(seed)
    sides = generator.integers(0, 128, (height, 1, 3)), generator.integers(0, 128, (1, width, 3))
    return (sides[0] + sides[1]).astype(np.uint8)


def levels(model: ir.Model, name: str, pixels: np.ndarray) -> np.ndarray:
    return Session(model, outputs=[name], threads=1).run(pixels)[0].transpose(0, 2, 3, 1)


def of_resize(graph: ir.Graph) -> str:
    """The name of what the resize makes."""
    return [str(node.outputs[0].name) for node in graph if block_of(str(node.name)) == RESIZE][-1]


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_resize_is_pillows_for_every_shape(shape, mode):
    preprocess = Preprocess.for_size(96, mode)
    pixels = noise(*shape)
    found = Resize(preprocess, SourceSize(*shape))(torch.from_numpy(pixels[None]))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(found.numpy(), preprocess.pixels(Image.fromarray(pixels)))


# Where sums often lie halfway between two levels, or nearly so.
RATIOS = st.sampled_from([(1, 1), (2, 1), (3, 1), (6, 1), (3, 2), (1, 3), (7, 4), (12, 1), (40, 3)])


@given(RATIOS, RATIOS, st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_lines_that_are_rounded_alike_are_rounded_as_pillow_does(across, down, seed):
    height, width = (24 * ratio[0] // ratio[1] for ratio in (down, across))
    pixels = striped(height, width, seed)
    preprocess = Preprocess.for_size(24, "squash")
    found = Resize(preprocess, SourceSize(height, width))(torch.from_numpy(pixels[None]))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(found.numpy(), preprocess.pixels(Image.fromarray(pixels)))


class Alone(torch.nn.Module):
    """The resize where the exporter names it as in a whole network."""

    def __init__(self, preprocess: Preprocess, source: SourceSize) -> None:
        super().__init__()
        self.resize = Resize(preprocess, source)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.resize(pixels) * 1.0


FEW = (("crop", (450, 600)), ("squash", (384, 72)))  # the second: ties in most sums, and the rows first
MORE = [(mode, shape) for mode in ("crop", "squash") for shape in SHAPES]


@pytest.mark.parametrize(("mode", "shape"), [*FEW, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)])
def test_in_float16_it_is_pillows_too(mode, shape):
    """Emulated: every result rounded to float16, sums in float32."""
    preprocess = Preprocess.for_size(64, mode)
    example = torch.zeros(1, *shape, 3, dtype=torch.uint8)
    model = tracing.trace(Alone(preprocess, SourceSize(*shape)).eval(), example, 20)
    graph_cleanup.clean(model)
    graph_cleanup.name_by_scope(model)
    to_float16(model)
    types = graph_types.count_types(model)
    assert types["products"] == {"float16": types["products"]["float16"]}, "Turing has no float32 ones"
    name = of_resize(model.graph)
    emulated = emulation.emulate(model)
    for pixels in (noise(*shape), striped(*shape, seed=0), np.full((*shape, 3), 255, np.uint8)):
        found = levels(emulated, name, pixels[None])[0]
        np.testing.assert_array_equal(found, preprocess.pixels(Image.fromarray(pixels)))


@pytest.mark.parametrize("name", ["full", "half", "int8"])
def test_files_of_every_precision_have_pillows_pixels(whole, name):
    path = getattr(whole, name)
    model = ir.load(path) if name == "full" else emulation.of_file(onnx.load(path))
    pixels = np.stack([noise(40, 40, seed) for seed in range(4)])
    expected = np.stack([PREPROCESS.pixels(Image.fromarray(one)) for one in pixels])
    found = levels(model, of_resize(ir.load(path).graph), pixels)
    np.testing.assert_array_equal(found, expected)


def test_no_product_of_the_resize_is_in_int8_and_blocks_have_their_names(whole):
    model = ir.load(whole.int8)
    quantized = [str(node.name) for node in model.graph if graph_types.is_int8(node)]
    assert len(quantized) > 10
    assert not [name for name in quantized if block_of(name) == RESIZE]
    named = set(blocks(model.graph).values()) - {OTHER}
    assert {RESIZE, "ELF 1", "ELF 4", "local step 2"} <= named


def test_what_it_takes_stands_in_the_file_and_in_its_manifest(whole):
    for path in (whole.full, whole.half, whole.int8):
        _, described = OnnxFile.open(path).read_ours()
        manifest = artifacts.read_manifest(path)
        assert described.source_size == SIZE
        assert manifest["source_size"] == [40, 40]
        assert Description.from_manifest(path, manifest) == described
    older = {name: value for name, value in manifest.items() if name != "source_size"}
    assert Description.from_manifest(path, older).source_size is None, "as files were written before"


@pytest.mark.parametrize("value", [[40], "40x40", [0, 4]])
def test_a_source_size_without_sense_is_refused(whole, value):
    manifest = {**artifacts.read_manifest(whole.full), "source_size": value}
    with pytest.raises(BadInputError, match="doesn't tell classes and preprocessing"):
        Description.from_manifest(whole.full, manifest)


def test_predictions_are_the_checkpoints(whole, folder):
    expected = ModelFile.open(whole.checkpoint).predictor().predict([folder])
    found = ModelFile.open(whole.full).predictor().predict([folder])
    assert [one.label for one in found] == [one.label for one in expected]
    np.testing.assert_allclose([one.probabilities for one in found], [one.probabilities for one in expected], atol=1e-5)


def test_an_image_of_another_size_is_named_before_any_is_classified(whole, folder, tmp_path, run_cli):
    shutil.copytree(folder, tmp_path / "images")
    odd = tmp_path / "images" / "dark" / "odd.png"
    Image.new("RGB", (30, 20)).save(odd)
    for words in (
        ("predict", whole.full, tmp_path / "images"),
        ("evaluate", whole.full, "--data", tmp_path / "images"),
        ("verify", whole.full, "--data", tmp_path / "images"),
        ("calibrate", whole.full, "--precision", "fp16", "--images", tmp_path / "images", "-o", tmp_path / "h.onnx"),
    ):
        code, out, err = run_cli(*words)
        assert (code, out) == (1, ""), words
        assert f"takes images of 40x40 (height x width) alone: {odd} is 20x30." in err
        assert "--source-size" in err
    shutil.rmtree(tmp_path / "images")
    write_images(tmp_path / "images", 6, "dark", side=41)
    words = ("onnx", whole.checkpoint, "--input", "uint8", "--source-size", "40x40", "-o", tmp_path / "m.onnx")
    code, _, err = run_cli(*words, "--images", tmp_path / "images")
    assert code == 1
    assert "is 41x41" in err
    assert not (tmp_path / "m.onnx").exists()


def test_the_cpp_example_prints_and_refuses_the_same(whole, folder, tmp_path, run_cli, cpp, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("predict", whole.full, folder, "--json")
    found = printed(cpp, str(whole.full), "json", str(folder))
    assert (code, found.code) == (0, 0), (err, found.err)
    assert_same_json(found.out, out)
    for name, size in (("odd.png", (30, 20)), ("turned.png", (40, 39))):
        Image.new("RGB", size).save(tmp_path / name)
    code, out, _ = run_cli("predict", whole.full, folder, "turned.png", "odd.png", "--json")
    expected = json.loads(out)
    found = cpp.run("probe", "predict", whole.full, "logits", "json", 1, folder, "turned.png", "odd.png")
    assert (code, found.code, found.out) == (1, 1, "")
    hint = expected["hint"].replace("--source-size", "source size")  # a library in C++ knows no flags
    assert found.err == f"{expected['error']}\n{hint}\n"
    assert "odd.png is 20x30; turned.png is 39x40" in found.err


def test_verify_compares_with_the_checkpoint_by_each_ones_own_preprocessing(whole, folder, run_cli):
    files = whole.full, whole.int8
    code, out, err = run_cli("verify", *files, "--data", folder, "--locate", "--json")
    report = json.loads(out)
    assert code == 0, err
    assert report["reference"]["source_size"] is None
    assert [one["source_size"] for one in report["candidates"]] == ["40x40"] * 2
    assert report["candidates"][0]["against_reference"]["logit_difference"]["max"] < 1e-4
    assert all(one["against_reference"]["agreement"] == 1.0 for one in report["candidates"])


def test_evaluate_and_inspect_tell_what_the_file_takes(whole, folder, tmp_path, run_cli):
    code, out, _ = run_cli("evaluate", whole.full, "--data", folder, "-o", tmp_path / "e", "--json")
    assert code == 0
    assert json.loads(out)["models"][0]["source_size"] == "40x40"
    code, out, _ = run_cli("inspect", whole.half)
    assert code == 0
    assert "raw images of 40x40 pixels (height x width), which it resizes and crops itself" in out


def test_in_a_benchmark_each_runner_gets_its_own_input_of_the_same_images(whole):
    kinds = ("eager", "ort-cpu")
    found = lineup.gather([whole.checkpoint, whole.full], Path(), kinds=kinds, transfers="in", gpu=False)
    samples = Samples(found.input, None, 3)
    (pixels,) = samples.pixels((3,))
    assert pixels.shape == (3, 40, 40, 3), "whole images for all"
    works = [contenders.open_entry(one, threads=1, kept=found.input).prepare(pixels) for one in found.entries]
    for work in works:
        work.run()
    assert [entry.kind for entry in found.entries] == list(kinds)
    np.testing.assert_allclose(works[1].logits(), works[0].logits(), atol=1e-4)


def test_what_is_sent_to_a_child_process_takes_whole_images_too(whole):
    found = lineup.gather([whole.checkpoint, whole.full], Path(), kinds=("ort-cpu",), transfers="in", gpu=False)
    (entry,) = found.entries
    assert Entry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    assert entry.input == found.input
    assert (entry.input.height, entry.input.width) == (40, 40)


def test_files_of_two_source_sizes_are_not_timed_side_by_side(tmp_path):
    sizes = SourceSize(40, 40), SourceSize(40, 41)
    files = [means(tmp_path / f"{size}.onnx", raw=True, source=size) for size in sizes]
    with pytest.raises(BadInputError, match="different sizes: 40x40, 40x41"):
        lineup.gather(files, tmp_path, kinds=None, transfers="in", gpu=False)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--source-size", "40x40"), "Add --input uint8"),
        (("--source-size", "40x40", "--input", "float32"), "Add --input uint8"),
        (("--source-size", "40", "--input", "uint8"), "HEIGHTxWIDTH"),
        (("--source-size", "0x40", "--input", "uint8"), "1 to 10,000 pixels"),
    ],
)
def test_wrong_usage_is_exit_2(whole, tmp_path, run_cli, words, reason):
    code, _, err = run_cli("onnx", whole.checkpoint, "-o", tmp_path / "m.onnx", *words)
    assert code == 2
    assert reason in err
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.extended
@pytest.mark.parametrize("name", ["int8", pytest.param("half", marks=pytest.mark.slow)])
def test_tensorrt_rtx_builds_it_for_a_t4(whole, tmp_path, run_cli, name):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    code, out, err = run_cli("trt", getattr(whole, name), "--target", "t4", "-o", tmp_path / "m.engine", "--json")
    assert code == 0, err
    manifest = json.loads(out)
    assert manifest["source_size"] == [40, 40]
    assert manifest["tensors"][0]["shape"] == [-1, 40, 40, 3]
    assert manifest["golden"]["shape"] == [4, 40, 40, 3], "raw images"
    assert manifest["classes"] == list(CLASSES)
    code, out, _ = run_cli("inspect", tmp_path / "m.engine")
    assert "raw images of 40x40 pixels" in out
