"""`verify`: its figures beside others worked out here, what it refuses before the first image, and what it fails."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from hemf_export.calibration.emulation import emulate
from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.images import folders
from hemf_export.images.images import Preprocess
from hemf_export.images.model_input import ModelInput
from hemf_export.models import runners
from hemf_export.verification import page as verification_page
from hemf_export.verification import text as verification_text
from hemf_export.verification import verification
from hemf_export.verification.baseline import Earlier
from hemf_export.verification.verification import Request
from tests.conftest import CLASSES, Made, tiny_checkpoint, write_images
from tests.hemf_export.conftest import no_inference
from tests.hemf_export.verification import faults


def test_figures_are_those_of_the_files(made, folder, run_cli):
    code, out, err = run_cli("verify", made.onnx, made.half, "--data", folder, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["reference"]["file"], report["passed"]) == ("model.pt", True), "found beside them by its hash"
    paths = sorted(folder.rglob("*.png"))
    saved = tiny_checkpoint()
    inputs = saved.preprocess.normalize(np.stack([saved.preprocess.load(path) for path in paths]))
    with torch.inference_mode():
        exact = saved.model()(torch.from_numpy(inputs)).numpy()
    truth = [CLASSES.index(path.parent.name) for path in paths]
    metrics = report["reference"]["metrics"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, exact.argmax(1)))
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, exact.argmax(1), average="macro"))
    plain = onnxruntime.InferenceSession(made.onnx, providers=["CPUExecutionProvider"]).run(None, {"images": inputs})[0]
    single, half = report["candidates"]
    difference = single["against_reference"]["logit_difference"]["max"]
    assert difference == pytest.approx(np.abs(plain - exact).max(), abs=1e-5)
    assert (single["precision"], single["float16_emulated"]) == ("fp32", False)
    assert (half["precision"], half["float16_emulated"]) == ("fp16", True)
    assert half["against_reference"]["agreement"] == 1.0
    assert half["against_reference"]["logit_difference"]["max"] > 1e-4, "rounded to float16"
    assert single["sha256"] == artifacts.sha256(made.onnx)
    assert report["images"]["images"] == 15
    assert report["images"]["classes"] == dict.fromkeys(CLASSES, 5)


def test_float16_is_rounded_as_a_gpu_does(made, folder):
    """ONNX Runtime alone would keep float32 between the nodes."""
    found = verification.verify(Request((made.half,), folder))
    model = onnx.load(made.half)
    emulated = emulate(onnx_ir_of(model))
    images = sorted(folder.rglob("*.png"))
    preprocess = found.reference.model.description.preprocess
    inputs = preprocess.normalize(np.stack([preprocess.load(path) for path in images]))
    logits = found.candidates[0].subject.logits
    np.testing.assert_allclose(logits, session_logits(emulated, inputs), atol=1e-6)
    plain = onnxruntime.InferenceSession(made.half, providers=["CPUExecutionProvider"]).run(None, {"images": inputs})[0]
    assert np.abs(logits - plain).max() > 1e-6


def onnx_ir_of(model: onnx.ModelProto):
    import onnx_ir as ir

    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))


def session_logits(model, inputs: np.ndarray) -> np.ndarray:
    import onnx_ir as ir

    data = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"images": inputs})[0]


def test_without_class_folders_agreement_is_measured(made, tmp_path, run_cli):
    for kind in CLASSES:
        write_images(tmp_path, 2, kind)
    code, out, _ = run_cli("verify", made.onnx, "--data", tmp_path, "--json")
    assert code == 0
    report = json.loads(out)
    assert not report["images"]["labelled"]
    assert report["reference"]["metrics"] is report["candidates"][0]["metrics"] is None
    assert report["candidates"][0]["against_reference"]["agreement"] == 1.0
    assert report["candidates"][0]["against_reference"]["accuracy_drop_points"] is None
    assert "no accuracy" in verification_text.markdown(report)
    assert "Confusion" not in verification_page.html(report, {})


def test_each_image_is_decoded_once_for_all_models(made, folder, monkeypatch):
    seen: list[Path] = []
    real = verification.decode
    monkeypatch.setattr(verification, "decode", lambda path: seen.append(path) or real(path))
    batches: list[int] = []
    infer = runners.TorchRunner.infer
    monkeypatch.setattr(runners.TorchRunner, "infer", lambda self, x: batches.append(len(x)) or infer(self, x))
    verification.verify(Request((made.onnx, made.half), folder, batch=4))
    assert sorted(seen) == sorted(folder.rglob("*.png"))
    assert batches == [4, 4, 4, 3]


def test_models_that_take_images_otherwise_get_their_own_pixels(folder):
    descriptions = [Preprocess.for_size(32), Preprocess.for_size(32, "squash"), Preprocess.for_size(64)]
    images = folders.class_folders(folder)
    parts = list(verification._pixels(images, [ModelInput(description) for description in descriptions], 4))
    assert [len(part[0]) for part in parts] == [4, 4, 4, 3]
    for place, description in enumerate(descriptions):
        expected = np.stack([description.load(path) for path in images.paths])
        np.testing.assert_array_equal(np.concatenate([part[place] for part in parts]), expected)


def test_a_file_of_another_checkpoint_is_refused_before_any_image(made, folder, tmp_path, run_cli, monkeypatch):
    no_inference(monkeypatch)
    checkpoint.save(tiny_checkpoint(seed=1), tmp_path / "other.pt")
    code, out, err = run_cli("verify", made.onnx, "--reference", tmp_path / "other.pt", "--data", folder, "--json")
    assert code == 1
    assert "another checkpoint" in err
    assert json.loads(out)["exit_code"] == 1
    shutil.copy(made.onnx, tmp_path)
    code, _, err = run_cli("verify", tmp_path / made.onnx.name, "--data", folder)
    assert code == 1
    assert "--reference FILE" in err
    code, _, err = run_cli("verify", made.checkpoint, "--data", folder)
    assert code == 1
    assert "model.pt is a checkpoint: ONNX files and engines are compared with one" in err


def test_classes_in_another_order_are_refused_before_any_image(copies, folder, run_cli, monkeypatch):
    def swap(model: onnx.ModelProto) -> None:
        prop = next(prop for prop in model.metadata_props if prop.key == "hemf")
        prop.value = json.dumps({**json.loads(prop.value), "classes": ["dark", "bright", "striped"]})

    faults.plant(copies.onnx, copies.onnx, swap)
    no_inference(monkeypatch)
    code, _, err = run_cli("verify", copies.onnx, "--reference", copies.checkpoint, "--data", folder)
    assert code == 1
    assert "dark, bright, striped" in err
    assert "in another order" in err


def test_a_data_folder_of_other_classes_is_refused(made, tmp_path, run_cli, monkeypatch):
    no_inference(monkeypatch)
    for kind in ("bright", "dark", "spotted"):
        write_images(tmp_path / kind, 1, kind)
    code, _, err = run_cli("verify", made.onnx, "--data", tmp_path)
    assert code == 1
    assert "missing striped; unexpected spotted" in err


def test_every_image_that_does_not_decode_is_named_before_any_is_run(made, folder, tmp_path, run_cli, monkeypatch):
    no_inference(monkeypatch)
    shutil.copytree(folder, tmp_path / "data")
    for name in ("bright/cut.png", "dark/cut too.png"):
        (tmp_path / "data" / name).write_bytes((folder / "bright" / "bright0.png").read_bytes()[:-300])
    code, _, err = run_cli("verify", made.onnx, "--data", tmp_path / "data")
    assert code == 1
    assert "2 of 17 images" in err
    assert "bright/cut.png" in err
    assert "dark/cut too.png" in err


@pytest.mark.parametrize("weight", [3e38, float("nan")], ids=["overflow", "NaN weights"])
def test_nan_on_both_sides_is_no_agreement(folder, tmp_path, run_cli, weight):
    saved = tiny_checkpoint()
    state = {**saved.state, "head.weight": torch.full_like(saved.state["head.weight"], weight)}
    for name in ("a.pt", "b.pt"):
        checkpoint.save(dataclasses.replace(saved, state=state), tmp_path / name)
    page = tmp_path / "page.html"
    arguments = ("verify", tmp_path / "b.pt", "--reference", tmp_path / "a.pt", "--data", folder, "--report", page)
    code, out, err = run_cli(*arguments, "--json")
    assert code == 3
    report = json.loads(out)
    assert (report["passed"], report["exit_code"]) == (False, 3)
    assert [item["bound"] for item in report["candidates"][0]["missed"]] == ["finite", "finite"], "one for each side"
    assert len(report["candidates"][0]["not_finite_images"]) == 15
    assert "a.pt gives logits that are not finite for 15 of 15 images" in err
    assert not re.search(r"\bnan\b", page.read_text(), re.IGNORECASE)
    assert "FAILED" in page.read_text()


def test_a_bound_that_is_missed_is_exit_3_with_all_reports(made, folder, tmp_path, run_cli):
    page, summary = tmp_path / "page.html", tmp_path / "summary.md"
    arguments = ("verify", made.half, "--data", folder, "--max-logit-diff", "1e-6")
    code, out, err = run_cli(*arguments, "--report", page, "--markdown", summary)
    assert code == 3
    assert "FAILED" in out
    assert "model.fp16.onnx: a logit differs by" in err
    assert "bound 1e-06 (--max-logit-diff)" in err
    assert "--locate names the node" in err
    assert "Traceback" not in err
    assert "a logit differs by" in page.read_text()
    assert summary.read_text().startswith("## Verification FAILED")
    code, _, err = run_cli("verify", made.onnx, "--data", folder, "--max-logit-diff", "1e-12")
    assert code == 3
    assert "--locate" not in err, "nothing is left to compare a float32 file's nodes with"


@pytest.fixture(scope="module")
def earlier(made: Made, folder: Path) -> dict:
    """The JSON of a verification, and one whose figures can be changed."""
    return verification.verify(Request((made.onnx, made.half), folder)).to_dict()


def test_a_baseline_that_was_better_is_exit_3(made, folder, earlier, tmp_path, run_cli):
    old = tmp_path / "old.json"
    same = Earlier(old, earlier).compare(earlier)
    assert {figure["lost_points"] for figure in same["figures"]} == {0.0}
    assert same["passed"]
    better = json.loads(json.dumps(earlier))
    better["candidates"][1]["metrics"]["accuracy"] += 0.02
    better["candidates"][0]["file"] = "removed.onnx"
    old.write_text(json.dumps(better))
    arguments = ("verify", made.half, "--data", folder, "--baseline", old, "--json", "--max-drop", "1")
    code, out, err = run_cli(*arguments)
    assert code == 3
    assert "2.00 points less, bound 1.00" in err
    report = json.loads(out)
    assert (report["passed"], report["candidates"][0]["passed"]) == (False, True)
    assert (report["baseline"]["gone"], report["baseline"]["new"]) == (["removed.onnx"], [])
    assert "2.00 points less" in verification_text.markdown(report)
    better["candidates"][1]["metrics"]["accuracy"] -= 0.01
    assert Earlier(old, better).compare(report)["passed"], "one point is allowed"


def test_a_baseline_of_other_images_or_of_nothing_is_refused(made, folder, earlier, tmp_path, run_cli, monkeypatch):
    old = tmp_path / "old.json"
    arguments = ("verify", made.onnx, "--data", folder, "--baseline", old)
    with pytest.raises(BadInputError, match="lacks a part"):
        Earlier(old, {**earlier, "candidates": [{"file": "model.onnx"}]}).compare(earlier)
    no_inference(monkeypatch)
    for part, said in (
        ({"images": {**earlier["images"], "names_sha256": "0" * 64}}, "other images"),
        ({"classes": ["a", "b"]}, "other images"),
        ({"images": {}}, "lacks a part"),
    ):
        old.write_text(json.dumps({**earlier, **part}))
        code, _, err = run_cli(*arguments)
        assert (code, said in err) == (1, True), err
    for text in ("", "[]", '{"verification": 2}', '{"timings": []}'):
        old.write_text(text)
        assert run_cli(*arguments)[0] == 1, text


def test_one_file_for_two_reports_is_refused(made, folder, tmp_path, run_cli, monkeypatch):
    no_inference(monkeypatch)
    (tmp_path / "sub").mkdir()
    same = tmp_path / "sub" / ".." / "page.html"
    code, _, err = run_cli(
        "verify", made.onnx, "--data", folder, "--report", tmp_path / "page.html", "--markdown", same
    )
    assert (code, "two outputs" in err) == (2, True)
    assert not same.exists()


def test_an_interrupted_run_leaves_earlier_reports_as_they_were(made, folder, tmp_path, run_cli, monkeypatch):
    page, summary = tmp_path / "page.html", tmp_path / "summary.md"
    page.write_text("earlier")
    summary.write_text("earlier too")
    calls: list[int] = []
    infer = runners.OnnxRunner.infer

    def stop(self: runners.OnnxRunner, batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return infer(self, batch)

    monkeypatch.setattr(runners.OnnxRunner, "infer", stop)
    arguments = ("verify", made.onnx, "--data", folder, "--report", page, "--markdown", summary, "--json")
    code, out, _ = run_cli(*arguments)
    assert code == 130
    assert json.loads(out)["exit_code"] == 130
    assert (page.read_text(), summary.read_text()) == ("earlier", "earlier too")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "summary.md"]


def test_reports_that_cannot_be_written_are_told_before_any_work(copies, folder, tmp_path, run_cli, monkeypatch):
    no_inference(monkeypatch)
    for option in ("--report", "--markdown"):
        code, _, err = run_cli("verify", copies.onnx, "--data", folder, option, tmp_path)
        assert (code, "is a folder" in err) == (1, True)
        code, _, err = run_cli("verify", copies.onnx, "--data", folder, option, copies.onnx)
        assert (code, "is the input itself" in err) == (1, True)


def test_a_file_is_not_compared_with_itself(made, folder):
    for arguments in (((made.onnx, made.onnx), folder), ((made.onnx,), folder, made.onnx)):
        with pytest.raises(UsageError, match="named twice"):
            Request(*arguments)
    with pytest.raises(UsageError, match="No candidate"):
        Request((), folder)
