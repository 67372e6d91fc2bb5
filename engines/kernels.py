"""The kernels that a builder compiled, read from what it says of them: its verbose log, or its inspector's JSON.

With the profiling verbosity DETAILED, TensorRT-RTX and TensorRT 10 and later end a verbose build with a line `Layers:`
and a line for each layer: name, kind, inputs, constants, outputs with shapes, strides and types, tactic, stream, and
the ONNX nodes that it came from. The inspector of a deserialized engine has the same in JSON, but needs a GPU.

The lists are no interface that NVIDIA promises anything of. So what isn't recognized is left out, and never an error:
a caller sees an empty list, or kernels whose shapes are unknown. Time is linear in the length of the log, and memory
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
# The first that is found in a spelling counts: "Half", "Row major linear FP32", "… row major Int8 format".
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
# Events between streams, and what the host does: nothing is launched for them.
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
_LONGEST_LINE = 1 << 20  # characters; a layer with a thousand tensors has a fifth of that
_LEAST_RANK = 2  # of an operand of a product


@dataclass(frozen=True)
class Tensor:
    """What a kernel reads or writes.

    Args:
        name: of its buffer; several tensors of a name are views of one buffer.
        shape: as the kernel sees it; -1 for a size that depends on the batch.
        strides: in elements; empty where the list doesn't tell.
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
        """How many numbers; those that a stride of 0 repeats count once. None where a size is open."""
        if any(size < 0 for size in self.shape):
            return None
        strides = self.strides if len(self.strides) == len(self.shape) else (1,) * len(self.shape)
        return math.prod(size for size, stride in zip(self.shape, strides, strict=True) if stride)

    @property
    def bytes(self) -> int | None:
        """In memory; None where a size or the type isn't known."""
        elements = self.elements
        if elements is None or self.dtype not in _BITS:
            return None
        return math.ceil(elements * _BITS[self.dtype] / 8)


@dataclass(frozen=True)
class Kernel:
    """One launch on the GPU.

    Args:
        name: the builder's.
        kind: in its words: kgen, gemm, correlation, runtime_fusion, CaskConvolution ….
        inputs: activations.
        constants: weights, tables, scalars.
        outputs: activations.
        tactic: the code that runs, as far as the builder names it.
        stream: that it is launched in.
        onnx_nodes: that it came from, by their names in the graph.
        profile: of the engine's optimization profiles, the one that it is launched for; each has kernels of its own.
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
        """Whether it does the softmax between two products without going through memory."""
        return bool(_ATTENTION.search(self.name) or _ATTENTION.search(self.tactic))

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves; a product that became a sum of products (`MulSum`) doesn't."""
        if self.is_fused_attention or _PRODUCTS_IN_NAMES.match(self.name):
            return True
        return bool(_PRODUCT_KINDS.search(self.kind.lower()))

    @property
    def product_type(self) -> str | None:
        """What a product multiplies in: the wider of its two operands' types. None for every other kernel."""
        if not self.is_product:
            return None
        types = [tensor.dtype for tensor in self.operands() if tensor.dtype in _WIDTHS]
        return max(types, key=_WIDTHS.index, default=UNKNOWN)

    def operands(self) -> tuple[Tensor, ...]:
        """What a product multiplies: activations and weights, or two activations; empty where neither is found."""
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
        # A kernel that adds a second activation may list a pair that fits by chance: the longer sum is the product.
        return max(pairs, key=lambda pair: pair[0].shape[-1], default=tuple(matrices[:2]))

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of a product; 0 for every other kernel, and None where shapes are open or don't tell."""
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
        """Bytes of activations, read and written; None where a size is open."""
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
        """The activation and the filters (M, C / groups, …); filters that are made at run time are inputs."""
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
    """Whether `parse` may read something from a text; said quickly, of a line or of many."""
    return _KIND in text or _LIST in text


def parse(lines: Iterable[str]) -> list[Kernel]:
    """Read the kernels from a builder's verbose log.

    Args:
        lines: of the log, with or without what stands before each message. Where the log has several lists, as with
            several builds, the last counts.

    Returns:
        In launch order; without events between streams. Empty where no line is recognized.
    """
    found: list[Kernel] = []
    fresh: list[Kernel] = []
    for line in lines:
        if line.rstrip().endswith(_LIST):
            found, fresh = fresh or found, []
        elif _KIND in line and len(line) <= _LONGEST_LINE:
            kernel = _line(line)
            if kernel is not None:
                fresh.append(kernel)
    return _with_profiles(fresh or found)


def parse_json(text: str) -> list[Kernel]:
    """Read the kernels from an inspector's JSON; an engine that was built without details has none."""
    try:
        entries = json.loads(text).get("Layers")
    except (ValueError, AttributeError, RecursionError):
        return []
    if not isinstance(entries, list):
        return []
    found = [_entry(entry) for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("Name"), str)]
    return _with_profiles([kernel for kernel in found if kernel is not None])


