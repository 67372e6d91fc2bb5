"""The kernels that a builder compiled, parsed from its verbose log or from the engine inspector's JSON.

With the profiling verbosity DETAILED, TensorRT-RTX and TensorRT 10 and later end a verbose build with a line `Layers:`
and a line for each layer: name, kind, inputs, constants, outputs with shapes, strides and types, tactic, stream, and
the ONNX nodes that it came from. The inspector of a deserialized engine has the same in JSON, but needs a GPU.

NVIDIA documents neither list and may change them. So what isn't recognized is left out, and never an error: a caller
sees an empty list, or kernels whose shapes are unknown. Time is linear in the length of the log, and memory
in the number of layers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

UNKNOWN = "unknown"
TYPE_TITLES = {"fp16": "half", "fp32": "float32", "bf16": "bfloat16", "int8": "INT8"}
# The first that matches a spelling counts: "Half", "Row major linear FP32", "… row major Int8 format".
_DTYPES = (
    ("bf16", re.compile(r"\b(bfloat16|bf16)\b")),
    ("fp8", re.compile(r"\b(fp8|float8)\w*")),
    ("fp4", re.compile(r"\b(fp4|float4)\w*")),
    ("fp16", re.compile(r"\b(half|fp16|float16)\b")),
    ("fp32", re.compile(r"\b(float|fp32|float32)\b")),
    ("int8", re.compile(r"\bint8\b")),
    ("uint8", re.compile(r"\buint8\b")),
    ("int4", re.compile(r"\bint4\b")),
    ("int32", re.compile(r"\bint32\b")),
    ("int64", re.compile(r"\bint64\b")),
    ("bool", re.compile(r"\bbool\b")),
)
_BITS = {
    "bf16": 16, "fp8": 8, "fp4": 4, "fp16": 16, "fp32": 32, "int8": 8, "uint8": 8, "int4": 4, "int32": 32, "int64": 64,
    "bool": 8,
}  # fmt: skip
_WIDTHS = ("fp4", "int4", "int8", "fp8", "fp16", "bf16", "fp32")  # what a product may compute in, narrowest first
# Events between streams and work of the host: no kernel is launched for them.
_NO_KERNELS = frozenset(("signal", "wait", "shape_call", "noop", "constant", "shapehosttodevice", "devicetoshapehost"))
_PRODUCT_KINDS = re.compile(r"gemm|correlation|conv|matrix_?multiply|matmul|fully_?connected")
# Generated and fused kernels are named for what they do: `__myl_FcAddRelu_myl0_565`.
_PRODUCTS_IN_NAMES = re.compile(r"^_+myl_(?:[A-Z][a-z0-9]*)*?(?:Fc|Corr|Bmm|Gemm|Conv|Dot)(?=[A-Z_])")
_ATTENTION = re.compile(r"_f?mha|fused_?attention|flash_?attention", re.IGNORECASE)
# Weights that TensorRT 10 lists among the inputs.
_CONSTANT_NAME = re.compile(r"(_d?const|constant(Float|Half|BFloat16|Int8|Int32|Int64|Bool|FP8))(_myl\d+)?$")
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f ]*(?:\[ONNX Layer: |$))")
_PROFILE = re.compile(r" \[profile (\d{1,4})\]")
_COMPILED = re.compile(r"_(myl\d+)_\d+$")
_LIST, _KIND = "Layers:", ", LayerType: "  # the line before a list, and what is in each of its lines
_LONGEST_LINE = 1 << 20  # characters; a layer with a thousand tensors takes a fifth of that
_LEAST_RANK = 2  # of an operand of a product


@dataclass(frozen=True)
class Tensor:
    """A tensor that a kernel reads or writes.

    Args:
        name: of its buffer; several tensors of a name are views of one buffer.
        shape: as the kernel sees it; -1 for a size that depends on the batch.
        strides: in elements; empty where the list has none.
        dtype: fp32, fp16, bf16, fp8, int8, uint8, int4, int32, int64, bool, or "unknown".
        format: in the builder's words.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dtype: str = UNKNOWN
    format: str = ""

    @property
    def elements(self) -> int | None:
        """Number of elements; those that a stride of 0 repeats count once. None where the batch is unknown."""
        if any(size < 0 for size in self.shape):
            return None
        strides = self.strides if len(self.strides) == len(self.shape) else (1,) * len(self.shape)
        return math.prod(size for size, stride in zip(self.shape, strides, strict=True) if stride)

    @property
    def bytes(self) -> int | None:
        """Size in memory; None where the shape or type isn't known."""
        elements = self.elements
        if elements is None or self.dtype not in _BITS:
            return None
        return math.ceil(elements * _BITS[self.dtype] / 8)


