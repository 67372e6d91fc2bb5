"""One network, a graph for each backend: what is computed stays, what the backend compiles from it gets less.

ONNX Runtime on a CPU, TensorRT and TensorRT-RTX fuse other things and lack other kernels. Each pass here takes a
float32 graph and rewrites the blocks that it knows, exactly but for the order of float32 sums; a graph without such
blocks passes through as it is. Which kernels a backend compiles, and so what a pass is worth, `engines.census` tells:
`make bench-engine` prints it, pass by pass.
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
    """A rewriting of the blocks that it knows.

    Args:
        name: in manifests and tables.
        run: rewrites a graph in place, and tells how many places there were.
        forms: that it is part of.
        last: it changes no product, and what it leaves is slower on a CPU: what images are run through a graph for is
            done before.
    """

    name: str
    run: Callable[[ir.Model], int]
    forms: frozenset[Form]
    last: bool = False


_BOTH: frozenset[Form] = frozenset(("tensorrt", "tensorrt-rtx"))
_RTX: frozenset[Form] = frozenset(("tensorrt-rtx",))

# In this order: what one leaves is what the next finds.
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
    """The passes that a graph went through.

    Args:
        form: the backend that it is for.
        places: how many blocks each pass rewrote; passes that found none are left out.
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
    """The passes of a form that a graph is calibrated behind."""
    return tuple(step.name for step in PASSES if form in step.forms and not step.last)


def last(form: Form) -> tuple[str, ...]:
    """The passes of a form that come after calibration."""
    return tuple(step.name for step in PASSES if form in step.forms and step.last)


def weight_inputs(node: ir.Node) -> tuple[int, ...] | None:
    """Which inputs of a node that a pass wrote are weights of the network; None of any other node.

    The taps of a depthwise sum, what a norm in steps multiplies and adds, the values of an external attention and the
    factors of a channel gate are, in operators that take tables elsewhere. The keys of an external attention stand in a
    graph twice, once for the sums over the tokens: changed apart, they would be two.
    """
    part = scope(node).rsplit("/", 1)[-1]
    if part == mixed_attention.SUMS:
        return ()
    if part not in _WITH_WEIGHTS or node.op_type not in ("Mul", "Add"):
        return None
    arrays = [constant(value) for value in node.inputs]
    return tuple(place for place, array in enumerate(arrays) if array is not None and array.size > 1)


def rewrite(model: ir.Model, form: Form, *, only: Collection[str] | None = None) -> Rewriting:
    """Bring a float32 graph to the form for a backend, in place.

    Args:
        model: of opset 18 or later; an older one is left as it is.
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
        if found := step.run(model):
            places[step.name] = found
            common.RemoveUnusedNodesPass()(model)
            model.graph.sort()
            infer(model)
            layout.cancel(model)
    return Rewriting(form, places)
