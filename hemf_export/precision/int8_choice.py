"""Choose the products for which INT8 makes the engine faster, by compiling engines, not by counting operations.

INT8 halves the bytes that a product reads and may double its rate, but it also costs: quantizing kernels, lost fusions,
and weights dequantized at run time where a GPU has no such kernel. Only the compiled engine shows the net gain. So the
graph is compiled in FP16, with everything in INT8, and with those parts in INT8 that gained; a budget then chooses from
the products of the engine with the lowest modelled time (see `engines.census`). Where none is 5 % faster than FP16,
INT8 isn't worth its loss of precision.

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
from hemf_export.pages.figures import modelled_time
from hemf_export.precision import compiled_precision, trial_engine
from hemf_export.precision.trial_engine import Compiler

LEAST_GAIN = 0.05  # share of the FP16 engine's modelled time that INT8 must save
TOO_LITTLE = f"the engine is not {LEAST_GAIN:.0%} faster by INT8"
_CONVOLUTION = "Conv"
_LEAST_WORTH = 0.02  # worth of a block without a gain of its own, as a share of the largest block's
_ESTIMATED = 0.5  # share of the least gain for estimates, which are rough: the compiled engine decides


@dataclass(frozen=True)
class EngineTrial:
    """An engine that was compiled to model its time, and not kept.

    Args:
        name: what is in INT8, in words.
        nodes: names of the products that are INT8 in the graph.
        blocks: blocks of the network with these products.
        kept: names of the products that the engine computes in INT8.
        share: their share of all multiply-adds.
        census: kernels of the engine.
        model_ms: modelled time of one call; see `Census.model_ms`.
        block_ms: modelled time by block.
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
        """Modelled time that a block saves compared with another engine, in ms."""
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
    """Compiles a float32 graph with different products in INT8, each set once.

    Args:
        model: float32 graph after the backend's first passes; not changed.
        products: all its products.
        islands: nodes that stay in float32, and why.
        compiler: backend and target.
        last: names of the passes after quantization.
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
        """All engines so far, in order."""
        return tuple(self._known.values())

    @property
    def best(self) -> EngineTrial | None:
        """Engine with the lowest modelled time of those with any INT8; None for none."""
        return min((each for each in self.tried if each.nodes), key=lambda each: each.model_ms, default=None)

    def kinds(self, products: Sequence[Product]) -> dict[str, list[Product]]:
        """Group products by the kind of kernel: matrix products, and convolutions by the size of their filters."""
        nodes = {node_name(node): node for node in self._model.graph}
        by_kind: dict[str, list[Product]] = {}
        for product in products:
            kind = "matrix products"
            if product.operator == _CONVOLUTION and (weight := nodes[product.node].inputs[1]) is not None:
                sizes = [] if weight.shape is None else list(weight.shape)[2:]
                kind = f"{'×'.join(map(str, sizes))} convolutions"
            by_kind.setdefault(kind, []).append(product)
        return by_kind

    def run(self, name: str, chosen: Sequence[Product], islands: Mapping[str, str] | None = None) -> EngineTrial:
        """Compile the graph with the chosen products in INT8.

        Args:
            name: the products, in words.
            chosen: the products.
            islands: nodes that stay in float32; None for the default ones.

        Raises:
            MissingCapabilityError: the backend isn't here, or doesn't have the target.
            BadInputError: the backend can't build the graph, or doesn't report sizes.
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
        """Like `run`, but None where the backend can't build the graph."""
        with suppress(BadInputError):
            return self.run(name, chosen)
        return None

    def _compile(self, name: str, chosen: Sequence[Product], islands: dict[str, str]) -> EngineTrial:
        model = copy_of(self._model)
        if chosen:
            quantize(model, chosen, trial_engine.synthetic_statistics(), "max")
        forms.rewrite(model, self.compiler.form, only=self._last)
        to_float16(model, islands)
        # In graphs that aren't ours blocks are ranges of nodes, of the graph before any pass.
        known = set(self._blocks.values())
        names = map(node_name, model.graph)
        where = {node: block for node in names if (block := block_of(node)) in known} | self._blocks
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
    """Engines in FP16 and INT8 for one target, and the chosen one.

    Args:
        trials: compiles the engines.
        fp16: engine without INT8.
        everything: engine with all possible products in INT8; None where the backend can't build it.
        best: engine with the lowest modelled time of those with any INT8; None for none.
        chosen: `fp16`, `best`, or the part of `best` that keeps a budget.
    """

    trials: EngineTrials
    fp16: EngineTrial
    everything: EngineTrial | None
    best: EngineTrial | None
    chosen: EngineTrial

    @property
    def worthwhile(self) -> bool:
        """Whether the best engine is enough faster than FP16."""
        return self.best is not None and self.is_worthwhile(self.best)

    def is_worthwhile(self, trial: EngineTrial) -> bool:
        """Whether an engine is enough faster than FP16."""
        return trial.model_ms <= (1 - LEAST_GAIN) * self.fp16.model_ms

    @property
    def worth(self) -> Worth:
        """Time that each block of the best engine saves, as a share of the FP16 engine's; they sum to its gain.

        A kernel at the border of two blocks counts for one of them, so that a block may seem to lose what its neighbour
        gains: such a block gets a small worth instead.
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
        """Speed of INT8 compared with FP16, in a sentence."""
        compiler = self.trials.compiler
        builder = f"{compiler.backend} {self.trials.version}"
        fastest = self.chosen if self.chosen.nodes else self.best
        if fastest is None:
            return f"{builder} compiles no engine of this graph in INT8 for {compiler.target.sm}"
        return (
            f"at batch {compiler.batch} the {'INT8 engine' if self.chosen.nodes else 'fastest INT8 engine'} that "
            f"{builder} compiles for {compiler.target.sm} is modelled at {modelled_time(fastest.model_ms)}, "
            f"{fastest.model_ms / self.fp16.model_ms:.3f} of the FP16 engine's {modelled_time(self.fp16.model_ms)}"
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


def of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Read the comparison of engines in a file's manifest; None where there is none.

    Raises:
        BadInputError: it is invalid.
    """
    earlier: Mapping[str, Any] = manifest.get("proof_of_the_graph") or {}  # where engines had it before
    gain: Mapping[str, Any] | None = manifest.get("int8_gain", earlier.get("int8_gain"))
    if gain is not None:
        try:
            beside(gain), elsewhere(gain, gain["backend"], gain["sm"])
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise BadInputError(
                f"A manifest's account of what INT8 gives can't be read: {error!r}.", "Make the file again."
            ) from error
    return gain