@dataclass(frozen=True)
class Kernel:
    """One launch on the GPU.

    Args:
        name: the builder's.
        kind: the builder's layer type: kgen, gemm, correlation, runtime_fusion, CaskConvolution ….
        inputs: activations.
        constants: weights, tables, scalars.
        outputs: activations.
        tactic: name of the tactic, where the builder gives one.
        stream: index of the stream that it is launched on.
        onnx_nodes: names of the ONNX nodes that it computes.
        profile: index of the optimization profile that it is compiled for; each has its own kernels.
        block: of the network; None where it isn't known (see `engines.census`).
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...] = ()
    constants: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    tactic: str = ""
    stream: int = 0
    onnx_nodes: tuple[str, ...] = ()
    profile: int = 0
    block: str | None = None

    @property
    def is_fused_attention(self) -> bool:
        """Whether it does a whole attention: two products and the softmax between them, without a trip to memory."""
        return bool(_ATTENTION.search(self.name) or _ATTENTION.search(self.tactic))

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves; `MulSum`, an elementwise product and a sum, doesn't count."""
        if self.is_fused_attention or _PRODUCTS_IN_NAMES.match(self.name):
            return True
        return bool(_PRODUCT_KINDS.search(self.kind.lower()))

    @property
    def product_type(self) -> str | None:
        """The type that a product multiplies in: the wider of its operands' types. None for every other kernel."""
        if not self.is_product:
            return None
        types = [tensor.dtype for tensor in self.operands() if tensor.dtype in _WIDTHS]
        return max(types, key=_WIDTHS.index, default=UNKNOWN)

    def operands(self) -> tuple[Tensor, ...]:
        """The operands of a product: activations and weights, or two activations; empty where none are recognized."""
        if not self.is_product:
            return ()
        if self.is_fused_attention:
            return tuple(tensor for tensor in self.inputs if len(tensor.shape) >= _LEAST_RANK)[:2]
        matrices = [tensor for tensor in (*self.inputs, *self.constants) if len(tensor.shape) >= _LEAST_RANK]
        if self._is_convolution:
            return self._convolved(matrices)
        pairs = [
            (first, second)
            for first in matrices
            for second in matrices
            if first is not second and self._multiplies(first, second)
        ]
        # An added second activation may fit by chance: the pair with the longer inner dimension is the product.
        return max(pairs, key=lambda pair: pair[0].shape[-1], default=tuple(matrices[:2]))

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of a product; 0 for every other kernel, and None where shapes are unknown."""
        if not self.is_product:
            return 0
        operands = self.operands()
        written = self.outputs[0].elements if self.outputs else None
        if len(operands) < _LEAST_RANK or written is None:
            return None
        first, second = operands
        if first.elements is None or second.elements is None:
            return None
        if self.is_fused_attention:
            keys = second.shape[-1] if second.shape[-2] == first.shape[-1] else second.shape[-2]
            return (first.elements + written) * keys
        if self._is_convolution:
            return written * math.prod(second.shape[1:])
        if first.shape[-1] != second.shape[-2]:
            return None
        return written * first.shape[-1]

    @property
    def activation_bytes(self) -> int | None:
        """Bytes of activations, read and written; None where a shape is unknown."""
        return _sum([*_buffers(self.inputs), *_buffers(self.outputs)])

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of constants that are read."""
        return _sum(_buffers(self.constants))

    @property
    def _is_convolution(self) -> bool:
        return bool(re.search(r"correlation|conv", self.kind.lower())) or bool(
            re.match(r"^_+myl_(?:[A-Z][a-z0-9]*)*?(?:Corr|Conv)(?=[A-Z_])", self.name)
        )

    def _convolved(self, matrices: list[Tensor]) -> tuple[Tensor, ...]:
        """The activation and the filters (M, C / groups, …); filters that are computed at run time are inputs."""
        maps = self.outputs[0].shape[1] if self.outputs and len(self.outputs[0].shape) >= _LEAST_RANK else None
        others = [tensor for tensor in matrices if tensor is not matrices[0]]
        fitting = [tensor for tensor in others if tensor.shape[0] == maps]
        fixed = [tensor for tensor in fitting or others if tensor in self.constants]
        filters = max(fixed or fitting or others, key=_size, default=None)
        return tuple(tensor for tensor in (*matrices[:1], filters) if tensor is not None)

    def _multiplies(self, first: Tensor, second: Tensor) -> bool:
        """Whether `first` (…, M, K) times `second` (…, K, N) has as many numbers as this kernel writes."""
        if first.shape[-1] != second.shape[-2]:
            return False
        written = self.outputs[0] if self.outputs else None
        if written is None or written.elements is None or first.elements is None or second.elements is None:
            return written is None or not written.shape or second.shape[-1] == written.shape[-1]
        batch = max(math.prod(first.shape[:-2]), math.prod(second.shape[:-2]))  # one of them may serve all
        return batch * first.shape[-2] * second.shape[-1] == written.elements


