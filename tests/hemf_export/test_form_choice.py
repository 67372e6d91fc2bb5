"""The passes of a form that are worth it for a graph: by what the real builder compiles, and by made-up times."""

from __future__ import annotations

import json
from collections.abc import Collection
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hemf_export.calibration import forms
from hemf_export.calibration.graphs import prepare
from hemf_export.engines import build, targets
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.models.description import Description
from hemf_export.precision import form_choice

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

T4 = targets.find("t4")
DESCRIBED = Description(
    name="other", classes=("a", "b"), preprocess=Preprocess.for_size(32), precision="fp32", input_type="float32",
    batch=None, checkpoint_sha256="0" * 64, versions={},
)  # fmt: skip


def depthwise_network(channels: int = 32) -> onnx.ModelProto:
    """(N, 3, 32, 32) → a convolution, a depthwise one, the average of all pixels → two logits."""
    generator = np.random.default_rng(0)
    weights = {
        "first": generator.standard_normal((channels, 3, 3, 3)),
        "depth": generator.standard_normal((channels, 1, 5, 5)),
        "head": generator.standard_normal((channels, 2)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "depth"], ["c"], "depthwise", group=channels, pads=[2] * 4),
        helper.make_node("Relu", ["c"], ["d"], "relu_2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "head"], ["logits"], "head"),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["N", 3, 32, 32]), ("logits", ["N", 2]))
    ]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def choose(proto: onnx.ModelProto, *, ours: bool = False) -> form_choice.Choice:
    compiler = form_choice.Compiler("tensorrt-rtx", T4, batch=2)
    return form_choice.choose(prepare(proto), compiler, DESCRIBED, ours=ours)


def test_another_s_depthwise_network_is_compiled_both_ways_and_the_lesser_one_taken():
    choice = choose(depthwise_network())
    whole, plain = choice.tried
    assert whole.passes == ("depthwise",)
    assert plain.passes == ()
    assert whole.bytes is not None
    assert plain.bytes is not None
    assert whole.bytes < plain.bytes, "TensorRT-RTX has no depthwise kernel for sm_75"
    assert choice.passes == ("depthwise",)


def test_ours_is_not_compiled_for_it_unless_it_is_tuned(monkeypatch):
    monkeypatch.setattr(build, "take_census", lambda *_: pytest.fail("nothing has to be compared"))
    choice = choose(depthwise_network(), ours=True)
    assert choice.tried == ()
    assert choice.passes == tuple(step.name for step in forms.PASSES)
    nothing_found = choose(depthwise_network(channels=1))
    assert nothing_found.tried == (), "no pass finds anything"


@pytest.fixture
def compiled(monkeypatch):
    """Makes up what is compiled: milliseconds by the passes that were run."""

    def make_up(ms_of: dict[frozenset[str], float]) -> None:
        rewrite = forms.rewrite
        ran: list[frozenset[str]] = []

        def recorded(model, form, *, only: Collection[str] | None = None):
            ran.append(frozenset(only or ()))
            return (
                forms.Rewriting(form, dict.fromkeys(("maps", "depthwise", "norms"), 1))
                if only is None
                else rewrite(model, form, only=())
            )

        def take(*_):
            ms = ms_of[ran[-1]]
            return SimpleNamespace(launches=1, moved_bytes=1, model_ms=lambda *_: ms)

        monkeypatch.setattr(forms, "rewrite", recorded)
        monkeypatch.setattr(build, "take_census", take)

    return make_up


def test_a_pass_that_costs_is_left_out(compiled):
    def cost(passes: Collection[str]) -> float:
        return 10.0 - 2 * ("maps" in passes) + 5 * ("depthwise" in passes) - ("norms" in passes)

    every = [frozenset(names) for names in ((), ("maps",), ("maps", "depthwise"), ("maps", "norms"),
                                            ("maps", "depthwise", "norms"), ("depthwise",), ("norms",))]  # fmt: skip
    compiled({passes: cost(passes) for passes in every})
    choice = choose(depthwise_network())
    assert choice.passes == ("maps", "norms")
    assert min(choice.tried, key=lambda tried: tried.model_ms).passes == choice.passes
    assert choice.tried[0].passes == ("maps", "depthwise", "norms")


def test_what_can_not_be_compared_is_told_and_all_passes_run(monkeypatch):
    def refuse(*_):
        raise BadInputError("no layer list")

    monkeypatch.setattr(build, "take_census", refuse)
    choice = choose(depthwise_network())
    assert choice.passes == tuple(step.name for step in forms.PASSES)
    assert "no layer list" in str(choice.note)


def test_tune_is_of_a_graph_that_is_made(made, run_cli):
    code, _, err = run_cli("trt", made.onnx, "--tune")
    assert code == 2
    assert "--tune" in err


@pytest.mark.extended
def test_what_was_tried_is_in_the_manifests(made, run_cli, tmp_path):
    code, out, err = run_cli(
        "trt", made.onnx, "--fp16", "--tune", "--batch", "1:1:1", "-o", tmp_path / "m.engine", "--json"
    )
    assert code == 0, err
    tried = json.loads(out)["form"]["tried"]
    assert {"passes", "kernels", "bytes", "model_ms", "measured_ms"} == set(tried[0])
    assert {each["measured_ms"] for each in tried} == {None}, "there is no GPU"
    best = min(tried, key=lambda each: each["model_ms"])
    half = artifacts.read_manifest(tmp_path / f"{made.onnx.stem}.fp16.onnx")
    assert half is not None
    assert set(half["form"]["passes"]) == set(best["passes"])
    assert half["form"]["tried"] == tried