def beside(gain: Mapping[str, Any]) -> str:
    """Describe the INT8 engine beside the FP16 one in a few words.

    Args:
        gain: as in a manifest, see `Choice.to_dict`.
    """
    own = gain["chosen"] if gain["chosen"]["int8_products"] else gain["best"]
    if own is None:
        return f"none can be compiled for {gain['sm']}"
    ratio = own["model_ms"] / gain["fp16"]["model_ms"]
    which = "" if own is gain["chosen"] else "at its fastest "
    return f"{which}modelled at {modelled_time(own['model_ms'])}, {ratio:.3f} of FP16, at batch {gain['batch']}"


def elsewhere(gain: Mapping[str, Any], backend: str, sm: str) -> str | None:
    """Remark where engines were compared for another backend or compute capability than the one to build for."""
    if (gain["backend"], gain["sm"]) == (backend, sm):
        return None
    return (
        f"Whether INT8 is worth it was decided for {gain['backend']} and {gain['sm']}, not for {backend} and {sm}: "
        "decide it again from the float32 file."
    )


def choose(trials: EngineTrials) -> Choice:
    """Find the products in INT8 whose engine has the lowest modelled time.

    Args:
        trials: compiles engines of the graph.

    Raises:
        MissingCapabilityError: the backend isn't here, or doesn't have the target.
        BadInputError: the backend can't build the graph in FP16.
    """
    fp16 = trials.run("nothing", ())
    everything = trials.attempt("everything", [each for each in trials.products if each.refusal is None])
    if everything is None:
        return Choice(trials, fp16, None, None, fp16)
    # INT8 that the engine doesn't keep has a cost and no gain: TensorRT-RTX has no INT8 convolutions for sm_75.
    kinds = trials.kinds([product for product in trials.products if product.node in everything.kept])
    alone = {kind: tried for kind, products in kinds.items() if (tried := trials.attempt(kind, products)) is not None}
    # The compiled kernels tell which blocks gain. The kind that gains most is chosen entirely, as its products share
    # quantization across blocks; products of other kinds only where their own block gains.
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
    choice = Choice(trials, fp16, everything, best, fp16)
    return replace(choice, chosen=best) if choice.worthwhile else choice
