"""Compile a graph only to list its kernels, without keeping an engine.

The choice of kernels depends on shapes and types, not on the values of weights. So weights are replaced by synthetic
ones before the graph is compiled, and the cached census of one checkpoint serves all of the same architecture.
`tests/hemf_export/test_int8_choice.py` checks that the kernels are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from hemf_export.calibration import forms
from hemf_export.calibration.forms import Form
from hemf_export.calibration.graphs import copy_of
from hemf_export.calibration.qdq import Statistics
from hemf_export.calibration.ranges import Histogram
from hemf_export.engines import build, targets
from hemf_export.engines.backends import BackendName
from hemf_export.engines.census import Census
from hemf_export.engines.targets import Chip, Target
from hemf_export.files import artifacts

_PATTERN = 4096  # synthetic values, repeated
_WEIGHTS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8)


@dataclass(frozen=True)
class Compiler:
    """Backend and target of a graph, and how the passes for them are chosen.

    Args:
        form: the backend whose form the graph is brought to.
        target: target GPU.
        batch: batch size at which candidates are compared.
        tune: try each pass.
    """

    form: Form = forms.DEFAULT
    target: Target = targets.TARGETS["t4"]
    batch: int = 8
    tune: bool = False

    @property
    def backend(self) -> BackendName:
        """TensorRT or TensorRT-RTX, by the form."""
        return "tensorrt" if self.form == "tensorrt" else "tensorrt-rtx"

    @property
    def chip(self) -> Chip:
        """GPU whose rates model the engines' times: the target, one of its compute capability, or else a T4."""
        capability = self.target.compute_capability
        alike = (known.chip for known in targets.TARGETS.values() if known.compute_capability == capability)
        return self.target.chip or next((chip for chip in alike if chip is not None), targets.T4)

    def for_batch(self, fixed: int | None) -> Compiler:
        """Copy for a graph with a fixed batch; None for a dynamic one."""
        return self if fixed is None else replace(self, batch=fixed)


def count(model: ir.Model, compiler: Compiler) -> Census:
    """Compile a graph for one batch size and list its kernels; see `engines.build.take_census`.

    Args:
        model: strongly typed graph; not changed.
        compiler: backend, target and batch; a graph with a fixed batch keeps it.

    Raises:
        MissingCapabilityError: the backend isn't here, or doesn't have the target.
        BadInputError: the backend can't build the graph.
    """
    with artifacts.scratch() as folder:
        path = folder / "graph.onnx"
        ir.save(_with_synthetic_weights(model), path)
        return build.take_census(path, compiler.target, compiler.backend, compiler.batch)


def _with_synthetic_weights(model: ir.Model) -> ir.Model:
    copy = copy_of(model)
    copy.metadata_props.clear()
    copy.doc_string = None
    generator = np.random.default_rng(0)
    floats = generator.uniform(0.01, 0.1, _PATTERN).astype(np.float32)  # scales are positive
    integers = generator.integers(-127, 128, _PATTERN, dtype=np.int8)
    for number, (name, value) in enumerate(copy.graph.initializers.items()):
        if value.const_value is None or value.const_value.size < 2 or value.dtype not in _WEIGHTS:
            continue
        if any(user.op_type == "Resize" for user in value.consumers()):  # its factors determine the output's shape
            continue
        array = value.const_value.numpy()
        if (array == array.flat[0]).all():  # a builder may eliminate ones and zeros
            continue
        pattern = np.roll(integers if value.dtype == ir.DataType.INT8 else floats.astype(array.dtype), number)
        value.const_value = ir.Tensor(np.resize(pattern, array.shape), name=name)
    return copy


class _SyntheticRanges(dict[str, Histogram]):
    """Gives every value a different range."""

    def __missing__(self, name: str) -> Histogram:
        histogram = self[name] = Histogram()
        histogram.add(np.linspace(-1, 1, 257, dtype=np.float32) * (1 + len(self) / 64))
        return histogram


def synthetic_statistics() -> Statistics:
    """Make synthetic statistics for quantizing a graph whose kernels are all that matters."""
    return Statistics(_SyntheticRanges())
