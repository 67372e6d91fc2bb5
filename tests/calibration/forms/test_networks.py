"""Our networks, all of them, in their forms: the same logits in float32, and no more lost in float16."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hemf_export.calibration import forms
from hemf_export.calibration.emulation import emulate
from hemf_export.calibration.forms import PASSES
from hemf_export.calibration.fp16 import to_float16
from hemf_export.calibration.graphs import parse, prepare
from hemf_export.calibration.session import Session
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.networks.hemf.variants import vary
from hemf_export.networks.registry import build
from tests.calibration.forms.checks import assert_same, images, kinds, rewritten, run
from tests.conftest import TINY, Made, tiny_checkpoint

PLACES = {"retention": 4, "mixed-attention": 8, "maps": 27, "patches": 1, "depthwise": 11, "norms": 14}


class Case(NamedTuple):
    """A network, and how it is exported."""

    variant: str
    width: int
    image_size: int
    opset: int
    batch: int | None = None
    raw: bool = False
    seed: int = 0

    @property
    def config(self) -> HemfConfig:
        return vary(dataclasses.replace(TINY, width=self.width, image_size=self.image_size), self.variant)


CASES = (
    Case("full", 32, 96, 18),
    Case("full", 96, 32, 23, batch=2, seed=1),
    Case("full", 64, 64, 20, raw=True, seed=2),
    Case("full-irmlp", 32, 32, 20, batch=1),
    Case("both+mixed", 96, 32, 20, seed=3),
    Case("both+mhea", 64, 32, 20, seed=4),
    Case("both+ca-sa", 32, 64, 23),
    Case("both", 32, 32, 18, raw=True),
    Case("local-only", 32, 32, 20, batch=3),
    Case("global-only", 96, 64, 20, seed=5),
)


@pytest.fixture(scope="module")
def plain(whole_network: Made) -> onnx.ModelProto:
    """The tiny network of four heads' channels, as it was exported and simplified."""
    return onnx.load(whole_network.onnx)


def test_all_passes_find_their_blocks_and_change_no_number(plain):
    made, found = rewritten(plain)
    assert found.places == PLACES
    assert found.to_dict() == {"for": "tensorrt-rtx", "passes": PLACES}
    assert_same(plain, made)
    left = kinds(made)
    assert (left["Div"], left["ReduceLogSumExp"], left["Softmax"]) == (0, 4, 12), "two attentions of a block are one"
    depthwise = [node for node in made.graph.node if node.op_type == "Conv" and any(a.name == "group" and a.i > 1
                 for a in node.attribute)]  # fmt: skip
    assert depthwise == []


def test_for_tensorrt_depthwise_convolutions_and_norms_stay(plain):
    made, found = rewritten(plain, form="tensorrt")
    assert found.places == {name: count for name, count in PLACES.items() if name not in ("depthwise", "norms")}
    assert_same(plain, made, (2,))


@pytest.mark.parametrize("name", PLACES)
def test_a_pass_alone(plain, name):
    made, found = rewritten(plain, name)
    assert set(found.places) == {name}
    assert_same(plain, made, (1, 3))


def test_for_a_cpu_and_of_an_old_opset_all_stays(plain):
    made, found = rewritten(plain, form="cpu")
    assert found.places == {}
    assert made.SerializeToString() == ir.serde.serialize_model(parse(plain)).SerializeToString()
    old = parse(plain)
    old.opset_imports[""] = 17
    assert forms.rewrite(old, "tensorrt-rtx").places == {}


@pytest.mark.extended
def test_twice_is_as_once(plain):
    made, _ = rewritten(plain)
    again, found = rewritten(made)
    assert set(found.places) <= {"maps", "norms"}
    assert_same(plain, again, (2,))


def float16_errors(plain: onnx.ModelProto, count: int = 16) -> tuple[float, float]:
    """Root mean square of what float16 costs the plain graph and the rewritten one, in logits of so many images."""
    batch = plain.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 4
    batches = [images(plain, batch, seed)[0] for seed in range(-(-count // batch))]
    exact = np.concatenate([run(plain, given)[0] for given in batches])
    found = []
    for form in ("cpu", "tensorrt-rtx"):
        model = parse(plain)
        forms.rewrite(model, form)
        to_float16(model)
        session = Session(emulate(model))
        logits = np.concatenate([session.logits(given) for given in batches])
        assert np.isfinite(logits).all()
        found.append(float(np.sqrt(((logits - exact) ** 2).mean())))
    return found[0], found[1]


@pytest.mark.extended
def test_float16_costs_no_more_than_before(plain):
    before, after = float16_errors(plain)
    assert 0 < after < 1.5 * before


def exported(case: Case) -> onnx.ModelProto:
    """Before onnxsim."""
    from hemf_export.export import onnx_export

    saved = tiny_checkpoint(case.seed, case.config)
    model = build(case.config, seed=case.seed)
    model.load_state_dict(saved.state)
    options: dict[str, Any] = {"input_type": "uint8"} if case.raw else {}
    made = onnx_export.export_graph(
        model.eval(), Preprocess.for_size(case.image_size),
        onnx_export.Options(opset=case.opset, batch=case.batch, **options),
    )  # fmt: skip
    return ir.serde.serialize_model(made)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_any_network(case):
    plain = exported(case)
    for form in ("tensorrt", "tensorrt-rtx"):
        made, found = rewritten(plain, form=form)
        assert ("retention" in found.places) == (case.variant != "local-only")
        assert ("mixed-attention" in found.places) == (case.variant not in (
            "both", "both+ca-sa", "local-only", "global-only",
        ))  # fmt: skip
        assert ("depthwise" in found.places) == (form == "tensorrt-rtx")
        assert_same(plain, made)
    for step in PASSES:
        made, _ = rewritten(plain, step.name)
        assert_same(plain, made, (2,))
    prepared = ir.serde.serialize_model(prepare(plain))
    assert_same(plain, rewritten(prepared)[0])
    before, after = float16_errors(plain)
    assert 0 < after < 1.5 * before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_float16_of_several_networks(seed):
    plain = exported(Case("full", 32, 32, 20, seed=seed))
    before, after = float16_errors(plain, 24)
    assert 0 < after < 1.5 * before
