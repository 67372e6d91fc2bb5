"""The float32 graph in the form of a file that was made from it: values of one name are the same values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration import emulation, node_errors
from hemf_export.calibration.forms import PASSES
from hemf_export.calibration.node_errors import measure
from hemf_export.files import artifacts
from hemf_export.verification.locate import counterpart


def told(source: Path, folder: Path, form: Any) -> Path:
    """A copy of a file whose manifest tells another form."""
    path = Path(shutil.copy(source, folder))
    manifest = json.loads(artifacts.manifest_path(source).read_text())
    artifacts.manifest_path(path).write_text(json.dumps({**manifest, "form": form}))
    return path


def names_of(model: ir.Model) -> set[str]:
    return {str(node.name) for node in model.graph}


@pytest.mark.extended
def test_every_node_of_a_float16_file_has_its_counterpart(whole_network):
    reference = counterpart(whole_network.onnx, whole_network.half)
    candidate = emulation.of_file(onnx.load(whole_network.half))
    casts = [node for node in candidate.graph if node.op_type == "Cast"]
    shared = names_of(reference) & names_of(candidate)
    assert len(shared) == len(list(candidate.graph)) - len(casts)
    nodes = node_errors.comparable(reference, candidate)
    assert len(nodes) > 500
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    assert max(error.own for error in measure(reference, candidate, [images])) < 0.01, "of its own, each is float16's"


@pytest.mark.parametrize("chosen", [(), ("maps",), ("retention", "norms")])
def test_only_the_passes_that_a_file_went_through(made, tmp_path, chosen):
    path = told(made.half, tmp_path, {"for": "tensorrt-rtx", "passes": dict.fromkeys(chosen, 1)})
    found = names_of(counterpart(made.onnx, path))
    parts = {"maps": "/maps/", "norms": "/steps/", "depthwise": "/shifts/", "mixed-attention": "/sums/"}
    assert set(parts) <= {step.name for step in PASSES}
    for name, part in parts.items():
        assert any(part in node for node in found) == (name in chosen), name


@pytest.mark.parametrize(
    "form", [None, "tensorrt-rtx", {}, {"for": "a strange one", "passes": {"maps": 1}}, {"for": "cpu"}]
)
def test_where_nothing_or_nonsense_is_told_the_graph_stays(made, tmp_path, form):
    path = told(made.half, tmp_path, form)
    assert names_of(counterpart(made.onnx, path)) == {node.name for node in onnx.load(made.onnx).graph.node}
