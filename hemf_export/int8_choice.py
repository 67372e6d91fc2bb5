"""Which products of a graph are worth INT8: decided by the engines that a backend compiles, not by the work they are.

INT8 halves what a product reads and may double its rate, and it costs: kernels that quantize, fusions that are lost,
weights that are dequantized at run time where a GPU has no such kernel. What remains of it only the compiled engine
tells. So the graph is compiled in FP16, with everything in INT8, and with those parts in INT8 that gained; the engine
that `engines.census`'s model gives least time says what a budget may choose from. Where none is 5 % faster than FP16,
INT8 isn't worth its loss of digits.

No engine is kept, and no image is run: kernels depend on neither ranges nor weights (see `trial_engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from calibration import forms
from calibration.blocks import block_of, blocks, node_name
from calibration.budget import Worth
from calibration.fp16 import to_float16
from calibration.graphs import copy_of
from calibration.int8 import share_of
from calibration.products import Product
from calibration.qdq import quantize
from engines.census import Census
from hemf.errors import BadInputError, HemfError
from hemf_export import compiled_precision, trial_engine
from hemf_export.trial_engine import Compiler

LEAST_GAIN = 0.05  # of the FP16 engine's modelled time: what INT8 must save to be worth it
_CONVOLUTION = "Conv"
_LEAST_WORTH = 0.02  # of the largest block's: what a block counts for whose kernels tell of no gain of its own

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Trial:
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

    def saved_ms(self, other: Trial, block: str) -> float:
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


class Trials:
    """Compiles one float32 graph with these or those products in INT8, each set once.

    Args:
        model: float32, brought to the backend's form but for its last passes; left as it is.
        products: all of it.
        islands: nodes that stay in float32, and why.
        compiler: what the engine is for.
        batch: images a call.
        last: names of the passes that come after quantization.
        step: shows what is under way.
    """

    def __init__(
        self,
        model: ir.Model,
        products: Sequence[Product],
        islands: Mapping[str, str],
        compiler: Compiler,
        batch: int,
        *,
        last: Collection[str] = (),
        step: Step | None = None,
    ) -> None:
        self.compiler, self.batch, self.products = compiler, batch, tuple(products)
        self.version = ""
        self._model, self._islands, self._last = model, dict(islands), last
        self._step = step or (lambda text: nullcontext())
        self._blocks = blocks(model.graph)
        self._known: dict[frozenset[str], Trial] = {}

    @property
    def tried(self) -> tuple[Trial, ...]:
        """All, in order."""
        return tuple(self._known.values())

    @property
    def best(self) -> Trial:
        """The one that is modelled fastest of those with anything in INT8."""
        return min((trial for trial in self.tried if trial.nodes), key=lambda trial: trial.model_ms)

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

    def run(self, name: str, chosen: Sequence[Product]) -> Trial:
        """Compile the graph with the chosen products in INT8.

        Raises:
            HemfError: it can't be compiled or counted here.
        """
        nodes = frozenset(product.node for product in chosen)
        if nodes not in self._known:
            with self._step(f"Compiling the engine with {name} in INT8" if nodes else "Compiling the engine in FP16"):
                self._known[nodes] = self._compile(name, chosen, nodes)
        return self._known[nodes]

    def _compile(self, name: str, chosen: Sequence[Product], nodes: frozenset[str]) -> Trial:
        model = copy_of(self._model)
        if chosen:
            quantize(model, chosen, trial_engine.made_up_statistics(), "max")
        forms.rewrite(model, self.compiler.form, only=self._last)
        to_float16(model, self._islands)
        # Nodes of other people's graphs are in blocks by their place, which is that of the graph before any pass.
        names = map(node_name, model.graph)
        where = {node: block for node in names if (block := block_of(node))} | self._blocks
        counted = trial_engine.count(model, self.compiler, self.batch).with_blocks(where)
        self.version = counted.version
        time = counted.model_ms(self.compiler.chip, self.batch)
        by_block = counted.block_ms(self.compiler.chip, self.batch)
        if time is None or by_block is None:
            raise HemfError(f"{counted.backend} {counted.version} leaves sizes open, so engines can't be compared.")
        kept = compiled_precision.kept_products(compiled_precision.promises(model), counted)
        return Trial(
            name=name,
            nodes=nodes,
            blocks=tuple(dict.fromkeys(product.block for product in chosen)),
            kept=kept,
            share=share_of(self.products, [product for product in chosen if product.node in kept]),
            census=counted,
            model_ms=time,
            block_ms=by_block,
        )


@dataclass(frozen=True)
class Choice:
    """What INT8 gives on a target.

    Args:
        trials: that compiled it, and can compile more.
        fp16: nothing in INT8.
        everything: all that can be.
        best: the least modelled time with anything in INT8.
        chosen: what became of it: `fp16`, `best`, or what a budget left of it.
    """

    trials: Trials
    fp16: Trial
    everything: Trial
    best: Trial
    chosen: Trial

    @property
    def worthwhile(self) -> bool:
        """Whether the best is enough faster than FP16."""
        return self.is_worthwhile(self.best)

    def is_worthwhile(self, trial: Trial) -> bool:
        """Whether an engine is enough faster than FP16."""
        return trial.model_ms <= (1 - LEAST_GAIN) * self.fp16.model_ms

    @property
    def worth(self) -> Worth:
        """What each block of the best saves, as a share of the FP16 engine's modelled time; together what it saves.

        A kernel at the border of two blocks counts for one of them, so that a block may seem to lose by what its
        neighbour gains: it is taken to give little instead.
        """
        saved = {block: self.best.saved_ms(self.fp16, block) for block in self.best.blocks}
        least = _LEAST_WORTH * max([*saved.values(), 1e-6])
        raised = {block: max(value, least) for block, value in saved.items()}
        scale = (1 - self.best.model_ms / self.fp16.model_ms) / sum(raised.values())
        return Worth({block: scale * value for block, value in raised.items()}, self.best.nodes, LEAST_GAIN)

    @property
    def summary(self) -> str:
        """Why it is INT8 or FP16, in a sentence."""
        fastest = self.chosen if self.chosen.nodes else self.best
        ratio = fastest.model_ms / self.fp16.model_ms
        compiler = self.trials.compiler
        return (
            f"at batch {self.trials.batch} the {'INT8 engine' if self.chosen.nodes else 'fastest INT8 engine'} that "
            f"{compiler.backend} {self.trials.version} compiles for {compiler.target.sm} is modelled at "
            f"{fastest.model_ms:.2f} ms, {ratio:.3f} of the FP16 engine's {self.fp16.model_ms:.2f} ms"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        compiler = self.trials.compiler
        return {
            "backend": compiler.backend,
            "version": self.trials.version,
            "sm": compiler.target.sm,
            "rates_of": compiler.chip.product,
            "batch": self.trials.batch,
            "least_gain": LEAST_GAIN,
            "fp16": self.fp16.to_dict(),
            "chosen": self.chosen.to_dict(),
            "best": self.best.to_dict(),
            "all_int8": self.everything.to_dict(),
            "tried": [trial.to_dict() for trial in self.trials.tried],
        }


def choose(trials: Trials) -> Choice:
    """Find the products whose engine in INT8 is modelled fastest.

    Args:
        trials: of the graph.

    Raises:
        HemfError: the engine in FP16, or with everything in INT8, can't be compiled or counted here.
    """
    fp16 = trials.run("nothing", ())
    everything = trials.run("everything", [product for product in trials.products if product.refusal is None])
    # A promise that the engine breaks costs and gives nothing: TensorRT-RTX has no int8 convolutions for sm_75.
    kinds = trials.kinds([product for product in trials.products if product.node in everything.kept])
    alone: dict[str, Trial] = {}
    for kind, products in kinds.items():
        with suppress(BadInputError):  # the backend may not take it so
            alone[kind] = trials.run(kind, products)
    # Which blocks gain is read from the kernels of what was compiled. The kind that gains most is taken whole, as its
    # products share their quantization across blocks; others where their own block gains by them.
    first = min(alone, key=lambda kind: alone[kind].model_ms, default="")
    beside = [
        product
        for kind in alone
        for product in kinds[kind]
        if kind == first or alone[kind].saved_ms(fp16, product.block) > 0
    ]
    with suppress(BadInputError):
        trials.run(f"{first} and what gains beside them", beside)
    best = trials.best
    gaining = [each for each in trials.products if each.node in best.nodes and best.saved_ms(fp16, each.block) > 0]
    with suppress(BadInputError):
        trials.run("the blocks that gain", gaining)
    best = trials.best
    found = Choice(trials, fp16, everything, best, fp16)
    return Choice(trials, fp16, everything, best, best) if found.worthwhile else found
