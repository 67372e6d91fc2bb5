"""Rewrite a network's graph for a backend: the same computation, in a form that compiles to fewer and faster kernels.

ONNX Runtime on a CPU, TensorRT and TensorRT-RTX fuse different patterns and lack different kernels. Each pass rewrites
the blocks that it knows in a float32 graph, exactly up to the order of float32 sums; graphs without such blocks stay
unchanged. `engines.census` counts the kernels that a backend compiles, and so what a pass gains; `make bench-engine`
prints this for each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

import onnx_ir as ir
from onnx_ir.passes import common

from hemf_export.calibration.forms import depthwise, layout, maps, mixed_attention, norms, patches, retention
from hemf_export.calibration.forms.matching import constant, scope
from hemf_export.calibration.graphs import infer

Form = Literal["cpu", "tensorrt", "tensorrt-rtx"]
FORMS: tuple[Form, ...] = get_args(Form)
DEFAULT: Form = "tensorrt-rtx"  # builds engines anywhere
MIN_OPSET = 18  # reductions take their axes as an input since


@dataclass(frozen=True)
class Pass:
    """Pass that rewrites one kind of block.

    Args:
        name: its name in manifests and tables.
        run: rewrites a graph in place, and returns the number of blocks rewritten.
        forms: the forms that it is part of.
        last: run it after calibration: it changes no product, and its result is slower on a CPU.
    """

    name: str
    run: Callable[[ir.Model], int]
    forms: frozenset[Form]
    last: bool = False


_BOTH: frozenset[Form] = frozenset(("tensorrt", "tensorrt-rtx"))
_RTX: frozenset[Form] = frozenset(("tensorrt-rtx",))

# Order matters: a pass matches what the passes before it write.
PASSES = (
    Pass("retention", retention.rewrite, _BOTH),
    Pass("mixed-attention", mixed_attention.rewrite, _BOTH),
    Pass("maps", maps.rewrite, _BOTH),
    Pass("patches", patches.rewrite, _BOTH),
    # TensorRT has depthwise kernels and layer norm kernels of its own.
    Pass("depthwise", depthwise.rewrite, _RTX, last=True),
    Pass("norms", norms.rewrite, _RTX, last=True),
)


_WITH_WEIGHTS = (depthwise.SHIFTS, norms.STEPS, mixed_attention.VALUES, mixed_attention.GATE)  # scopes


@dataclass(frozen=True)
class Rewriting:
    """Passes that rewrote a graph.

    Args:
        form: backend that the graph is for.
        places: number of blocks that each pass rewrote; passes without any are left out.
    """

    form: Form
    places: dict[str, int]

    def __add__(self, other: Rewriting) -> Rewriting:
        return Rewriting(self.form, {**self.places, **other.places})

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        return {"for": self.form, "passes": dict(self.places)}

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.places.items())
        return f"{self.form}: {counts or 'as it was'}"


def first(form: Form) -> tuple[str, ...]:
    """Return the passes of a form that come before calibration."""
    return tuple(step.name for step in PASSES if form in step.forms and not step.last)


def last(form: Form) -> tuple[str, ...]:
    """Return the passes of a form that come after calibration."""
    return tuple(step.name for step in PASSES if form in step.forms and step.last)


def weight_inputs(node: ir.Node) -> tuple[int, ...] | None:
    """Return which inputs of a node that a pass wrote are weights of the network; None for any other node.

    Weights are the taps of a depthwise sum, the scale and bias of a norm in steps, the values of an external attention
    and the factors of a channel gate; other constants of such operators are tables. The keys of an external attention
    aren't among them: the graph has them twice, the second time for the sums over the tokens, and training would make
    the copies diverge.
    """
    part = scope(node).rsplit("/", 1)[-1]
    if part == mixed_attention.SUMS:
        return ()
    if part not in _WITH_WEIGHTS or node.op_type not in ("Mul", "Add"):
        return None
    arrays = [constant(value) for value in node.inputs]
    return tuple(place for place, array in enumerate(arrays) if array is not None and array.size > 1)


def rewrite(model: ir.Model, form: Form, *, only: Collection[str] | None = None) -> Rewriting:
    """Rewrite a float32 graph into the form for a backend, in place.

    Args:
        model: graph of opset 18 or later; an older one isn't changed.
        form: the backend.
        only: names of the passes to run; None for all of the form.
    """
    places: dict[str, int] = {}
    if model.opset_imports.get("", 0) < MIN_OPSET:
        return Rewriting(form, places)
    infer(model)
    for step in PASSES:
        if form not in step.forms or (only is not None and step.name not in only):
            continue
        if count := step.run(model):
            places[step.name] = count
            common.RemoveUnusedNodesPass()(model)
            model.graph.sort()
            infer(model)
            layout.cancel(model)
    return Rewriting(form, places)
