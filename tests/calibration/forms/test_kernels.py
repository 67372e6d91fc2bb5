"""What each pass is worth, by the kernels that the real TensorRT-RTX compiles for a T4, without a GPU."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration import forms
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import parse
from hemf_export.engines import build, targets
from hemf_export.engines.census import Census
from tests.calibration.forms import blocks
from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

C, H, W = 96, 28, 28
SHAPE = [1, C, H, W]


def compiled(plain: onnx.ModelProto, *passes: str) -> Census:
    """The kernels of a graph in float16, after some passes or none."""
    model = parse(plain)
    if passes:
        assert set(forms.rewrite(model, "tensorrt-rtx", only=passes).places) == set(passes)
    to_float16(model)
    return build.take_census(ir.serde.serialize_model(model).SerializeToString(), targets.find("t4"))


def moved(found: Census) -> int:
    assert found.moved_bytes is not None
    return found.moved_bytes


def depthwise(size: int, activation: str) -> onnx.ModelProto:
    """A product, a depthwise convolution with what follows it, and a product."""
    b = Builder()
    maps = b.op("Relu", b.op("Conv", "x", b.normal(C, C, 1, 1, scale=0.1), b.normal(C)))
    maps = b.op("Conv", maps, b.normal(C, 1, size, size, scale=0.2), b.normal(C), group=C, pads=[size // 2] * 4)
    maps = b.op(activation, maps)
    maps = b.op("Conv", maps, b.normal(C, C, 1, 1, scale=0.1), b.normal(C))
    return b.model({"x": SHAPE}, {maps: SHAPE})


def mlp() -> onnx.ModelProto:
    """Convolution, MLP on rows with its residual, and convolution."""
    b = Builder()
    maps = b.op("Conv", "x", b.normal(C, C, 3, 3, scale=0.05), b.normal(C), pads=[1, 1, 1, 1])
    rows = b.reshape(b.transpose(maps, *MAPS_TO_PIXELS), -1, C)
    out = b.op("Add", rows, b.linear(b.op("Gelu", b.linear(rows, C, 2 * C)), 2 * C, C))
    maps = b.transpose(b.reshape(out, -1, H, W, C), *PIXELS_TO_MAPS)
    maps = b.op("Conv", maps, b.normal(C, C, 3, 3, scale=0.05), b.normal(C), pads=[1, 1, 1, 1])
    return b.model({"x": SHAPE}, {maps: SHAPE})


def fusion() -> onnx.ModelProto:
    """Both attentions with their gates, between products: norms that more than a product reads."""
    b = Builder("fusion_stages.0.local_attention")
    maps = b.op("Conv", "x", b.normal(C, C, 1, 1, scale=0.1), b.normal(C))
    gated = []
    for branch in ("local", "global"):
        b.scope = f"fusion_stages.0.{branch}_attention"
        own = b.op("Conv", maps, b.normal(C, C, 1, 1, scale=0.1), b.normal(C))
        pixels = blocks.external_attention(
            b, own, heads=8, channels=C // 8, height=H, width=W, slots=64, spread=1.0, change=""
        )
        gated.append(blocks.write_gates(b, pixels, channels=C, change=""))
    joined = b.op("Concat", *gated, maps, axis=1)
    return b.model({"x": SHAPE}, {b.op("Conv", joined, b.normal(C, 3 * C, 1, 1, scale=0.1), b.normal(C)): SHAPE})


def patches() -> onnx.ModelProto:
    """A convolution whose map is cut into patches of 2×2."""
    b = Builder()
    maps = b.op("Relu", b.op("Conv", "x", b.normal(C, C, 3, 3, scale=0.05), b.normal(C), pads=[1, 1, 1, 1]))
    pieces = b.reshape(b.transpose(maps, *MAPS_TO_PIXELS), -1, H // 2, 2, W // 2, 2 * C)
    rows = b.linear(b.reshape(b.transpose(pieces, 0, 1, 3, 2, 4), -1, 4 * C), 4 * C, C)
    return b.model({"x": SHAPE}, {b.norm(rows, C): [H * W // 4, C]})


@pytest.mark.parametrize(("size", "activation"), [(3, "Relu"), (5, "Gelu"), (7, "Gelu")])
def test_depthwise_convolutions(size, activation):
    """One kernel, with what follows it, that moves each map once: no channels of zeros, no shifted maps in memory."""
    graph = depthwise(size, activation)
    plain, form = compiled(graph), compiled(graph, "depthwise")
    assert form.launches < plain.launches
    assert moved(form) < 0.4 * moved(plain)


def test_retention():
    plain = blocks.retention(heads=8, channels=12, height=28, width=28, batch=1)
    before, after = compiled(plain), compiled(plain, "retention")
    assert after.launches < before.launches
    assert after.fused_attentions == 2, "of rows, and of columns"


def test_mixed_attention():
    plain = blocks.mixed_attention(heads=8, channels=12, height=28, width=28, slots=(64, 64), batch=1, joined_up=True)
    before, after = compiled(plain), compiled(plain, "mixed-attention")
    assert before.fused_attentions == 0
    assert after.fused_attentions == 1, "both of the block at once"
    assert after.launches < before.launches
    assert moved(after) < moved(before)


def test_products_on_maps():
    plain, form = compiled(mlp()), compiled(mlp(), "maps")
    assert form.launches < plain.launches
    assert moved(form) < moved(plain)


def test_patches_cost_nothing():
    """In a whole network they are a kernel less; here the compiler finds the one turn by itself."""
    plain, form = compiled(patches()), compiled(patches(), "patches")
    assert form.launches <= plain.launches
    assert moved(form) <= moved(plain)


def test_norms():
    """What the halves of a norm share is two numbers a pixel, no longer its widened input."""
    plain, form = (compiled(fusion(), "mixed-attention", *more) for more in ((), ("norms",)))
    assert form.launches <= plain.launches
    assert moved(form) < moved(plain)
