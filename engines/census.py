"""What an engine consists of: its kernels counted and summed up, and the time that a model gives them on a GPU.

A graph says what was asked for; the census says what was compiled, after all fusions. It is read from what the builder
says while it builds (see `engines.kernels`) and needs no GPU. Sizes are complete where the engine is for one batch
size only: of a range, the builder leaves open whatever depends on the batch. Then a twin, built from the same graph
for exactly the profile's optimum and never shipped, tells sizes; kernels, kinds and types stay the engine's own.

The list changes nothing of the plan. Measured with TensorRT-RTX 1.7.1 (hemf-base in FP16, sm_75, profile 1:1:1): two
builds with a logger that keeps every message and two with one that keeps errors alone gave the same plan, byte for
byte. The profiling verbosity, which the list needs and which all our engines have had, is part of the plan: DETAILED,
LAYER_NAMES_ONLY and NONE give plans of the same size with other bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hemf_export.engines import backends, child_build
from hemf_export.engines.backends import BackendName
from hemf_export.engines.batches import BatchProfile
from hemf_export.engines.chips import Chip
from hemf_export.engines.kernels import Kernel, Tensor
from hemf_export.engines.options import BuildOptions
from hemf_export.engines.targets import Target
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress

OTHER = "other"  # the block of kernels that come from no named part of the network
_MOST_BYTES = 1 << 25  # of an unpacked list: ninety times the largest seen
_FORMAT = 2


@dataclass(frozen=True)
class Rates:
    """What a model takes kernels to reach.

    Args:
        compute: share of the chip's peak rate of operations.
        memory: share of its peak bandwidth.
        launch_s: seconds between the end of a kernel and the start of the next.
        overlapped: whether a kernel computes while it waits for memory; else one comes after the other.
    """

    compute: float
    memory: float
    launch_s: float
    overlapped: bool

    def kernel_s(self, compute_s: float, memory_s: float) -> float:
        """Seconds of a kernel that takes so long at the peaks; its launch is not in them."""
        parts = compute_s / self.compute, memory_s / self.memory
        return max(parts) if self.overlapped else sum(parts)


# No engine is faster. The gap between kernels is that of a stream whose launches are queued, or of a captured graph.
PEAKS = Rates(1.0, 1.0, 2.5e-6, overlapped=True)
# What makes the least error beside published latencies of ResNet-50, ViT-B/16 and Swin-T on a T4 in float16: see
# docs/engine-model.md, and `python -m benchmarks.engine_model`, which fits it. Fitted, not measured.
FITTED_TO_T4 = Rates(0.42, 0.78, 5.6e-6, overlapped=False)


@dataclass(frozen=True)
class Part:
    """Kernels that belong together: of a block of the network, or of a kind.

    Args:
        kernels: how many.
        bytes: moved, weights included, at the census's batch; None where sizes are open.
        products: how many, by the type that they compute in; fused attentions left out.
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
        backend: that compiled them.
        version: of the backend.
        sm: that they are for, `sm_75`.
        kernels: of the engine's first optimization profile, in launch order.
        batch: that sizes are told for; None where none is known.
        twin: the kernels of a build for exactly `batch`, where the engine's own leave sizes open; else None.
        plan_bytes: size of the engine's plan; None where that wasn't kept.
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
        """The kernels whose sizes count: the twin's, where there is one."""
        return self.kernels if self.twin is None else self.twin

    @property
    def launches(self) -> int:
        """Kernels that one call launches."""
        return len(self.kernels)

    @property
    def activation_bytes(self) -> int | None:
        """Read and written by all kernels at `batch`; None where a size is open."""
        return total(kernel.activation_bytes for kernel in self.sized)

    @property
    def weight_bytes(self) -> int | None:
        """Read by all kernels, whatever the batch; None where a size isn't known."""
        return total(kernel.weight_bytes for kernel in self.sized)

    @property
    def moved_bytes(self) -> int | None:
        """Activations and weights at `batch`."""
        return total((self.activation_bytes, self.weight_bytes))

    @property
    def products(self) -> dict[str, int]:
        """How many kernels multiply matrices or convolve, by the type that they compute in; without attention's."""
        return _part(self.kernels).products

    @property
    def fused_attentions(self) -> int:
        """Kernels that do a whole attention."""
        return sum(kernel.is_fused_attention for kernel in self.kernels)

    @property
    def multiply_adds(self) -> dict[str, int] | None:
        """Multiply-adds of products and attentions at `batch`, by the type they compute in; padding included.

        None where a shape is open.
        """
        found: Counter[str] = Counter()
        for kernel in self.sized:
            if kernel.product_type is not None:
                if kernel.multiply_adds is None:
                    return None
                found[kernel.product_type] += kernel.multiply_adds
        return dict(found.most_common())

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
        """The time of one call by a model, for comparing engines: not a measurement.

        At the peaks each kernel takes the longer of its bytes at the peak bandwidth and its multiply-adds at the peak
        rate of their type, and 2.5 µs for its launch; kernels follow each other, and only products are counted as
        work. Published latencies are 1.4 to 2.8 times that (docs/engine-model.md); with `FITTED_TO_T4` the model is
        nearer to them, and gives arithmetic more weight.

        Args:
            chip: the GPU's published rates.
            batch: images a call; activations and work are taken to grow with it from the census's own batch.
            rates: what share of the published rates is taken to be reached.

        Returns:
            Milliseconds; None where sizes are open.
        """
        times = self.kernel_times_s(chip, batch)
        if times is None:
            return None
        return 1000 * (sum(rates.kernel_s(*both) for both in times) + self.launches * rates.launch_s)

    def block_ms(self, chip: Chip, batch: int | None = None) -> dict[str, float] | None:
        """The model's time at the peaks by block of the network, in milliseconds; None where sizes are open.

        A kernel that does the work of several blocks counts for one of them.
        """
        times = self.kernel_times_s(chip, batch)
        if times is None:
            return None
        found: dict[str, float] = {}
        for kernel, both in zip(self.sized, times, strict=True):
            name = kernel.block or OTHER
            found[name] = found.get(name, 0.0) + 1000 * (PEAKS.kernel_s(*both) + PEAKS.launch_s)
        return found

    def kernel_times_s(self, chip: Chip, batch: int | None = None) -> list[tuple[float, float]] | None:
        """Seconds of compute and of memory of each sized kernel, at the peaks; None where sizes are open."""
        if self.batch is None or self.moved_bytes is None:
            return None
        scale = 1.0 if batch is None else batch / self.batch
        found = []
        for kernel in self.sized:
            assert kernel.activation_bytes is not None
            assert kernel.weight_bytes is not None
            moved = kernel.weight_bytes + scale * kernel.activation_bytes
            work = 2 * scale * (kernel.multiply_adds or 0)
            rate = _rate(chip, kernel.product_type)
            found.append((work / rate, moved / (1e9 * chip.bandwidth_gb_s)))
        return found

    def with_blocks(self, blocks: Mapping[str, str]) -> Census:
        """Name the block of every kernel.

        Args:
            blocks: of the network, by the name of the ONNX node.
        """
        twin = None if self.twin is None else _named(self.twin, blocks)
        return replace(self, kernels=_named(self.kernels, blocks), twin=twin)

    def summary(self) -> dict[str, Any]:
        """What is shown of it, in plain types, without the list of kernels."""
        return {
            "census": _FORMAT,
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
        """What `to_dict` gave.

        Raises:
            BadInputError: it didn't.
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
        found = {}
        for name in names:
            part = _part([kernel for kernel in self.kernels if key(kernel) == name])
            sized = [kernel for kernel in self.sized if key(kernel) == name]
            found[name] = replace(part, bytes=_moved(sized))
        return found


def of(
    kernels: Sequence[Kernel], *, backend: str, version: str, sm: str, batch: int | None, twin: Sequence[Kernel] = (),
    plan_bytes: int | None = None,
) -> Census:  # fmt: skip
    """The census of an engine's kernels.

    Args:
        kernels: as `engines.kernels.parse` gives them; those of later optimization profiles are left out.
        backend: that compiled them.
        version: of the backend.
        sm: compute capability, `sm_75`.
        batch: the engine's only batch size, or the twin's; None where there is neither.
        twin: kernels of the same graph for that batch size alone, where the engine's leave sizes open.
        plan_bytes: size of the engine's plan.
    """
    own = tuple(kernel for kernel in kernels if kernel.profile == 0)
    return Census(backend, version, sm, own, batch, tuple(twin) or None, plan_bytes)


def take(
    graph: Path | bytes,
    target: Target,
    backend: BackendName = "tensorrt-rtx",
    batch: int = 1,
    *,
    blocks: Mapping[str, str] | None = None,
    options: BuildOptions | None = None,
    progress: Progress = SILENT,
) -> Census:
    """Compile a graph for one batch size in a child process, count its kernels, and keep no engine.

    What was counted before is in the cache folder: by the graph's bytes, backend, version, compute capability, batch
    and options. Weights that lie outside of the graph's file are taken to be the same.

    Args:
        graph: an ONNX file or its bytes; with the type that every node computes in.
        target: GPU or compute capability.
        backend: which TensorRT; `tensorrt` needs a GPU of the target's kind.
        batch: images a call; a graph with a batch of its own keeps to that.
        blocks: of the network, by the name of the ONNX node.
        options: how to build; their profiles don't count.
        progress: receives the builder's phases.

    Raises:
        MissingCapabilityError: no such backend here, or it has no such target.
        BadInputError: TensorRT doesn't take the graph, or lists no kernels that are known here.
    """
    only = replace(options or BuildOptions(), profiles=(BatchProfile(batch, batch, batch),))
    version = backends.installed_version(backend)
    gpu = backends.gpu_name() if backend == "tensorrt" else None
    place = None if version is None else _place(graph, target, backend, f"{version} {gpu or ''}".strip(), only)
    if place is not None and (known := _kept(place)) is not None:
        return known.with_blocks(blocks or {})
    with artifacts.scratch() as folder:
        path = graph if isinstance(graph, Path) else folder / "graph.onnx"
        if isinstance(graph, bytes):
            artifacts.write_bytes(path, graph)
        told = child_build.run(
            path, folder / "plan", folder / "log", backend=backend, target=target, options=only,
            gpu=gpu, progress=progress,
        )  # fmt: skip
    if told["census"] is None:
        raise BadInputError(told["census_note"])
    found = Census.from_dict(told["census"])
    if place is not None:
        with suppress(BadInputError):  # a cache that can't be written
            artifacts.check_folder(place.parent)
            artifacts.write_json(place, found.to_dict())
    return found.with_blocks(blocks or {})


def _place(graph: Path | bytes, target: Target, backend: str, version: str, options: BuildOptions) -> Path | None:
    content = artifacts.sha256(graph) if isinstance(graph, Path) else hashlib.sha256(graph).hexdigest()
    key = json.dumps([_FORMAT, content, backend, version, target.sm, options.to_dict()])
    try:
        return artifacts.cache_folder() / "census" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    except BadInputError:  # a user without a home
        return None


def _kept(place: Path) -> Census | None:
    """What was counted before; None where there is nothing that can be read."""
    try:
        return Census.from_dict(json.loads(place.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError, BadInputError):
        return None


def is_complete(kernels: Iterable[Kernel]) -> bool:
    """Whether the size of everything that they read and write is known."""
    return all(
        kernel.activation_bytes is not None and kernel.weight_bytes is not None
        for kernel in kernels
        if kernel.profile == 0
    )


def kind_of(kernel: Kernel) -> str:
    """What a kernel does, in a few words: the builder's kind, with the type that a product computes in."""
    if kernel.is_fused_attention:
        return f"fused attention in {kernel.product_type}"
    if kernel.product_type is not None:
        return f"{kernel.kind} in {kernel.product_type}"
    return kernel.kind


def total(sizes: Iterable[int | None]) -> int | None:
    """Their sum; None where one is unknown."""
    found = 0
    for size in sizes:
        if size is None:
            return None
        found += size
    return found


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
    """Give each kernel the block of most of its nodes; one without nodes has that of what it reads."""
    found = []
    written: dict[str, str] = {}
    for kernel in kernels:
        named = Counter(part for node in kernel.onnx_nodes if (part := blocks.get(node, OTHER)) != OTHER)
        read = (written[tensor.name] for tensor in kernel.inputs if tensor.name in written)
        block = named.most_common(1)[0][0] if named else next(read, None)
        if block is not None:
            written |= dict.fromkeys((tensor.name for tensor in kernel.outputs), block)
        found.append(replace(kernel, block=block))
    return tuple(found)


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
    found = []
    for name, kind, tactic, number, nodes, block, *groups in json.loads(text):
        tensors = [
            tuple(
                Tensor(str(own), tuple(map(int, shape)), tuple(map(int, strides)), str(dtype), str(form))
                for own, shape, strides, dtype, form in group
            )
            for group in groups
        ]
        inputs, constants, outputs = tensors
        found.append(Kernel(
            str(name), str(kind), inputs, constants, outputs, str(tactic), int(number), tuple(map(str, nodes)),
            block=None if block is None else str(block),
        ))  # fmt: skip
    return tuple(found)
