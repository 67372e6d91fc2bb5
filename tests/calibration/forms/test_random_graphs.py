"""Small random networks that aren't ours: whatever a pass makes of them is a valid graph of the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemf_export.calibration.forms import PASSES
from tests.calibration.forms.blocks import MAPS_TO_PIXELS, PIXELS_TO_MAPS, Builder
from tests.calibration.forms.checks import assert_same, rewritten

TOLERANCE = 1e-4  # norms of nearly constant channels make more of float32's last digit
NAMES = tuple(step.name for step in PASSES)


class Network(Builder):
    """A builder that goes on from one map (N, C, H, W) to the next, and keeps those that it left behind.

    Args:
        draw: one of several choices.
        batch: of the images.
    """

    def __init__(self, draw, batch: int | str, seed: int) -> None:
        super().__init__("features.0", seed)
        self.draw, self.batch = draw, batch
        self.maps, self.channels, self.height, self.width = "x", draw([1, 3, 4]), draw([4, 6, 9]), draw([4, 7, 8])
        self.input = [batch, self.channels, self.height, self.width]
        self.outputs: dict[str, list[int | str]] = {}
        self.known: list[tuple[str, tuple[int, int, int]]] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def give(self, value: str, *shape: int) -> None:
        """Make a value an output of the graph, now and then."""
        if self.draw([False, False, True]) and value != "x":
            self.outputs[value] = [self.batch, *shape]

    def step(self) -> None:
        """One random layer."""
        before = self.shape
        self.known.append((self.maps, before))
        layers = (self.convolve, self.pool, self.activate, self.mlp, self.norm_maps, self.gate, self.add, self.join)
        self.draw([*layers, self.merge])()
        self.give(self.maps, *self.shape)

    def convolve(self) -> None:
        size, stride = self.draw([1, 2, 3, 5]), self.draw([1, 1, 2])
        pads = [self.draw([0, 1, 2]) for _ in range(4)]
        sizes = [
            (side + pads[i] + pads[i + 2] - size) // stride + 1 for i, side in enumerate((self.height, self.width))
        ]
        if min(sizes) < 1:
            return
        groups, given = self.draw([(1, 4), (1, self.channels), (self.channels, self.channels),
                                   (self.channels, 2 * self.channels)])  # fmt: skip
        weight = self.normal(given, self.channels // groups, size, size, scale=0.5)
        bias = [self.normal(given)] if self.draw([True, False]) else []
        self.maps = self.op("Conv", self.maps, weight, *bias, group=groups, strides=[stride] * 2, pads=pads)
        self.channels, self.height, self.width = given, *sizes

    def pool(self) -> None:
        kind, size, stride = self.draw(["AveragePool", "MaxPool"]), self.draw([1, 2, 3]), self.draw([1, 2])
        if min(self.height, self.width) < size:
            return
        more = {"ceil_mode": 0} if kind == "MaxPool" else {"count_include_pad": self.draw([0, 1])}
        self.maps = self.op(kind, self.maps, kernel_shape=[size] * 2, strides=[stride] * 2, **more)
        self.height, self.width = ((side - size) // stride + 1 for side in (self.height, self.width))

    def activate(self) -> None:
        self.maps = self.op(self.draw(["Relu", "Sigmoid", "Gelu", "Tanh", "LeakyRelu"]), self.maps)

    def pixels(self) -> str:
        return self.transpose(self.maps, *MAPS_TO_PIXELS)

    def mlp(self) -> None:
        """Products on rows, with or without norm, residual and whoever else reads them."""
        pixels, channels = self.pixels(), self.channels
        if self.draw([True, False]):
            pixels = self.norm(pixels, channels)
            self.give(pixels, self.height, self.width, channels)
        rows = self.reshape(pixels, -1, channels)
        given = self.draw([channels, 2, 6])
        hidden = self.op("Gelu", self.linear(rows, channels, 5)) if self.draw([True, False]) else rows
        out = self.linear(hidden, 5 if hidden != rows else channels, given)
        if self.draw([True, False]):
            out = self.op(self.draw(["Mul", "Add"]), out, self.draw([self.normal(given), self.normal(1, given)]))
        if given == channels and self.draw([True, False]):
            out = self.op("Add", self.draw([rows, self.op("Relu", rows)]), out)
        if self.draw([True, False]):
            out = self.op("Concat", out, rows, axis=1)
            given += channels
        self.channels = given
        height, width = self.draw([(self.height, self.width), (self.width, self.height)])
        self.height, self.width = height, width
        first = self.draw([-1, -1, self.batch]) if isinstance(self.batch, int) else -1
        pixels = self.reshape(out, first, height, width, given)
        self.give(pixels, height, width, given)
        self.maps = self.transpose(pixels, *PIXELS_TO_MAPS)

    def norm_maps(self) -> None:
        made = self.norm(self.pixels(), self.channels, 1e-3)
        if self.draw([True, False]):
            made = self.op("Mul", made, self.op("Sigmoid", made))
        self.maps = self.transpose(made, *PIXELS_TO_MAPS)

    def gate(self) -> None:
        """One number a channel, broadcast over the pixels."""
        pixels = self.op("Relu", self.pixels())
        mean = self.op("ReduceMean", pixels, np.array([1, 2], np.int64), keepdims=1)
        product = self.op("Mul", pixels, self.op("Sigmoid", mean))
        rows = self.linear(self.reshape(product, -1, self.channels), self.channels, self.channels)
        pixels = self.reshape(rows, -1, self.height, self.width, self.channels)
        self.maps = self.transpose(pixels, *PIXELS_TO_MAPS)

    def add(self) -> None:
        """An earlier map of this shape, or the same map again."""
        alike = [value for value, shape in self.known if shape == self.shape]
        self.maps = self.op("Add", self.maps, self.draw(alike))

    def join(self) -> None:
        others = [(value, shape) for value, shape in self.known if shape[1:] == self.shape[1:]]
        other, (channels, _, _) = self.draw(others)
        self.maps, self.channels = self.op("Concat", self.maps, other, axis=1), self.channels + channels

    def merge(self) -> None:
        """Patches of 2×2 pixels."""
        if self.height % 2 or self.width % 2:
            return
        rows, columns, channels = self.height // 2, self.width // 2, self.channels
        pieces = self.reshape(self.pixels(), -1, rows, 2, columns, 2 * channels)
        patches = self.reshape(self.transpose(pieces, 0, 1, 3, 2, 4), -1, 4 * channels)
        out = self.reshape(self.linear(patches, 4 * channels, 4), -1, rows, columns, 4)
        self.maps = self.transpose(out, *PIXELS_TO_MAPS)
        self.channels, self.height, self.width = 4, rows, columns


@st.composite
def networks(draw) -> onnx.ModelProto:
    made = Network(lambda choices: choices[draw(st.integers(0, len(choices) - 1))], draw(st.sampled_from(["n", 1, 2])),
                   draw(st.integers(0, 1000)))  # fmt: skip
    for _ in range(draw(st.integers(1, 6))):
        made.step()
    made.outputs[made.maps] = [made.batch, *made.shape]
    return made.model({"x": made.input}, made.outputs, draw(st.sampled_from([20, 21, 23])))


@pytest.mark.extended
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plain=networks())
def test_all_passes_together(plain):
    for form in ("tensorrt", "tensorrt-rtx"):
        made, _ = rewritten(plain, form=form)
        assert_same(plain, made, (1, 3), TOLERANCE)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plain=networks(), name=st.sampled_from(["maps", "patches", "depthwise", "norms"]))
def test_a_pass_alone(plain, name):
    made, _ = rewritten(plain, name)
    assert_same(plain, made, (1, 3), TOLERANCE)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(plain=networks(), names=st.sets(st.sampled_from(NAMES)))
def test_many_and_any_passes(plain, names):
    made, _ = rewritten(plain, *names)
    assert_same(plain, made, (1, 2), TOLERANCE)
