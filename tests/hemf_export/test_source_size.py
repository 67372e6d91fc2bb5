"""Files that take raw images of one size: the resize inside is Pillow's, in every precision and for every command."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration import emulation
from calibration.blocks import RESIZE, block_of
from calibration.graphs import prepare
from calibration.session import Session
from hemf.images import Preprocess
from hemf.model_input import SourceSize
from hemf_export import onnx_export, onnx_file, precision
from hemf_export.raw_pixels import Resize
from tests.hemf.test_resampling import SHAPES, noise
from tests.hemf_export.conftest import Quiet

SIZE = SourceSize(40, 40)  # of the shared pictures


@dataclasses.dataclass(frozen=True)
class Whole:
    """A checkpoint, and files of each precision that take whole pictures."""

    checkpoint: Path
    full: Path
    half: Path
    int8: Path


@pytest.fixture(scope="module")
def whole(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    paths = Whole(*(folder / name for name in ("best.pt", "best.onnx", "best.fp16.onnx", "best.int8.onnx")))
    shutil.copy(trained.parent / "best.pt", paths.checkpoint)
    options = onnx_export.Options(input_type="uint8", source_size=SIZE, images=pictures)
    onnx_export.export(paths.checkpoint, paths.full, options)
    for target, kind in ((paths.half, "fp16"), (paths.int8, "int8")):
        precision.make(
            precision.Request(paths.full, kind, pictures, count=12, judges=12, method="max", output=target), Quiet()
        )
    return paths


def resized_in(path: Path) -> tuple[Session, str]:
    """What a file's graph computes of the resize, as a GPU would, and its name."""
    proto = onnx.load(path)
    precise = onnx_file.read(path)[1].precision == "fp32"
    model = prepare(proto) if precise else emulation.of_file(proto)
    name = [str(node.outputs[0].name) for node in ir.load(path).graph if block_of(str(node.name)) == RESIZE][-1]
    return Session(model, outputs=[name]), name


def levels(session: Session, pixels: np.ndarray) -> np.ndarray:
    return session.run(pixels)[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_resize_is_pillows_for_every_shape(shape, mode):
    preprocess = Preprocess.for_size(96, mode)
    pixels = noise(*shape)
    found = Resize(preprocess, SourceSize(*shape))(torch.from_numpy(pixels[None]))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(found.numpy(), preprocess.pixels(Image.fromarray(pixels)))


# Sums that lie halfway between two levels in whole lines, where rounding them otherwise would add up over both passes.
RATIOS = st.sampled_from([(1, 1), (2, 1), (3, 1), (6, 1), (3, 2), (1, 3), (7, 5), (12, 1), (40, 3)])


@given(RATIOS, RATIOS, st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_lines_that_are_rounded_alike_are_rounded_as_pillow_does(across, down, seed):
    height, width = (24 * ratio[0] // ratio[1] for ratio in (down, across))
    generator = np.random.default_rng(seed)
    sides = generator.integers(0, 128, (height, 1, 3)), generator.integers(0, 128, (1, width, 3))
    pixels = (sides[0] + sides[1]).astype(np.uint8)
    preprocess = Preprocess.for_size(24, "squash")
    found = Resize(preprocess, SourceSize(height, width))(torch.from_numpy(pixels[None]))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(found.numpy(), preprocess.pixels(Image.fromarray(pixels)))


@pytest.mark.parametrize("name", ["full", "half", "int8"])
def test_in_every_precision_the_pixels_are_pillows(whole, name):
    session, _ = resized_in(getattr(whole, name))
    preprocess = onnx_file.read(whole.full)[1].preprocess
    pixels = np.stack([noise(40, 40, seed) for seed in range(8)])
    expected = np.stack([preprocess.pixels(Image.fromarray(one)) for one in pixels])
    np.testing.assert_array_equal(levels(session, pixels), expected)
