"""Ten faults in the files of a trained network, each caught by the default bounds; and damage that logits can't show.

In FP16 and INT8 the logits of a sound file differ from the checkpoint's by rounding, and a fault that moves them less
than that passes their bounds: a step that is ten times too wide, a lost channel. What the file stores tells.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from hemf_export.verification import verification
from hemf_export.verification.verification import Request, Verification, Verified
from tests.hemf_export.verification import faults

FAULTS = [*faults.IN_FLOAT, "scale", "described normalization"]
# What else than the logits shows it, on images that the network tells apart well.
ALSO = {
    "swapped class order": {"min_agreement", "max_drop", "max_recall_drop"},
    "described normalization": {"preprocessing"},
}


@pytest.fixture(scope="module")
def int8(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, with the files that it was made from, where damaged ones may be put beside it."""
    return copied(int8, tmp_path_factory)


@pytest.fixture(scope="module")
def whole_int8(whole_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(whole_int8, tmp_path_factory)


def copied(path: Path, factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(path.parent, factory.mktemp("planted") / "files")) / path.name


@pytest.fixture(scope="module")
def planted(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file with each fault, by its name; and the sound ones."""
    folder, source = tmp_path_factory.mktemp("faults"), int8.parent / "best.onnx"
    files = {
        name: faults.plant(source, folder / f"{number}.onnx", edit)
        for number, (name, edit) in enumerate(faults.IN_FLOAT.items())
    }
    files["scale"] = faults.plant(int8, int8.parent / "scale.int8.onnx", faults.scale(faults.SCALED))
    files["described normalization"] = faults.plant(source, folder / "described.onnx", faults.described_otherwise)
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


@pytest.mark.extended
def test_faults_of_norms_are_caught_in_a_whole_network(whole_int8, pictures, tmp_path):
    """Its BatchNorms, and layer norms of values so small that their epsilon counts."""
    source = whole_int8.parent / "best.onnx"
    files = (
        faults.plant(source, tmp_path / "epsilon.onnx", faults.epsilon),
        faults.stale_batch_norms(source.with_suffix(".pt"), tmp_path / "stale.pt"),
    )
    found = verification.verify(Request(files, pictures, source.with_suffix(".pt")))
    for candidate in found.candidates:
        assert {missed.bound for missed in candidate.missed} == {"max_logit_difference"}


@pytest.mark.parametrize("name", ["sound fp32", "sound int8"])
def test_a_sound_file_passes(verdict, name):
    assert verdict(name).passed, verdict(name).missed


@pytest.mark.extended
def test_the_node_whose_scale_was_damaged_is_named(planted, pictures, int8, tmp_path, run_cli):
    page = tmp_path / "page.html"
    files = (planted["scale"], int8)
    code, out, err = run_cli("verify", *files, "--data", pictures, "--locate", "--report", page, "--json")
    assert code == 3, err
    damaged, sound = json.loads(out)["candidates"]
    node = "local_stages.2.0.pointwise/linear_5"
    assert damaged["divergence"]["first"]["node"] == node
    assert damaged["divergence"]["first"]["block"] == "ELF 3"
    assert damaged["divergence"]["damaged"] == [node]
    assert f"{node} (ELF 3)" in err
    assert (sound["passed"], sound["divergence"]["first"]) == (True, None)
    assert page.read_text().count('aria-label="Error along the network of') == 2


@pytest.fixture(scope="module")
def steps(whole_int8: Path) -> dict[str, str]:
    """Names of the scales of the INT8 file by the values and weights that they are for; four drawn, and a sum's."""
    gates = "_attention/reshape"  # their values differ much from image to image: a large step may be right
    names = [found.name for found in onnx.load(whole_int8).graph.initializer if "_scale" in found.name]
    names = [name for name in names if gates not in name]
    drawn = np.random.default_rng(5).choice(names, 4, replace=False).tolist()
    block = next(name for name in names if name.startswith("fusion_stages.2/maps/add_scale"))
    return {name.split("_scale")[0]: name for name in (*drawn, block)}


@pytest.mark.extended
def test_any_scale_made_ten_times_larger_or_smaller_fails(whole_int8, pictures, steps, run_cli):
    files = []
    for number, name in enumerate(steps):
        factor = 10 if number % 3 else 0.1
        files.append(faults.plant(whole_int8, whole_int8.parent / f"{number}.int8.onnx", faults.scale(name, factor)))
    code, out, err = run_cli("verify", *files, whole_int8, "--data", pictures, "--json")
    assert code == 3
    report = json.loads(out)
    *damaged, sound = report["candidates"]
    assert (sound["passed"], sound["stored"]["weights"]["beyond"], sound["stored"]["steps"]["beyond"]) == (True, [], [])
    for name, candidate in zip(steps, damaged, strict=True):
        beyond = [*candidate["stored"]["weights"]["beyond"], *candidate["stored"]["steps"]["beyond"]]
        named = [item.get("weight") or item["value"] for item in beyond]
        assert named == [name], candidate["stored"]
        assert {"weight_error", "step"} & {missed["bound"] for missed in candidate["missed"]}
        assert f"{name}" in err
        assert beyond[0]["block"] in err


def test_what_logits_of_fp16_would_not_show(copies, folder, run_cli):
    """A channel of zeros and a turned weight in a network that hardly uses them."""
    names = [f"local_stages.{stage}.0.pointwise.weight_fp16" for stage in (0, 2)]
    zeroed = faults.plant(copies.half, copies.folder / "z.fp16.onnx", faults.changed(names[0], faults.zero_channel))
    turned = faults.plant(copies.half, copies.folder / "t.fp16.onnx", faults.changed(names[1], np.transpose))
    code, out, _ = run_cli("verify", zeroed, turned, copies.half, "--data", folder, "--json")
    first, second, sound = json.loads(out)["candidates"]
    assert code == 3
    assert [item["weight"] for item in first["stored"]["weights"]["beyond"]] == [names[0].removesuffix("_fp16")]
    assert [item["weight"] for item in second["stored"]["weights"]["beyond"]] == [names[1].removesuffix("_fp16")]
    assert sound["passed"]
    assert 0 < sound["stored"]["weights"]["largest_error"] < 0.01
    assert sound["stored"]["steps"]["largest_excess"] is None, "nothing is quantized"


def test_without_the_float32_file_it_is_said(copies, folder, run_cli):
    copies.onnx.unlink()
    code, out, err = run_cli("verify", copies.half, "--data", folder, "--json")
    assert code == 0
    assert "stored" not in json.loads(out)["candidates"][0]
    assert "not compared" in err
    assert "--float32" in err
