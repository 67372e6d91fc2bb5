"""Census of an engine's kernels: counts and sums, and the time that a model predicts for them on a GPU.

A graph says what was asked for; the census says what was compiled, after all fusions. It is read from the builder's log
(see `engines.kernels`), which needs no GPU, and `engines.build` takes it. Sizes are complete where the engine is for
one batch size only: for a range, the builder leaves open whatever depends on the batch. Then a twin, built from the
same graph for exactly the profile's optimum and never shipped, gives the sizes; kernels, kinds and types stay the
engine's own.

Listing the kernels doesn't change the plan. Measured with TensorRT-RTX 1.7.1 (hemf-base in FP16, sm_75, profile
1:1:1): two builds with a logger that keeps every message and two with one that keeps errors alone gave the same plan,
byte for byte. The profiling verbosity, which the list needs and which all our engines have, is part of the plan:
DETAILED, LAYER_NAMES_ONLY and NONE give plans of the same size with other bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hemf_export.engines.kernels import Kernel, Tensor
from hemf_export.engines.targets import Chip
from hemf_export.files.errors import BadInputError

OTHER = "other"  # the block of kernels that belong to no named part of the network
_MOST_BYTES = 1 << 25  # of an unpacked list: ninety times the largest seen
FORMAT = 2


@dataclass(frozen=True)
class Rates:
    """Shares of the published rates that the model assumes kernels to reach.

    Args:
        compute: share of the chip's peak arithmetic rate.
        memory: share of its peak bandwidth.
        launch_s: seconds between the end of a kernel and the start of the next.
        overlapped: whether arithmetic and memory access overlap within a kernel; else their times add up.
    """

    compute: float
    memory: float
    launch_s: float
    overlapped: bool

    def kernel_s(self, compute_s: float, memory_s: float) -> float:
        """Seconds of a kernel, without its launch, from its times at the peak rates."""
        parts = compute_s / self.compute, memory_s / self.memory
        return max(parts) if self.overlapped else sum(parts)


# A lower bound. The gap between kernels is that of queued launches, or of a captured graph.
PEAKS = Rates(1.0, 1.0, 2.5e-6, overlapped=True)
# The least error against published latencies of ResNet-50, ViT-B/16 and Swin-T on a T4 in float16: see
# docs/engine-model.md, and `python -m benchmarks.engine_model`, which fits it. Fitted, not measured.
FITTED_TO_T4 = Rates(0.42, 0.78, 5.6e-6, overlapped=False)


@dataclass(frozen=True)
class Part:
    """The kernels of a block of the network, or of a kind, summed up.

    Args:
        kernels: how many.
        bytes: read and written, weights included, at the census's batch; None where sizes are unknown.
        products: number by the type that they compute in, without fused attentions.
        fused_attentions: how many.
    """

    kernels: int
    bytes: int | None
    products: dict[str, int]
    fused_attentions: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Census:
    """The kernels of an engine.

    Args:
        backend: which TensorRT compiled them.
        version: the backend's.
        sm: compute capability that they are for, `sm_75`.
        kernels: of the engine's first optimization profile, in launch order.
        batch: images per call that sizes hold for; None where they are unknown.
        twin: the kernels of a build for exactly `batch`, where the engine's own have unknown sizes; else None.
        plan_bytes: size of the engine's plan; None where that wasn't recorded.
    """

    backend: str
    version: str
    sm: str
    kernels: tuple[Kernel, ...]
    batch: int | None
    twin: tuple[Kernel, ...] | None = None
    plan_bytes: int | None = None

    @property
    def sized(self) -> tuple[Kernel, ...]:
        """The kernels whose sizes are used: the twin's, where there is one."""
        return self.kernels if self.twin is None else self.twin

    @property
    def launches(self) -> int:
        """Kernels that one call launches."""
        return len(self.kernels)

    @property
    def activation_bytes(self) -> int | None:
        """Bytes of activations that all kernels read and write at `batch`; None where a size is unknown."""
        return total(kernel.activation_bytes for kernel in self.sized)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights that all kernels read, at any batch; None where a size is unknown."""
        return total(kernel.weight_bytes for kernel in self.sized)

    @property
    def moved_bytes(self) -> int | None:
        """Bytes of activations and weights at `batch`."""
        return total((self.activation_bytes, self.weight_bytes))

    @property
    def products(self) -> dict[str, int]:
        """Number of kernels that multiply matrices or convolve, by type that they compute in; not fused attentions."""
        return _part(self.kernels).products

    @property
    def fused_attentions(self) -> int:
        """Number of kernels that do a whole attention."""
        return sum(kernel.is_fused_attention for kernel in self.kernels)

    @property
    def multiply_adds(self) -> dict[str, int] | None:
        """Multiply-adds of products and attentions at `batch`, by the type they compute in; padding included.

        None where a shape is unknown.
        """
        counts: Counter[str] = Counter()
        for kernel in self.sized:
            if kernel.product_type is not None:
                if kernel.multiply_adds is None:
                    return None
                counts[kernel.product_type] += kernel.multiply_adds
        return dict(counts.most_common())

    @property
    def by_block(self) -> dict[str, Part]:
        """The engine's kernels by the block of the network, in order of their first."""
        return self._parts(lambda kernel: kernel.block or OTHER)

    @property
    def by_kind(self) -> dict[str, Part]:
        """The engine's kernels by what they do, the most frequent first."""
        parts = self._parts(kind_of)
        return dict(sorted(parts.items(), key=lambda item: -item[1].kernels))

    def model_ms(self, chip: Chip, batch: int | None = None, *, rates: Rates = PEAKS) -> float | None:
        """The modelled time of one call, to compare engines by: not a measurement.

        With `PEAKS` each kernel takes its bytes at the peak bandwidth or its multiply-adds at the peak rate of their
        type, whichever is longer, and 2.5 µs for its launch; kernels run one after the other, and only products count
        as arithmetic. Published latencies are 1.4 to 2.8 times that (docs/engine-model.md); with `FITTED_TO_T4` the
        model is nearer to them, and gives arithmetic more weight.

        Args:
            chip: the GPU's published rates.
            batch: images per call; activations and arithmetic are scaled to it from the census's own batch.
            rates: what share of the published rates is assumed.

        Returns:
            Milliseconds; None where sizes are unknown.
        """
        times = self.kernel_times_s(chip, batch)
        if times is None:
            return None
        return 1000 * (sum(rates.kernel_s(*both) for both in times) + self.launches * rates.launch_s)

    def block_ms(self, chip: Chip, batch: int | None = None) -> dict[str, float] | None:
        """The model's time at the peaks by block of the network, in milliseconds; None where sizes are unknown.

        A kernel that does the work of several blocks counts for one of them.
        """
        times = self.kernel_times_s(chip, batch)
        if times is None:
            return None
        times_ms: dict[str, float] = {}
        for kernel, both in zip(self.sized, times, strict=True):
            name = kernel.block or OTHER
            times_ms[name] = times_ms.get(name, 0.0) + 1000 * (PEAKS.kernel_s(*both) + PEAKS.launch_s)
        return times_ms

    def kernel_times_s(self, chip: Chip, batch: int | None = None) -> list[tuple[float, float]] | None:
        """Seconds of arithmetic and of memory access of each of `sized`, at the peak rates; None for unknown sizes."""
        if self.batch is None or self.moved_bytes is None:
            return None
        scale = 1.0 if batch is None else batch / self.batch
        seconds = []
        for kernel in self.sized:
            assert kernel.activation_bytes is not None
            assert kernel.weight_bytes is not None
            moved = kernel.weight_bytes + scale * kernel.activation_bytes
            work = 2 * scale * (kernel.multiply_adds or 0)
            rate = _rate(chip, kernel.product_type)
            seconds.append((work / rate, moved / (1e9 * chip.bandwidth_gb_s)))
        return seconds

    def with_blocks(self, blocks: Mapping[str, str]) -> Census:
        """Set the block of every kernel.

        Args:
            blocks: ONNX node name → block of the network.
        """
        twin = None if self.twin is None else _named(self.twin, blocks)
        return replace(self, kernels=_named(self.kernels, blocks), twin=twin)

    def summary(self) -> dict[str, Any]:
        """A summary in plain types, without the list of kernels."""
        return {
            "census": FORMAT,
            "backend": self.backend,
            "version": self.version,
            "sm": self.sm,
            "kernels": self.launches,
            "batch": self.batch,
            "activation_bytes": self.activation_bytes,
            "weight_bytes": self.weight_bytes,
            "products": self.products,
            "fused_attentions": self.fused_attentions,
            "multiply_adds": self.multiply_adds,
            "sizes_from": None
            if self.batch is None
            else "the engine"
            if self.twin is None
            else {"twin_at_batch": self.batch, "twin_kernels": len(self.twin)},
            "by_block": {name: part.to_dict() for name, part in self.by_block.items()},
            "by_kind": {name: part.to_dict() for name, part in self.by_kind.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest: the summary, and the lists packed (JSON, deflated, base64)."""
        packed = {"engine": _pack(self.kernels), "twin": None if self.twin is None else _pack(self.twin)}
        return {**self.summary(), "plan_bytes": self.plan_bytes, "lists": packed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Census:
        """Read what `to_dict` returned.

        Raises:
            BadInputError: it is damaged.
        """
        try:
            twin = values["lists"]["twin"]
            batch, size = values["batch"], values.get("plan_bytes")
            return cls(
                str(values["backend"]), str(values["version"]), str(values["sm"]),
                _unpack(values["lists"]["engine"]), None if batch is None else int(batch),
                None if twin is None else _unpack(twin), None if size is None else int(size),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError, zlib.error, binascii.Error, RecursionError) as error:
            raise BadInputError(f"A census of kernels can't be read: {error!r}.", "Build the engine again.") from error

    def _parts(self, key: Callable[[Kernel], str]) -> dict[str, Part]:
        names = dict.fromkeys(key(kernel) for kernel in (*self.kernels, *self.sized))
        parts = {}
        for name in names:
            part = _part([kernel for kernel in self.kernels if key(kernel) == name])
            sized = [kernel for kernel in self.sized if key(kernel) == name]
            parts[name] = replace(part, bytes=_moved(sized))
        return parts


def of(
    kernels: Sequence[Kernel], *, backend: str, version: str, sm: str, batch: int | None, twin: Sequence[Kernel] = (),
    plan_bytes: int | None = None,
) -> Census:  # fmt: skip
    """Take the census of an engine's kernels.

    Args:
        kernels: from `engines.kernels.parse`; those of later optimization profiles are left out.
        backend: which TensorRT compiled them.
        version: the backend's.
        sm: compute capability, `sm_75`.
        batch: the engine's only batch size, or the twin's; None where there is neither.
        twin: kernels of the same graph for that batch size alone, where the engine's have unknown sizes.
        plan_bytes: size of the engine's plan.
    """
    own = tuple(kernel for kernel in kernels if kernel.profile == 0)
    return Census(backend, version, sm, own, batch, tuple(twin) or None, plan_bytes)


def is_complete(kernels: Iterable[Kernel]) -> bool:
    """Whether all sizes of what the kernels read and write are known."""
    return all(
        kernel.activation_bytes is not None and kernel.weight_bytes is not None
        for kernel in kernels
        if kernel.profile == 0
    )


def kind_of(kernel: Kernel) -> str:
    """Describe a kernel in a few words: the builder's kind, with the type that a product computes in."""
    if kernel.is_fused_attention:
        return f"fused attention in {kernel.product_type}"
    if kernel.product_type is not None:
        return f"{kernel.kind} in {kernel.product_type}"
    return kernel.kind


def total(sizes: Iterable[int | None]) -> int | None:
    """Their sum; None where one is unknown."""
    whole = 0
    for size in sizes:
        if size is None:
            return None
        whole += size
    return whole


def _part(kernels: Sequence[Kernel]) -> Part:
    attentions = sum(kernel.is_fused_attention for kernel in kernels)
    types = Counter(
        kernel.product_type for kernel in kernels if kernel.product_type is not None and not kernel.is_fused_attention
    )
    return Part(len(kernels), _moved(kernels), dict(types.most_common()), attentions)


def _moved(kernels: Iterable[Kernel]) -> int | None:
    return total(size for kernel in kernels for size in (kernel.activation_bytes, kernel.weight_bytes))


def _rate(chip: Chip, product_type: str | None) -> float:
    """Operations per second; a multiply-add is two."""
    if product_type in ("int8", "fp8"):
        return 1e12 * chip.tops_int8
    return 1e12 * (chip.tflops_fp16 if product_type in ("fp16", "bf16") else chip.tflops_fp32)


def _named(kernels: Sequence[Kernel], blocks: Mapping[str, str]) -> tuple[Kernel, ...]:
    """Set each kernel's block to that of most of its nodes; without nodes, to that of its inputs."""
    assigned = []
    written: dict[str, str] = {}
    for kernel in kernels:
        named = Counter(part for node in kernel.onnx_nodes if (part := blocks.get(node, OTHER)) != OTHER)
        read = (written[tensor.name] for tensor in kernel.inputs if tensor.name in written)
        block = named.most_common(1)[0][0] if named else next(read, None)
        if block is not None:
            written |= dict.fromkeys((tensor.name for tensor in kernel.outputs), block)
        assigned.append(replace(kernel, block=block))
    return tuple(assigned)


def _pack(kernels: Sequence[Kernel]) -> str:
    rows = [
        [
            kernel.name, kernel.kind, kernel.tactic, kernel.stream, list(kernel.onnx_nodes), kernel.block,
            *([_row(tensor) for tensor in group] for group in (kernel.inputs, kernel.constants, kernel.outputs)),
        ]
        for kernel in kernels
    ]  # fmt: skip
    text = json.dumps(rows, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(text, 9)).decode()


def _row(tensor: Tensor) -> list[Any]:
    return [tensor.name, list(tensor.shape), list(tensor.strides), tensor.dtype, tensor.format]


def _unpack(packed: str) -> tuple[Kernel, ...]:
    stream = zlib.decompressobj()
    text = stream.decompress(base64.b64decode(packed, validate=True), _MOST_BYTES)
    if not stream.eof:
        raise ValueError("its list is cut, or too long")
    kernels = []
    for name, kind, tactic, number, nodes, block, *groups in json.loads(text):
        tensors = [
            tuple(
                Tensor(str(own), tuple(map(int, shape)), tuple(map(int, strides)), str(dtype), str(form))
                for own, shape, strides, dtype, form in group
            )
            for group in groups
        ]
        inputs, constants, outputs = tensors
        kernels.append(Kernel(
            str(name), str(kind), inputs, constants, outputs, str(tactic), int(number), tuple(map(str, nodes)),
            block=None if block is None else str(block),
        ))  # fmt: skip
    return tuple(kernels)
