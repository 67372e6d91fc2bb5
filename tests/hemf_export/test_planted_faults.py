"""Ten faults in the files of a trained network, each caught by the default bounds; and what those can't see.

What the bounds can't see: in FP16 and INT8 the logits of a sound file differ from the checkpoint's by rounding, and a
fault that moves them less than that passes. On this network a step of one quantized value that is ten times too wide is
such a fault. It is not invisible: `--locate` looks at every node by itself, and names it.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from hemf_export import verification
from hemf_export.verification import Request
from hemf_export.verified import Verification, Verified
from tests.hemf_export import faults

FAULTS = [*faults.IN_FLOAT, "scale", "stale BatchNorm", "described normalization"]
# What else than the logits shows it, on images that the network tells apart well.
ALSO = {
    "swapped class order": {"min_agreement", "max_drop", "max_recall_drop"},
    "described normalization": {"preprocessing"},
}


@pytest.fixture(scope="module")
def planted(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file with each fault, by its name; and the sound ones."""
    folder, source = tmp_path_factory.mktemp("faults"), int8.parent / "best.onnx"
    files = {
        name: faults.plant(source, folder / f"{number}.onnx", edit)
        for number, (name, edit) in enumerate(faults.IN_FLOAT.items())
    }
    files["scale"] = faults.plant(int8, int8.parent / "scale.int8.onnx", faults.scale(faults.CONVOLUTION))
    files["described normalization"] = faults.plant(source, folder / "described.onnx", faults.described_otherwise)
    files["stale BatchNorm"] = faults.stale_batch_norms(source.with_suffix(".pt"), folder / "stale.pt")
    return {**files, "sound fp32": source, "sound int8": int8}


@pytest.fixture(scope="module")
def found(planted: dict[str, Path], int8: Path, pictures: Path) -> Verification:
    request = Request(tuple(planted.values()), pictures, int8.parent / "best.pt")
    return verification.verify(request)


@pytest.fixture
def verdict(found: Verification, planted: dict[str, Path]):
    def of(name: str) -> Verified:
        return next(candidate for candidate in found.candidates if candidate.subject.path == planted[name])

    return of


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught(verdict, name):
    candidate = verdict(name)
    bounds = {missed.bound for missed in candidate.missed}
    assert bounds == {"finite" if name == "NaN weight" else "max_logit_difference", *ALSO.get(name, ())}
    assert all(missed.text for missed in candidate.missed)


@pytest.mark.parametrize("name", ["sound fp32", "sound int8"])
def test_a_sound_file_passes(verdict, name):
    assert verdict(name).passed, verdict(name).missed


def test_the_node_whose_scale_was_damaged_is_named(planted, pictures, int8, tmp_path, run_cli):
    page = tmp_path / "page.html"
    files = (planted["scale"], int8)
    code, out, err = run_cli("verify", *files, "--data", pictures, "--locate", "--report", page, "--json")
    assert code == 3, err
    damaged, sound = json.loads(out)["candidates"]
    assert damaged["divergence"]["first"]["node"] == "fusion_stages.3.mlp.convolution/conv2d_23"
    assert damaged["divergence"]["first"]["block"] == "HEF 4 SIRMLP"
    assert "fusion_stages.3.mlp.convolution/conv2d_23 (HEF 4 SIRMLP)" in err
    assert (sound["passed"], sound["divergence"]["first"]) == (True, None)
    assert page.read_text().count("<svg") == 2


def test_a_scale_that_hardly_moves_the_logits_is_named_all_the_same(int8, pictures, run_cli):
    model = onnx.load(int8)
    step = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "add_23")
    back = next(node for node in model.graph.node if node.input and node.input[0] == step.output[0])
    users = [node.name for node in model.graph.node if back.output[0] in node.input]
    path = faults.plant(int8, int8.parent / "step.int8.onnx", faults.scale("add_23"))
    code, out, _ = run_cli("verify", path, "--data", pictures, "--locate", "--json")
    assert code == 0, "sound INT8 nodes may be off by as much"
    found = json.loads(out)["candidates"][0]
    assert [node["node"] for node in found["divergence"]["beyond"]] == users
