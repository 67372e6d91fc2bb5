"""Graphs compiled only to count their kernels: no engine is kept.

Which kernels a builder makes depends on shapes and types, not on the values of weights. So every array of numbers is
replaced by made-up ones before the graph is compiled, and what was counted for one checkpoint is in the cache for the
next one of the same architecture. `tests/hemf_export/test_int8_choice.py` holds the two lists of kernels against each
other.
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
from hemf_export.engines import census, chips, targets
from hemf_export.engines.backends import BackendName
from hemf_export.engines.census import Census
from hemf_export.engines.chips import Chip
from hemf_export.engines.targets import Target
from hemf_export.files import artifacts

_PATTERN = 4096  # made-up values, repeated
_WEIGHTS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8)


@dataclass(frozen=True)
class Compiler:
    """What a graph is for: the backend that compiles it, and how its form is chosen.

    Args:
        form: the backend.
        target: that an engine is built for.
        batch: images a call that candidates are compared at.
        tune: try each pass.
    """

    form: Form = forms.DEFAULT
    target: Target = targets.TARGETS["t4"]
    batch: int = 8
    tune: bool = False

    @property
    def backend(self) -> BackendName:
        """Which TensorRT compiles the form."""
        return "tensorrt" if self.form == "tensorrt" else "tensorrt-rtx"

    @property
    def chip(self) -> Chip:
        """The GPU whose rates engines are compared by: the target, or one of its compute capability, or else a T4."""
        capability = self.target.compute_capability
        alike = (known.chip for known in targets.TARGETS.values() if known.compute_capability == capability)
        return self.target.chip or next((chip for chip in alike if chip is not None), chips.T4)

    def for_batch(self, fixed: int | None) -> Compiler:
        """What a graph with a fixed batch is for; None is a batch left open."""
        return self if fixed is None else replace(self, batch=fixed)


def count(model: ir.Model, compiler: Compiler) -> Census:
    """Compile a graph for one batch size and count its kernels; see `engines.census.take`.

    Args:
        model: with the type that every node computes in; left as it is.
        compiler: backend, target and batch; a graph with a batch of its own keeps to that.

    Raises:
        MissingCapabilityError: no such backend here, or it has no such target.
        BadInputError: the backend doesn't take the graph.
    """
    with artifacts.scratch() as folder:
        path = folder / "graph.onnx"
        ir.save(_with_made_up_weights(model), path)
        return census.take(path, compiler.target, compiler.backend, compiler.batch)


def _with_made_up_weights(model: ir.Model) -> ir.Model:
    made = copy_of(model)
    made.metadata_props.clear()
    made.doc_string = None
    generator = np.random.default_rng(0)
    floats = generator.uniform(0.01, 0.1, _PATTERN).astype(np.float32)  # scales are positive
    integers = generator.integers(-127, 128, _PATTERN, dtype=np.int8)
    for number, (name, value) in enumerate(made.graph.initializers.items()):
        if value.const_value is None or value.const_value.size < 2 or value.dtype not in _WEIGHTS:
            continue
        if any(user.op_type == "Resize" for user in value.consumers()):  # its factors are the size of its result
            continue
        array = value.const_value.numpy()
        if (array == array.flat[0]).all():  # ones and zeros may be left out by a builder
            continue
        pattern = np.roll(integers if value.dtype == ir.DataType.INT8 else floats.astype(array.dtype), number)
        value.const_value = ir.Tensor(np.resize(pattern, array.shape), name=name)
    return made


class _MadeUpRanges(dict[str, Histogram]):
    """Give every value a range of its own."""

    def __missing__(self, name: str) -> Histogram:
        histogram = self[name] = Histogram()
        histogram.add(np.linspace(-1, 1, 257, dtype=np.float32) * (1 + len(self) / 64))
        return histogram


def made_up_statistics() -> Statistics:
    """What a graph can be quantized from where only its kernels count, which depend on no range."""
    return Statistics(_MadeUpRanges())
