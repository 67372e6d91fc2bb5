"""What every rewriting must keep: a valid graph that computes what it did, at every batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from hemf_export.calibration import forms
from hemf_export.calibration.forms import Form, Rewriting
from hemf_export.calibration.graphs import parse

TOLERANCE = 1e-5  # of the largest number: sums run in another order, and nothing else differs


def rewritten(proto: onnx.ModelProto, *passes: str, form: Form = "tensorrt-rtx") -> tuple[onnx.ModelProto, Rewriting]:
    """A copy in a form; with `passes`, after those of its passes alone. ONNX's own checker finds it valid."""
    model = parse(proto)
    found = forms.rewrite(model, form, only=passes or None)
    made = ir.serde.serialize_model(model)
    onnx.checker.check_model(made, full_check=True)
    for before, after in ((proto.graph.input, made.graph.input), (proto.graph.output, made.graph.output)):
        assert [value.name for value in before] == [value.name for value in after]
        for one, other in zip(before, after, strict=True):
            types = [value.type.tensor_type for value in (one, other)]
            assert types[0].elem_type == types[1].elem_type
            sizes = zip(*(kind.shape.dim for kind in types), strict=True)
            assert all(size == found or size.dim_param for size, found in sizes), "no size is lost"
    return made, found


def run(proto: onnx.ModelProto, *inputs: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    """A graph's outputs, as ONNX Runtime computes them without optimizing."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def images(proto: onnx.ModelProto, batch: int, seed: int = 0) -> list[NDArray[np.generic]]:
    """Random numbers for each input of a graph: pixels where it takes uint8."""
    generator = np.random.default_rng([seed, batch])
    found: list[NDArray[np.generic]] = []
    for value in proto.graph.input:
        sizes = [axis.dim_value or batch for axis in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            found.append(generator.integers(0, 256, sizes).astype(np.uint8))
        else:
            found.append(generator.standard_normal(sizes).astype(np.float32))
    return found


def difference(before: onnx.ModelProto, after: onnx.ModelProto, inputs: Sequence[NDArray[np.generic]]) -> float:
    """The largest difference of any output, by the largest number in it."""
    pairs = zip(run(before, *inputs), run(after, *inputs), strict=True)
    worst = 0.0
    for exact, found in pairs:
        assert exact.shape == found.shape
        assert np.isfinite(exact).all()
        worst = max(worst, float(np.abs(found - exact).max() / max(np.abs(exact).max(), 1e-30)))
    return worst


def assert_same(
    before: onnx.ModelProto, after: onnx.ModelProto, batches: Collection[int] = (1, 2, 3), tolerance: float = TOLERANCE
) -> None:
    """Both compute the same of random images; of a fixed batch, that one is taken."""
    fixed = before.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    for batch in (fixed,) if fixed else batches:
        assert difference(before, after, images(before, batch)) <= tolerance


def kinds(proto: onnx.ModelProto) -> Counter[str]:
    """How many nodes there are of each operator."""
    return Counter(node.op_type for node in proto.graph.node)
