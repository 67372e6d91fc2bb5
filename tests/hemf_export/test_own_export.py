"""Networks of a user's own through the export: the same logits at every batch size, norms folded where they can be."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from hemf_export.export import onnx_export
from hemf_export.export.onnx_export import Options
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.models.runners import OnnxRunner, TorchRunner
from hemf_export.networks import own, registry
from tests import own_networks
from tests.own_networks import SIZE

extended = pytest.mark.extended


def build(name: str) -> torch.nn.Module:
    """A network whose norms have statistics of their own."""
    config = own.named(f"{own_networks.__name__}:{name}", num_classes=3, image_size=SIZE)
    model = registry.build(config, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if "running" in key or "norm" in key.lower() or key.startswith(("before", "behind", "alone", "last")):
            value.uniform_(0.5, 2, generator=generator) if value.is_floating_point() else None
    return model


def exported(model: torch.nn.Module, **options: object) -> tuple[ir.Model, float]:
    """The graph, and the largest difference of a logit from the network's at four batch sizes."""
    generator = np.random.default_rng(0)
    images = {size: generator.standard_normal((size, 3, SIZE, SIZE)).astype(np.float32) for size in (1, 2, 3, 5)}
    expected = {size: TorchRunner(model).infer(batch) for size, batch in images.items()}
    graph = onnx_export.export_graph(model, Preprocess.for_size(SIZE), Options(**options))
    runner = OnnxRunner(graph)
    found = {size: runner.infer(batch) for size, batch in images.items()}
    assert all(math.isfinite(np.abs(logits).max()) and np.ptp(logits) > 0.01 for logits in expected.values())
    return graph, max(float(np.abs(found[size] - expected[size]).max()) for size in images)


def operators(graph: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph)


def test_norms_behind_products_are_folded_and_others_stay():
    graph, difference = exported(build("Normed"))
    assert difference < 1e-5
    kinds = operators(graph)
    assert kinds["BatchNormalization"] == 2, "before a convolution, and behind a pooling: nothing to fold them into"
    assert (kinds["Conv"], kinds["Gemm"], kinds["Dropout"]) == (2, 1, 0)
    names = [node.name for node in graph.graph]
    assert "grouped/conv2d_1" in names
    assert not any(str(name).startswith(("behind", "last")) for name in names)
    assert graph.graph.outputs[0].name == onnx_export.tracing.OUTPUT_NAME


@pytest.mark.parametrize(
    "name", ["ViewBySize", *(pytest.param(one, marks=extended) for one in ("ViewByFeatures", "Flattened"))]
)
def test_a_view_of_the_map_takes_any_batch_without_arithmetic_on_shapes(name):
    graph, difference = exported(build(name))
    assert difference < 1e-5
    assert operators(graph) == {"Conv": 1, "Relu": 1, "Reshape": 1, "Gemm": 1}


@extended
@pytest.mark.parametrize("name", ["ClassToken", "SizedByBatch"])
def test_where_the_batch_is_in_the_graph_it_is_traced_as_a_symbol(name):
    graph, difference = exported(build(name))
    assert difference < 1e-5
    assert operators(graph)["Shape"]
    shape = graph.graph.inputs[0].shape
    assert shape is not None
    assert str(shape[0]) == "batch"


@extended
def test_other_norms_are_exported_as_they_are():
    graph, difference = exported(build("OtherNorms"))
    assert difference < 1e-4
    assert operators(graph)["InstanceNormalization"] == 2


@extended
def test_a_batch_size_that_the_code_fixes_is_told_with_its_module():
    with pytest.raises(BadInputError, match=r"fixed in the network's code in the module bias: .*batch=N"):
        exported(build("BatchInCode"))
    graph = onnx_export.export_graph(build("BatchInCode"), Preprocess.for_size(SIZE), Options(batch=4))
    assert OnnxRunner(graph).infer(np.zeros((4, 3, SIZE, SIZE), np.float32)).shape == (4, 3)


def test_what_the_exporter_refuses_is_told_with_module_and_line(capfd):
    with pytest.raises(BadInputError) as refused:
        onnx_export.export_graph(build("Branching"), Preprocess.for_size(SIZE), Options(batch=2))
    assert "refuses the network in the module bias: GuardOnDataDependentSymNode" in refused.value.message
    assert "own_networks.py:" in refused.value.message
    assert "may not depend on values" in str(refused.value.hint)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", ""), "one message, and not the exporter's listing of the graph"
