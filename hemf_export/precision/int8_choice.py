"""Which products of a graph are worth INT8: decided by the engines that a backend compiles, not by the work they are.

INT8 halves what a product reads and may double its rate, and it costs: kernels that quantize, fusions that are lost,
weights that are dequantized at run time where a GPU has no such kernel. What remains of it only the compiled engine
tells. So the graph is compiled in FP16, with everything in INT8, and with those parts in INT8 that gained; the engine
that `engines.census`'s model gives least time says what a budget may choose from. Where none is 5 % faster than FP16,
INT8 isn't worth its loss of digits.

No engine is kept, and no image is run: kernels depend on neither ranges nor weights (see `trial_engine`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from hemf_export.calibration import forms
from hemf_export.calibration.blocks import block_of, blocks, node_name
from hemf_export.calibration.budget import Worth
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import copy_of
from hemf_export.calibration.int8 import share_of
from hemf_export.calibration.products import Product
from hemf_export.calibration.qdq import quantize
from hemf_export.engines.census import Census
from hemf_export.files.errors import BadInputError
from hemf_export.files.progress import SILENT, Progress
from hemf_export.precision import compiled_precision, trial_engine
from hemf_export.precision.trial_engine import Compiler

LEAST_GAIN = 0.05  # of the FP16 engine's modelled time: what INT8 must save to be worth it
TOO_LITTLE = f"the engine is not {LEAST_GAIN:.0%} faster by INT8"
_CONVOLUTION = "Conv"
_LEAST_WORTH = 0.02  # of the largest block's: what a block counts for whose kernels tell of no gain of its own
_ESTIMATED = 0.5  # of the least gain: estimates of parts are rough, and the compiled engine decides


@dataclass(frozen=True)
class EngineTrial:
    """An engine that was compiled to be counted.

    Args:
        name: what is in INT8, in words.
        nodes: names of the products that are in INT8 in the graph.
        blocks: of the network, that these are in.
        kept: names of those that the engine computes in INT8.
        share: of all multiply-adds, that those are.
        census: of the engine.
        model_ms: the time of one call; see `Census.model_ms`.
        block_ms: the same by block.
    """

    name: str
    nodes: frozenset[str]
    blocks: tuple[str, ...]
    kept: frozenset[str]
    share: float
    census: Census
    model_ms: float
    block_ms: Mapping[str, float]

    def saved_ms(self, other: EngineTrial, block: str) -> float:
        """Milliseconds that a block's kernels take less here than in another engine."""
        return other.block_ms.get(block, 0.0) - self.block_ms.get(block, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {
            "name": self.name,
            "int8_products": len(self.nodes),
            "int8_products_as_compiled": len(self.kept),
            "share_of_multiply_adds": self.share,
            "blocks": list(self.blocks),
            "kernels": self.census.launches,
            "moved_bytes": self.census.moved_bytes,
            "model_ms": self.model_ms,
            "plan_bytes": self.census.plan_bytes,
        }


class EngineTrials:
    """Compiles one float32 graph with these or those products in INT8, each set once.

    Args:
        model: float32, brought to the backend's form but for its last passes; left as it is.
        products: all of it.
        islands: nodes that stay in float32, and why.
        compiler: what the engine is for.
        last: names of the passes that come after quantization.
        progress: receives what is compiled.
    """

    def __init__(
        self,
        model: ir.Model,
        products: Sequence[Product],
        islands: Mapping[str, str],
        compiler: Compiler,
        *,
        last: Collection[str] = (),
        progress: Progress = SILENT,
    ) -> None:
        self.compiler, self.products = compiler, tuple(products)
        self.version = ""
        self._model, self._islands, self._last = model, dict(islands), last
        self._progress = progress
        self._blocks = blocks(model.graph)
        self._known: dict[tuple[frozenset[str], frozenset[str]], EngineTrial] = {}

    @property
    def tried(self) -> tuple[EngineTrial, ...]:
        """All, in order."""
        return tuple(self._known.values())

    @property
    def best(self) -> EngineTrial | None:
        """The one that is modelled fastest of those with anything in INT8."""
        return min((each for each in self.tried if each.nodes), key=lambda each: each.model_ms, default=None)

    def kinds(self, products: Sequence[Product]) -> dict[str, list[Product]]:
        """Products by what a backend has kernels for: matrix products, and convolutions by the size of their kernel."""
        nodes = {node_name(node): node for node in self._model.graph}
        found: dict[str, list[Product]] = {}
        for product in products:
            kind = "matrix products"
            if product.operator == _CONVOLUTION and (weight := nodes[product.node].inputs[1]) is not None:
                sizes = [] if weight.shape is None else list(weight.shape)[2:]
                kind = f"{'×'.join(map(str, sizes))} convolutions"
            found.setdefault(kind, []).append(product)
        return found

    def run(self, name: str, chosen: Sequence[Product], islands: Mapping[str, str] | None = None) -> EngineTrial:
        """Compile the graph with the chosen products in INT8.

        Args:
            name: what they are, in words.
            chosen: products.
            islands: nodes that stay in float32; None for those of all trials.

        Raises:
            MissingCapabilityError: no such backend here, or it has no such target.
            BadInputError: the backend doesn't take the graph, or leaves sizes open.
        """
        wide = self._islands if islands is None else dict(islands)
        key = frozenset(product.node for product in chosen), frozenset(wide)
        if key not in self._known:
            with self._progress.task(
                f"Compiling the engine with {name} in INT8" if chosen else "Compiling the engine in FP16"
            ):
                self._known[key] = self._compile(name, chosen, wide)
        return self._known[key]

    def attempt(self, name: str, chosen: Sequence[Product]) -> EngineTrial | None:
        """`run`, or None where the backend doesn't take the graph so."""
        with suppress(BadInputError):
            return self.run(name, chosen)
        return None

    def _compile(self, name: str, chosen: Sequence[Product], islands: dict[str, str]) -> EngineTrial:
        model = copy_of(self._model)
        if chosen:
            quantize(model, chosen, trial_engine.made_up_statistics(), "max")
        forms.rewrite(model, self.compiler.form, only=self._last)
        to_float16(model, islands)
        # Nodes of other people's graphs are in blocks by their place, which is that of the graph before any pass.
        names = map(node_name, model.graph)
        where = {node: block for node in names if (block := block_of(node))} | self._blocks
        counted = trial_engine.count(model, self.compiler).with_blocks(where)
        self.version = counted.version
        time = counted.model_ms(self.compiler.chip, self.compiler.batch)
        by_block = counted.block_ms(self.compiler.chip, self.compiler.batch)
        if time is None or by_block is None:
            raise BadInputError(f"{counted.backend} {counted.version} leaves sizes of the engine open.")
        kept = compiled_precision.kept_products(compiled_precision.promises(model), counted)
        return EngineTrial(
            name=name,
            nodes=frozenset(product.node for product in chosen),
            blocks=tuple(dict.fromkeys(product.block for product in chosen)),
            kept=kept,
            share=share_of(self.products, [product for product in chosen if product.node in kept]),
            census=counted,
            model_ms=time,
            block_ms=by_block,
        )


@dataclass(frozen=True)
class Choice:
    """Engines in FP16 and INT8 for one target, and the one to ship.

    Args:
        trials: that compiled it, and can compile more.
        fp16: nothing in INT8.
        everything: all that can be; None where the backend doesn't take that.
        best: the least modelled time with anything in INT8; None where the backend takes nothing in INT8.
        chosen: what became of it: `fp16`, `best`, or what a budget left of it.
    """

    trials: EngineTrials
    fp16: EngineTrial
    everything: EngineTrial | None
    best: EngineTrial | None
    chosen: EngineTrial

    @property
    def worthwhile(self) -> bool:
        """Whether the best is enough faster than FP16."""
        return self.best is not None and self.is_worthwhile(self.best)

    def is_worthwhile(self, trial: EngineTrial) -> bool:
        """Whether an engine is enough faster than FP16."""
        return trial.model_ms <= (1 - LEAST_GAIN) * self.fp16.model_ms

    @property
    def worth(self) -> Worth:
        """The time that each block of the best saves, as a share of the FP16 engine's; their sum is what it saves.

        A kernel at the border of two blocks counts for one of them, so that a block may seem to lose by what its
        neighbour gains: it is taken to give little instead.
        """
        assert self.best is not None
        saved = {block: self.best.saved_ms(self.fp16, block) for block in self.best.blocks}
        least = _LEAST_WORTH * max([*saved.values(), 1e-6])
        raised = {block: max(value, least) for block, value in saved.items()}
        scale = (1 - self.best.model_ms / self.fp16.model_ms) / sum(raised.values())
        shares = {block: scale * value for block, value in raised.items()}
        return Worth(shares, self.best.nodes, _ESTIMATED * LEAST_GAIN)

    @property
    def summary(self) -> str:
        """How much faster INT8 is, in a sentence."""
        compiler = self.trials.compiler
        builder = f"{compiler.backend} {self.trials.version}"
        fastest = self.chosen if self.chosen.nodes else self.best
        if fastest is None:
            return f"{builder} compiles no engine of this graph in INT8 for {compiler.target.sm}"
        return (
            f"at batch {compiler.batch} the {'INT8 engine' if self.chosen.nodes else 'fastest INT8 engine'} that "
            f"{builder} compiles for {compiler.target.sm} is modelled at {milliseconds(fastest.model_ms)}, "
            f"{fastest.model_ms / self.fp16.model_ms:.3f} of the FP16 engine's {milliseconds(self.fp16.model_ms)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        compiler = self.trials.compiler
        return {
            "backend": compiler.backend,
            "version": self.trials.version,
            "sm": compiler.target.sm,
            "rates_of": compiler.chip.product,
            "batch": compiler.batch,
            "least_gain": LEAST_GAIN,
            "fp16": self.fp16.to_dict(),
            "chosen": self.chosen.to_dict(),
            "best": None if self.best is None else self.best.to_dict(),
            "all_int8": None if self.everything is None else self.everything.to_dict(),
            "tried": [trial.to_dict() for trial in self.trials.tried],
        }


def milliseconds(value: float) -> str:
    """Three digits of a modelled time: 8.94 ms, 1.50 ms, 0.0392 ms."""
    return f"{value:#.3g}".rstrip(".") + " ms"


def of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The engines that a file's manifest tells were compared; None where none were.

    Raises:
        BadInputError: they can't be read.
    """
    earlier: Mapping[str, Any] = manifest.get("proof_of_the_graph") or {}  # where engines had it before
    told: Mapping[str, Any] | None = manifest.get("int8_gain", earlier.get("int8_gain"))
    if told is not None:
        try:
            beside(told), elsewhere(told, told["backend"], told["sm"])
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise BadInputError(
                f"A manifest's account of what INT8 gives can't be read: {error!r}.", "Make the file again."
            ) from error
    return told


def beside(told: Mapping[str, Any]) -> str:
    """How a manifest's engines in INT8 and FP16 compare, in a few words.

    Args:
        told: as `Choice.to_dict` gives it.
    """
    own = told["chosen"] if told["chosen"]["int8_products"] else told["best"]
    if own is None:
        return f"none can be compiled for {told['sm']}"
    ratio = own["model_ms"] / told["fp16"]["model_ms"]
    which = "" if own is told["chosen"] else "at its fastest "
    return f"{which}modelled at {milliseconds(own['model_ms'])}, {ratio:.3f} of FP16, at batch {told['batch']}"


def elsewhere(told: Mapping[str, Any], backend: str, sm: str) -> str | None:
    """A remark where engines were compared for another backend or compute capability than one is built for."""
    if (told["backend"], told["sm"]) == (backend, sm):
        return None
    return (
        f"Whether INT8 is worth it was decided for {told['backend']} and {told['sm']}, not for {backend} and {sm}: "
        "decide it anew from the float32 file."
    )


def choose(trials: EngineTrials) -> Choice:
    """Find the products whose engine in INT8 is modelled fastest.

    Args:
        trials: of the graph.

    Raises:
        MissingCapabilityError: no such backend here, or it has no such target.
        BadInputError: the backend doesn't take the graph in FP16.
    """
    fp16 = trials.run("nothing", ())
    everything = trials.attempt("everything", [each for each in trials.products if each.refusal is None])
    if everything is None:
        return Choice(trials, fp16, None, None, fp16)
    # A promise that the engine breaks costs and gives nothing: TensorRT-RTX has no int8 convolutions for sm_75.
    kinds = trials.kinds([product for product in trials.products if product.node in everything.kept])
    alone = {kind: tried for kind, products in kinds.items() if (tried := trials.attempt(kind, products)) is not None}
    # Which blocks gain is read from the kernels of what was compiled. The kind that gains most is taken whole, as its
    # products share their quantization across blocks; others where their own block gains by them.
    if alone:
        first = min(alone, key=lambda kind: alone[kind].model_ms)
        together = [
            product
            for kind in alone
            for product in kinds[kind]
            if kind == first or alone[kind].saved_ms(fp16, product.block) > 0
        ]
        trials.attempt(f"{first} and what gains beside them", together)
    best = trials.best or everything
    gaining = [each for each in trials.products if each.node in best.nodes and best.saved_ms(fp16, each.block) > 0]
    trials.attempt("the blocks that gain", gaining)
    best = trials.best or everything
    found = Choice(trials, fp16, everything, best, fp16)
    return replace(found, chosen=best) if found.worthwhile else found