def _with_profiles(kernels: list[Kernel]) -> list[Kernel]:
    """Tell each kernel's profile: what the builder's names say of one holds for all that it compiled with it."""
    profiles: dict[str, int] = {}
    for kernel in kernels:
        names = (kernel.name, *(tensor.name for tensor in (*kernel.inputs, *kernel.outputs)))
        if said := next((found for name in names if (found := _PROFILE.search(name))), None):
            profiles.setdefault(_group(kernel), int(said[1]))
    return [
        kernel if not profiles.get(_group(kernel)) else replace(kernel, profile=profiles[_group(kernel)])
        for kernel in kernels
    ]


def _group(kernel: Kernel) -> str:
    """What was compiled together has one number in the names, `…_myl1_0`; any other layer stands for itself."""
    found = _COMPILED.search(kernel.name)
    return found[1] if found else kernel.name


def _line(line: str) -> Kernel | None:
    """`Name: …, LayerType: …, Inputs: [ … ], Constants: [ … ], Outputs: [ … ], TacticName: …, StreamId: …, …`"""
    head, _, rest = line.rstrip("\r\n").partition(_KIND)
    name = head.partition("Name: ")[2]
    kind, found, rest = rest.partition(", Inputs: ")
    if not name or not found or not re.fullmatch(r"\w+", kind):
        return None
    read, found, rest = rest.partition(", Outputs: ")
    if not found:  # a line that was cut
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
    """Cut after the outputs: what follows has other keys, in an order that differs between versions."""
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
    given = [tensor for tensor in inputs if not _CONSTANT_NAME.search(tensor.name)]
    constants = [*constants, *(tensor for tensor in inputs if _CONSTANT_NAME.search(tensor.name))]
    if weights is not None:
        constants.append(weights)
    nodes = tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))
    number = int(stream) if stream.isdecimal() and len(stream) < 6 else 0
    return Kernel(name, kind, tuple(given), tuple(constants), tuple(outputs), tactic, number, nodes)


def _listed(text: str) -> list[Tensor]:
    """`[ { Name: a, Dimensions: [1,8], …, Datatype: Half, Format: … }, { … }]`"""
    found = []
    for piece in text.split("{ Name: ")[1:]:
        name, sized, rest = piece.partition(", Dimensions: [")
        name = name.partition(", Location: ")[0]
        sizes, _, rest = rest.partition("]")
        rest = rest.rpartition(" }")[0] or rest
        strides = rest.partition(" Strides: [")[2].partition("]")[0]
        said, _, form = rest.partition("Datatype: ")[2].partition(", Format: ")
        found.append(_tensor(name, sizes.split(",") if sized else None, strides.split(","), said, form))
    return found


def _objects(entries: Any) -> list[Tensor]:
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping):
            said = entry.get("Datatype") or entry.get("Format/Datatype") or ""
            sizes, strides = entry.get("Dimensions"), entry.get("Strides")
            found.append(_tensor(
                str(entry.get("Name", "")), sizes if isinstance(sizes, list) else None,
                strides if isinstance(strides, list) else [], str(said), str(entry.get("Format", "")),
            ))  # fmt: skip
    return found


def dtype_of(text: str) -> str:
    """The number type that a builder's spelling tells: "Half" is fp16; "unknown" where it tells none."""
    low = text.lower()
    return next((dtype for dtype, pattern in _DTYPES if pattern.search(low)), UNKNOWN)


def _tensor(name: str, sizes: list[Any] | None, strides: list[Any], said: str, form: str) -> Tensor:
    dtype = dtype_of(said)
    shape = (-1,) if sizes is None else _numbers(sizes)
    return Tensor(name, shape, _numbers(strides), dtype, form or ("" if said.isalnum() else said))


def _numbers(values: list[Any]) -> tuple[int, ...]:
    """Whole numbers; what is none counts as open, as does what no tensor has."""
    found = []
    for value in values:
        text = str(value).strip()
        if text:
            number = int(text) if re.fullmatch(r"-?\d{1,15}", text) else -1
            found.append(number)
    return tuple(found)


def _weights(text: str, weights: str, maps: str) -> Tensor | None:
    found, count = re.search(weights, text), re.search(maps, text)
    try:
        said = json.loads(found[1]) if found else {}
    except ValueError:
        return None
    return _filters(said, count[1] if count else None)


def _filters(said: Mapping[str, Any], maps: Any) -> Tensor | None:
    """What TensorRT says of a layer's weights: how many, of which type; in rows of one output channel each."""
    count, rows = str(said.get("Count", "")), str(maps)
    if not (count.isdecimal() and rows.isdecimal()) or not int(rows) or not int(count):
        return None
    shape = [int(rows), int(count) // int(rows)]
    return _tensor("weights", list(shape), [], str(said.get("Type", "")), "")


def _value(text: str, key: str) -> str:
    return text.partition(key)[2].partition(",")[0].strip()


def _size(tensor: Tensor) -> int:
    return tensor.elements or 0


def _buffers(tensors: Iterable[Tensor]) -> list[int | None]:
    """Bytes of each buffer that is touched: the same view twice counts once, several slices count each."""
    return [tensor.bytes for tensor in dict.fromkeys(tensors)]


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
