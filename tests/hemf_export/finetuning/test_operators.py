"""Fake quantization: ONNX Runtime's numbers, and gradients that pass straight through."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from hemf_export.files.errors import BadInputError
from hemf_export.finetuning.operators import OPERATORS, dequantize, quantize, to_half


@pytest.mark.parametrize(("kind", "zero", "limits"), [("int8", 0, (-128.0, 127.0)), ("uint8", 7, (0.0, 255.0))])
def test_it_rounds_and_clips_as_onnx_runtime(kind, zero, limits):
    graph = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[n] x) => (float[n] y) <float s = {{0.25}}, {kind} z = {{{zero}}}>
        {{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }}""")
    values = np.concatenate([np.arange(-320, 320) / 8, [1e6, -1e6]]).astype(np.float32)  # halves among them
    expected = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": values})
    scale = torch.tensor(0.25)
    steps = quantize(torch.from_numpy(values), scale, zero, limits)
    np.testing.assert_array_equal(dequantize(steps, scale, zero).numpy(), expected[0])
    assert np.array_equal(steps.numpy(), steps.numpy().round())


def test_gradients_pass_straight_through_and_stop_where_values_are_clipped():
    values = torch.tensor([0.3, -0.26, 31.8, 32.5, -40.0], requires_grad=True)
    scale = torch.tensor(0.25)
    dequantize(quantize(values, scale, 0.0, (-128.0, 127.0)), scale, 0.0).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))


def test_float16_rounds_and_its_gradient_does_not_vanish():
    values = torch.tensor([0.1, 1e-9, 7e4], requires_grad=True)
    rounded = to_half(values)
    assert rounded.tolist() == [float(np.float16(0.1)), 0.0, float("inf")]
    (rounded[:2] * 1e-9).sum().backward()  # a gradient that float16 would make zero
    torch.testing.assert_close(values.grad, torch.tensor([1e-9, 1e-9, 0.0]))


@pytest.mark.parametrize("largest", [0, 1])
def test_the_best_are_those_of_onnx_runtime_with_equal_ones_in_its_order(largest):
    graph = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 6, 3] x) => (float[n, 4, 3] v, int64[n, 4, 3] i) <int64[1] k = {{4}}>
        {{ v, i = TopK<axis = 1, largest = {largest}>(x, k) }}""")
    x = np.random.default_rng(0).integers(0, 3, (5, 6, 3)).astype(np.float32)
    expected = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    found = OPERATORS["TopK"]([torch.from_numpy(x), torch.tensor([4])], {"axis": 1, "largest": largest})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


@pytest.mark.parametrize(("axis", "table", "places"), [(0, (6, 3, 2), (5, 1)), (1, (4, 6, 3), (4, 5, 1))])
def test_rows_are_taken_as_by_onnx_runtime(axis, table, places):
    sizes = [", ".join(map(str, shape)) for shape in (table, places, (*places[:-1], *table[axis + 1 :]))]
    graph = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[{sizes[0]}] x, int64[{sizes[1]}] i) => (float[{sizes[2]}] y)
        {{ y = GatherND<batch_dims = {axis}>(x, i) }}""")
    generator = np.random.default_rng(0)
    values, indices = generator.standard_normal(table).astype(np.float32), generator.integers(-6, 6, places)
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    given = torch.from_numpy(values).requires_grad_()
    found = OPERATORS["GatherND"]([given, torch.from_numpy(indices)], {"batch_dims": axis})
    np.testing.assert_array_equal(found.detach().numpy(), session.run(None, {"x": values, "i": indices})[0])
    found.sum().backward()
    assert float(given.grad.sum()) == found.numel()


def test_an_index_of_several_axes_is_refused():
    with pytest.raises(BadInputError, match="anything but rows"):
        OPERATORS["GatherND"]([torch.zeros(4, 6, 3), torch.zeros(5, 2, dtype=torch.int64)], {})