def may_list(text: str) -> bool:
    """Whether `parse` may find kernels in a text of one or more lines; a quick test."""
    return _KIND in text or _LIST in text


def parse(lines: Iterable[str]) -> list[Kernel]:
    """Read the kernels from a builder's verbose log.

    Args:
        lines: of the log, with or without prefixes. Where the log has several lists, as of several builds, the last
            counts.

    Returns:
        In launch order; without events between streams. Empty where no line is recognized.
    """
    complete: list[Kernel] = []
    fresh: list[Kernel] = []
    for line in lines:
        if line.rstrip().endswith(_LIST):
            complete, fresh = fresh or complete, []
        elif _KIND in line and len(line) <= _LONGEST_LINE:
            kernel = _line(line)
            if kernel is not None:
                fresh.append(kernel)
    return _with_profiles(fresh or complete)


def parse_json(text: str) -> list[Kernel]:
    """Read the kernels from the engine inspector's JSON; without detailed profiling verbosity there are none."""
    try:
        entries = json.loads(text).get("Layers")
    except (ValueError, AttributeError, RecursionError):
        return []
    if not isinstance(entries, list):
        return []
    kernels = [_entry(entry) for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("Name"), str)]
    return _with_profiles([kernel for kernel in kernels if kernel is not None])


def _with_profiles(kernels: list[Kernel]) -> list[Kernel]:
    """Set each kernel's profile. Not all names hold it: kernels that were compiled together share it."""
    profiles: dict[str, int] = {}
    for kernel in kernels:
        names = (kernel.name, *(tensor.name for tensor in (*kernel.inputs, *kernel.outputs)))
        if match := next((match for name in names if (match := _PROFILE.search(name))), None):
            profiles.setdefault(_group(kernel), int(match[1]))
    return [
        kernel if not profiles.get(_group(kernel)) else replace(kernel, profile=profiles[_group(kernel)])
        for kernel in kernels
    ]


def _group(kernel: Kernel) -> str:
    """Return the number that kernels compiled together share in their names (`…_myl1_0`), or else the whole name."""
    match = _COMPILED.search(kernel.name)
    return match[1] if match else kernel.name


def _line(line: str) -> Kernel | None:
    """`Name: …, LayerType: …, Inputs: [ … ], Constants: [ … ], Outputs: [ … ], TacticName: …, StreamId: …, …`"""
    head, _, rest = line.rstrip("\r\n").partition(_KIND)
    name = head.partition("Name: ")[2]
    kind, separator, rest = rest.partition(", Inputs: ")
    if not name or not separator or not re.fullmatch(r"\w+", kind):
        return None
    read, separator, rest = rest.partition(", Outputs: ")
    if not separator:  # a line that was cut
        return None
    inputs, _, constants = read.partition(", Constants: ")
    outputs, _, rest = _cut(rest)
    return _kernel(
        name, kind, _listed(inputs), _listed(constants), _listed(outputs),
        weights=_weights(rest, r"Weights: (\{[^{}]*\})", r"OutMaps: (\d+)"),
        tactic=_value(rest, "TacticName: "), stream=_value(rest, "StreamId: "),
        metadata=rest.partition("Metadata: ")[2],
    )  # fmt: skip


def _cut(text: str) -> tuple[str, str, str]:
    """Split after the outputs: the keys that follow have another order in each version."""
    if text.startswith("[]"):
        return "", "[]", text[2:]
    return text.partition("}],")


