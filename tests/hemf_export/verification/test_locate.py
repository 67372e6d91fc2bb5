"""`verify --locate`: the node that was damaged is named, and what can't be looked into is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hemf_export.calibration.node_errors import NodeError
from hemf_export.verification import locate, run, verification
from hemf_export.verification import text as verification_text
from hemf_export.verification.verification import Request
from tests.hemf_export.conftest import no_inference
from tests.hemf_export.verification import faults


@pytest.mark.extended
def test_the_node_whose_weight_was_lost_is_named(copies, folder, run_cli):
    sound = verification.verify(Request((copies.half,), folder))
    where = locate.locate(sound, sound.candidates[0], copies.onnx).to_dict()
    assert (where["first"], where["float32_file"]) == (None, "model.onnx")
    assert len(where["nodes"]) > 100
    assert where["nodes"][-1]["node"] == "head/linear_8"
    node = "local_stages.1.0.pointwise/linear_3"
    faults.plant(copies.half, copies.half, faults.zero_weight(node))
    code, out, err = run_cli("verify", copies.half, "--data", folder, "--locate", "--json")
    assert code == 3
    found = json.loads(out)["candidates"][0]
    assert (found["divergence"]["first"]["node"], found["divergence"]["first"]["block"]) == (node, "ELF 2")
    assert [item["node"] for item in found["divergence"]["beyond"]] == [node], "what is behind it is not to blame"
    assert [missed["bound"] for missed in found["missed"][-2:]] == ["weight_error", "node_error"]
    assert f"{node} (ELF 2)" in err


def test_a_node_that_stores_other_numbers_comes_before_one_whose_error_is_large():
    """In INT8 a sound node may stand out, and a damaged one hardly move the few images that are looked at."""
    nodes = tuple(NodeError(name, "Conv", own, own) for name, own in (("a", 0.055), ("b", 0.02), ("c", 0.01)))
    where = locate.Located(Path("x.onnx"), ("1.png",), 0.052, 0.3, nodes, ("ELF 1", "ELF 2", "ELF 3"))
    assert where.to_dict()["first"]["node"] == "a"
    told = dataclasses.replace(where, damaged=frozenset({"c", "b"})).to_dict()
    assert (told["first"]["node"], told["damaged"], told["nodes_beyond"]) == ("b", ["b", "c"], 1)
    (text,) = verification_text.first_nodes({"candidates": [{"file": "x.int8.onnx", "divergence": told}]})
    assert "whose stored numbers are not those of x.onnx is b (Conv, ELF 2)" in text


def test_what_cannot_be_looked_into(made, copies, folder, tmp_path, run_cli, monkeypatch):
    no_inference(monkeypatch)
    code, _, err = run_cli("verify", copies.checkpoint, "--reference", made.checkpoint, "--data", folder, "--locate")
    assert (code, "not an ONNX file" in err) == (1, True)
    copies.onnx.unlink()
    code, _, err = run_cli("verify", copies.half, "--data", folder, "--locate")
    assert (code, "--float32" in err) == (1, True)
    for other, said in ((made.half, "is fp16"), (copies.folder / "gone.onnx", "No ONNX file")):
        code, _, err = run_cli("verify", copies.half, "--data", folder, "--float32", other)
        assert (code, said in err) == (1, True)
    some = run.plan_scrutiny([copies.half, copies.checkpoint], made.onnx, nodes=True)
    assert some.parents == {copies.half: made.onnx}
    assert len(some.notes) == 1
    both = run.plan_scrutiny([made.onnx, made.half], nodes=True)
    assert (both.parents, both.notes) == ({made.half: made.onnx}, ()), "no word of the parent"
