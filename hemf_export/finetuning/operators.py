"""ONNX's operators in PyTorch: those that the graphs of all backends use, and rounding that gradients pass through.

An operator takes its inputs and attributes and returns its output; only Split and TopK return several. Integer
constants (shapes, axes) are on the CPU.

Rounding to INT8 or float16 has no useful gradient, so the gradient is passed through unchanged (the straight-through
estimator: Bengio et al. 2013, arXiv 1308.3432; in quantization-aware training: Jacob et al. 2018, arXiv 1712.05877).
Clipped values get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hemf_export.files.errors import BadInputError

Inputs = Sequence[Tensor | None]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Tensor | tuple[Tensor, ...]]


def _present(inputs: Inputs, index: int) -> Tensor:
    value = inputs[index]
    assert value is not None, "the graph is valid"
    return value


def _optional(inputs: Inputs, index: int) -> Tensor | None:
    return inputs[index] if len(inputs) > index else None


def _integers(value: Tensor) -> list[int]:
    return [int(item) for item in value.reshape(-1).tolist()]


def _axes(inputs: Inputs, attributes: Attributes) -> list[int]:
    """Axes from the second input, or from the attribute of older opsets; all axes if none are given."""
    given = _optional(inputs, 1)
    axes = list(attributes.get("axes", ())) if given is None else _integers(given)
    return axes or list(range(_present(inputs, 0).ndim))


def _reduce(reduction: Callable[..., Tensor]) -> Operator:
    def apply(inputs: Inputs, attributes: Attributes) -> Tensor:
        keep = bool(attributes.get("keepdims", 1))
        return reduction(_present(inputs, 0), _axes(inputs, attributes), keepdim=keep)

    return apply


def _pads(attributes: Attributes) -> tuple[int, int]:
    """Padding in rows and columns on each side.

    Raises:
        BadInputError: the padding is not symmetric, or computed by the runtime.
    """
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right) or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise BadInputError("Padding that differs from side to side can't be fine-tuned.")
    return top, left


def _convolution(inputs: Inputs, attributes: Attributes) -> Tensor:
    return F.conv2d(
        _present(inputs, 0),
        _present(inputs, 1),
        _optional(inputs, 2),
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=_pads(attributes),
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=attributes.get("group", 1),
    )


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    return F.avg_pool2d(
        _present(inputs, 0),
        tuple(attributes["kernel_shape"]),
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=_pads(attributes),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    first, second, bias = _present(inputs, 0), _present(inputs, 1), _optional(inputs, 2)
    first = first.T if attributes.get("transA", 0) else first
    second = second.T if attributes.get("transB", 0) else second
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if bias is None:
        return first @ second if alpha == 1 else alpha * (first @ second)
    return torch.addmm(bias, first, second, beta=beta, alpha=alpha)


def _layer_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    value = _present(inputs, 0)
    shape = value.shape[attributes.get("axis", -1) % value.ndim :]
    return F.layer_norm(value, shape, _present(inputs, 1), _optional(inputs, 2), attributes.get("epsilon", 1e-5))


def _reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    value, shape = _present(inputs, 0), _integers(_present(inputs, 1))
    if not attributes.get("allowzero", 0):
        shape = [size or value.shape[axis] for axis, size in enumerate(shape)]
    return value.reshape(shape)


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    value, axes = _present(inputs, 0), _axes(inputs, attributes)
    for axis in sorted(axis % (value.ndim + len(axes)) for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    return _present(inputs, 0).squeeze(tuple(_axes(inputs, attributes)))


def _concat(inputs: Inputs, attributes: Attributes) -> Tensor:
    return torch.cat([_present(inputs, index) for index in range(len(inputs))], attributes["axis"])


def _slice(inputs: Inputs, attributes: Attributes) -> Tensor:
    """Slice along some axes; ends beyond the last element are clamped, as in Python.

    Raises:
        BadInputError: a step is negative, which torch does not support.
    """
    value = _present(inputs, 0)
    starts, ends = (_integers(_present(inputs, index)) for index in (1, 2))
    axes, steps = (_optional(inputs, index) for index in (3, 4))
    places = list(range(len(starts))) if axes is None else _integers(axes)
    strides = [1] * len(starts) if steps is None else _integers(steps)
    if min(strides, default=1) < 1:
        raise BadInputError("A Slice that runs backwards can't be fine-tuned.")
    cuts = [slice(None)] * value.ndim
    for axis, start, end, stride in zip(places, starts, ends, strides, strict=True):
        cuts[axis] = slice(start, end, stride)
    return value[tuple(cuts)]


def _pad(inputs: Inputs, attributes: Attributes) -> Tensor:
    """Pad with a constant.

    Raises:
        BadInputError: the padding mode is another one.
    """
    value, pads = _present(inputs, 0), _integers(_present(inputs, 1))
    if attributes.get("mode", "constant") != "constant":
        raise BadInputError(f"Padding of mode {attributes['mode']} can't be fine-tuned.")
    axes, filling = _optional(inputs, 3), _optional(inputs, 2)
    places = range(value.ndim) if axes is None else [axis % value.ndim for axis in _integers(axes)]
    around = [(0, 0)] * value.ndim
    for axis, before, behind in zip(places, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
        around[axis] = (before, behind)
    last_first = [size for pair in reversed(around) for size in pair]
    return F.pad(value, last_first, value=0.0 if filling is None else float(filling))


def _split(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    value, sizes, axis = _present(inputs, 0), _optional(inputs, 1), attributes.get("axis", 0)
    if sizes is not None:
        return torch.split(value, _integers(sizes), axis)
    return torch.split(value, -(-value.shape[axis] // attributes["num_outputs"]), axis)


def _top_k(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, Tensor]:
    """Return the largest or smallest values along an axis and their indices; of equal ones the lower index is first."""
    axis, (count,) = attributes.get("axis", -1), _integers(_present(inputs, 1))
    largest = bool(attributes.get("largest", 1))
    values, indices = _present(inputs, 0).sort(dim=axis, stable=True, descending=largest)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _gather_nd(inputs: Inputs, attributes: Attributes) -> Tensor:
    """Take whole rows, (…, R, X…) by (…, S, 1) → (…, S, X…), where `batch_dims` axes come first.

    Raises:
        BadInputError: an index of several axes.
    """
    table, places = _present(inputs, 0), _present(inputs, 1)
    axis = attributes.get("batch_dims", 0)
    if places.shape[-1] != 1 or places.ndim != axis + 2:
        raise BadInputError("A GatherND that takes anything but rows can't be fine-tuned.")
    batch, rows = table.shape[:axis], table.shape[axis]
    places = places.to(table.device).reshape(*batch, -1) % rows  # a negative index counts from the end
    first = torch.arange(0, batch.numel() * rows, rows, device=table.device).reshape(*batch, 1)
    taken = table.flatten(0, axis).index_select(0, (places + first).flatten())
    return taken.reshape(*batch, -1, *table.shape[axis + 1 :])


def _arithmetic(function: Callable[..., Tensor]) -> Operator:
    """Make an operator of two values; a constant of integers follows the computed indices to their device."""

    def apply(inputs: Inputs, attributes: Attributes) -> Tensor:
        first, second = _present(inputs, 0), _present(inputs, 1)
        device = second.device if first.device.type == "cpu" else first.device
        return function(first.to(device), second.to(device))

    return apply


def _elementwise(function: Callable[..., Tensor], count: int) -> Operator:
    return lambda inputs, attributes: function(*(_present(inputs, index) for index in range(count)))


OPERATORS: dict[str, Operator] = {
    "Add": _arithmetic(torch.add),
    "AveragePool": _average_pool,
    "Cast": _elementwise(lambda value: value, 1),  # between float32 and float16: GraphNetwork does the rounding
    "Concat": _concat,
    "Conv": _convolution,
    "Div": _elementwise(torch.div, 2),
    "Flatten": lambda inputs, attributes: _present(inputs, 0).flatten(attributes.get("axis", 1)),
    "GatherND": _gather_nd,
    "Gelu": lambda inputs, attributes: F.gelu(
        _present(inputs, 0), approximate="tanh" if attributes.get("approximate", "none") == "tanh" else "none"
    ),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda inputs, attributes: _present(inputs, 0).mean((2, 3), keepdim=True),
    "Identity": _elementwise(lambda value: value, 1),
    "LayerNormalization": _layer_norm,
    "MatMul": _elementwise(torch.matmul, 2),
    "Mul": _arithmetic(torch.mul),
    "Pad": _pad,
    "Reciprocal": _elementwise(torch.reciprocal, 1),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _elementwise(torch.relu, 1),
    "Reshape": _reshape,
    "Sigmoid": _elementwise(torch.sigmoid, 1),
    "Slice": _slice,
    "Softmax": lambda inputs, attributes: _present(inputs, 0).softmax(attributes.get("axis", -1)),
    "Split": _split,
    "Sqrt": _elementwise(torch.sqrt, 1),
    "Squeeze": _squeeze,
    "Sub": _arithmetic(torch.sub),
    "Tanh": _elementwise(torch.tanh, 1),
    "TopK": _top_k,
    "Transpose": lambda inputs, attributes: _present(inputs, 0).permute(
        *attributes.get("perm", range(_present(inputs, 0).ndim)[::-1])
    ),
    "Unsqueeze": _unsqueeze,
}


class _Round(torch.autograd.Function):
    """Round to the nearest integer, halves to even, as QuantizeLinear does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Half(torch.autograd.Function):
    """Round to the nearest float16. The gradient of a cast would be float16 too, and underflow."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.half().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def quantize(values: Tensor, scale: Tensor, zero: Tensor | float, limits: tuple[float, float]) -> Tensor:
    """Quantize: round(values / scale) + zero, clipped to `limits`, as integers in float32.

    Args:
        values: of any shape.
        scale: quantization scale; broadcast.
        zero: zero point; broadcast.
        limits: smallest and largest quantized value.
    """
    steps: Tensor = _Round.apply(values / scale)  # type: ignore[no-untyped-call]
    return (steps + zero).clamp(*limits)


def dequantize(steps: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
    """Dequantize: (steps - zero) · scale."""
    return (steps - zero) * scale


def to_half(values: Tensor) -> Tensor:
    """Round to float16, in float32; values beyond its range become infinite."""
    rounded: Tensor = _Half.apply(values)  # type: ignore[no-untyped-call]
    return rounded