def _entry(entry: Mapping[str, Any]) -> Kernel | None:
    weights = entry.get("Weights")
    return _kernel(
        str(entry["Name"]), str(entry.get("LayerType", UNKNOWN)),
        *(_objects(entry.get(key)) for key in ("Inputs", "Constants", "Outputs")),
        weights=_filters(weights if isinstance(weights, Mapping) else {}, entry.get("OutMaps")),
        tactic=str(entry.get("TacticName", "")), stream=str(entry.get("StreamId", "")),
        metadata=str(entry.get("Metadata", "")),
    )  # fmt: skip


def _kernel(
    name: str, kind: str, inputs: list[Tensor], constants: list[Tensor], outputs: list[Tensor], *,
    weights: Tensor | None, tactic: str, stream: str, metadata: str,
) -> Kernel | None:  # fmt: skip
    if kind.lower() in _NO_KERNELS:
        return None
    activations = [tensor for tensor in inputs if not _CONSTANT_NAME.search(tensor.name)]
    constants = [*constants, *(tensor for tensor in inputs if _CONSTANT_NAME.search(tensor.name))]
    if weights is not None:
        constants.append(weights)
    nodes = tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))
    number = int(stream) if stream.isdecimal() and len(stream) < 6 else 0
    return Kernel(name, kind, tuple(activations), tuple(constants), tuple(outputs), tactic, number, nodes)


def _listed(text: str) -> list[Tensor]:
    """`[ { Name: a, Dimensions: [1,8], …, Datatype: Half, Format: … }, { … }]`"""
    tensors = []
    for piece in text.split("{ Name: ")[1:]:
        name, sized, rest = piece.partition(", Dimensions: [")
        name = name.partition(", Location: ")[0]
        sizes, _, rest = rest.partition("]")
        rest = rest.rpartition(" }")[0] or rest
        strides = rest.partition(" Strides: [")[2].partition("]")[0]
        spelling, _, form = rest.partition("Datatype: ")[2].partition(", Format: ")
        tensors.append(_tensor(name, sizes.split(",") if sized else None, strides.split(","), spelling, form))
    return tensors


def _objects(entries: Any) -> list[Tensor]:
    tensors = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping):
            spelling = entry.get("Datatype") or entry.get("Format/Datatype") or ""
            sizes, strides = entry.get("Dimensions"), entry.get("Strides")
            tensors.append(_tensor(
                str(entry.get("Name", "")), sizes if isinstance(sizes, list) else None,
                strides if isinstance(strides, list) else [], str(spelling), str(entry.get("Format", "")),
            ))  # fmt: skip
    return tensors


def dtype_of(text: str) -> str:
    """The type that TensorRT's spelling names: "Half" is fp16; "unknown" where it isn't recognized."""
    low = text.lower()
    return next((dtype for dtype, pattern in _DTYPES if pattern.search(low)), UNKNOWN)


def _tensor(name: str, sizes: list[Any] | None, strides: list[Any], spelling: str, form: str) -> Tensor:
    dtype = dtype_of(spelling)
    shape = (-1,) if sizes is None else _numbers(sizes)
    return Tensor(name, shape, _numbers(strides), dtype, form or ("" if spelling.isalnum() else spelling))


def _numbers(values: list[Any]) -> tuple[int, ...]:
    """Sizes as integers; -1, unknown, for what is no integer or impossibly large."""
    numbers = []
    for value in values:
        text = str(value).strip()
        if text:
            number = int(text) if re.fullmatch(r"-?\d{1,15}", text) else -1
            numbers.append(number)
    return tuple(numbers)


def _weights(text: str, weights: str, maps: str) -> Tensor | None:
    match, count = re.search(weights, text), re.search(maps, text)
    try:
        described = json.loads(match[1]) if match else {}
    except ValueError:
        return None
    return _filters(described, count[1] if count else None)


def _filters(described: Mapping[str, Any], maps: Any) -> Tensor | None:
    """A layer's weights from their count and type, as a matrix with one row per output channel."""
    count, rows = str(described.get("Count", "")), str(maps)
    if not (count.isdecimal() and rows.isdecimal()) or not int(rows) or not int(count):
        return None
    shape = [int(rows), int(count) // int(rows)]
    return _tensor("weights", list(shape), [], str(described.get("Type", "")), "")


def _value(text: str, key: str) -> str:
    return text.partition(key)[2].partition(",")[0].strip()


def _size(tensor: Tensor) -> int:
    return tensor.elements or 0


def _buffers(tensors: Iterable[Tensor]) -> list[int | None]:
    """Bytes of each buffer: the same view twice counts once, different slices count each."""
    return [tensor.bytes for tensor in dict.fromkeys(tensors)]


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
