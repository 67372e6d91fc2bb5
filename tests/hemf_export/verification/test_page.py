"""The page of a verification: its figures are the JSON's, and no name breaks it."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from hemf_export.pages import report_page
from hemf_export.verification import page as verification_page
from hemf_export.verification import text as verification_text
from hemf_export.verification import verification
from hemf_export.verification.verification import Request
from tests.conftest import write_class_folders
from tests.hemf_export import page_figures
from tests.hemf_export.page_figures import Figures
from tests.hemf_export.verification import faults

LINES = {
    "accuracy": "metrics/accuracy",
    "balanced accuracy": "metrics/balanced_accuracy",
    "macro precision": "macro_precision",
    "macro F1": "macro_f1",
    "MCC": "mcc",
    "kappa": "kappa",
    "AUC": "auc",
    "ECE": "ece",
    "Brier score": "brier",
    "cross-entropy": "loss",
    "dark": "recall/dark",
    "agreement": "against_reference/agreement",
    "images that changed class": "changed",
    "drop in accuracy, points": "accuracy_drop_points",
    "McNemar: right only in the reference": "mcnemar/losses",
    "McNemar: right only here": "mcnemar/gains",
    "McNemar: p": "p_value",
    "logit difference, largest": "logit_difference/max",
    "logit difference, 99th percentile": "logit_difference/p99",
    "logit difference, mean": "logit_difference/mean",
    "cosine, least": "cosine/min",
    "KL divergence": "kl_divergence",
}


def test_the_pages_figures_are_the_jsons(copies, folder, tmp_path, run_cli):
    faults.plant(copies.half, copies.half, faults.zero_weight("head/linear_8"))
    page = tmp_path / "page.html"
    arguments = ("verify", copies.onnx, copies.half, "--data", folder, "--locate", "--report", page, "--json")
    code, out, err = run_cli(*arguments)
    assert code == 3, err
    report = json.loads(out)
    shown = page_figures.check(page.read_text(), report)
    expected = {f"candidates/{index}/metrics/{name}" for index in (0, 1) for name in ("accuracy", "mcc", "ece")}
    expected |= {"candidates/1/against_reference/kl_divergence", "candidates/1/metrics/confusion/0/2"}
    expected |= {"candidates/1/divergence/beyond/0/own_error", "candidates/1/bounds/min_agreement"}
    assert expected <= shown
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', page.read_text(), re.DOTALL)
    lines = dict(reversed(rows))  # the first of each name: classes head rows of confusion matrices, too
    for label, name in LINES.items():
        own = [place for place, _, _ in Figures(lines[label]).found if not place.startswith("images/")]
        assert own, label
        assert all(place.endswith(f"/{name}") for place in own), label
    changed = len(report["candidates"][1]["changed_images"])
    assert changed > 0
    assert page.read_text().count("data:image/jpeg;base64,") == changed
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.read_text()), "nothing is fetched"
    assert "mathdefault" not in page.read_text(), "the marks of a logarithmic axis are numbers"


def test_names_cannot_break_out_of_the_page():
    evil = '<script>alert("1")</script>\n&'
    report = {"a": {evil: 0.5}}
    shown = report_page.figure(report, f"a/{report_page.key(evil)}", lambda value: f"{value}{evil}")
    assert "<script" not in shown
    assert Figures(shown).found == [
        [f"a/{evil}".replace("</", "<~1").replace("\n", "\\n"), "0.5", f"0.5{evil}".replace("\n", "\\n")]
    ]
    assert verification_text._cell("a|b*<i>\n") == "a\\|b\\*\\<i\\> "


def test_a_plot_draws_the_name_of_a_block_as_it_is():
    node = {"node": "n", "operator": "Gemm", "block": "$x_{1}$ 模型", "error": 0.1, "own_error": 0.001}
    drawn = verification_page.draw_divergence({"nodes": [node], "damaged": ["n"], "bound": 0.01}, "a.onnx")
    assert "$x_{1}$ 模型" in drawn
    assert "stores other numbers" in drawn


@pytest.fixture(scope="module")
def sound(made, tmp_path_factory) -> dict[str, Any]:
    """The JSON of a verification that passed."""
    images = write_class_folders(tmp_path_factory.mktemp("images"), 5)
    return verification.verify(Request((made.onnx, made.half), images)).to_dict()


@pytest.fixture
def report(sound) -> dict[str, Any]:
    """A copy of it, to be changed at will."""
    return copy.deepcopy(sound)


EVIL = '<script>alert("1")</script>\n&'


def test_hostile_names_in_every_place_stay_text(report):
    candidate = report["candidates"][1]
    name = report["classes"][0]
    values = {"class": name, "probabilities": dict.fromkeys(report["classes"], 0.5)}
    changed = {"image": EVIL, "label": EVIL, "reference": values, "candidate": values}
    candidate |= {"file": EVIL, "changed_images": [changed], "runner": EVIL}
    report["images"] |= {"folder": EVIL, "path": EVIL}
    text = json.dumps(report).replace(f'"{name}"', json.dumps(EVIL))
    page = verification_page.html(json.loads(text), {EVIL: 'data:image/jpeg;base64,"><script>'})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20
    assert "</script>\n" not in page


def test_the_verdict_is_one_sentence_on_top(report):
    page = verification_page.html(report, {})
    sentence = "model.onnx and model.fp16.onnx are the model that was validated: all 15 images keep their class"
    assert sentence in page
    assert page.index(sentence) < page.index("Images that keep their class") < page.index(">Result<")
    report["passed"] = report["candidates"][1]["passed"] = False
    report["candidates"][1]["missed"] = [{"bound": "max_drop", "text": "accuracy drops by 40 points"}]
    page = verification_page.html(report, {})
    assert "model.fp16.onnx is not the model that was validated: a bound is missed; model.onnx is." in page
    assert "model.fp16.onnx: accuracy drops by 40 points" in page


def test_the_picture_shows_agreement_and_drop_with_interval_and_bound(report):
    paired = report["candidates"][1]["against_reference"]
    assert paired["agreement_interval"] == pytest.approx([0.025 ** (1 / 15), 1.0]), "exact, of 15 of 15"
    paired |= {"accuracy_drop_points": 40.0, "accuracy_drop_interval_points": [20.0, 60.0]}
    page = verification_page.html(report, {})
    shown = page_figures.check(page, report)
    for name in ("agreement_interval/0", "accuracy_drop_points", "accuracy_drop_interval_points/1"):
        assert f"candidates/1/against_reference/{name}" in shown
    strips = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(strips) == 4, "both files, on both axes"
    for strip in strips:
        low, high = map(float, re.search(r'"interval" x1="([\d.]+)%" x2="([\d.]+)%"', strip).groups())
        place = float(re.search(r'cx="([\d.]+)%"', strip)[1])
        bound = float(re.search(r'class="bound" x1="([\d.]+)%"', strip)[1])
        assert 0 <= low <= place <= high <= 100
        assert 0 <= bound <= 100
    assert ["missed" in strip for strip in strips] == [False, False, False, True]


def test_without_labels_there_is_no_axis_of_accuracy(report):
    report["images"] |= {"labelled": False, "classes": {}}
    for subject in (report["reference"], *report["candidates"]):
        subject["metrics"] = None
    for candidate in report["candidates"]:
        paired = candidate["against_reference"]
        paired |= {name: None for name in paired if "accuracy" in name or name in ("mcnemar", "recall_drops_points")}
        del paired["agreement_interval"]  # as in a report of an earlier version
    page = verification_page.html(report, {})
    page_figures.check(page, report)
    assert page.count("<svg") == 2
    assert "accuracy, percentage points" not in page
    assert "Confusion" not in page


def test_shares_have_no_more_digits_than_the_images_justify(report):
    figures = {place: text for place, _, text in Figures(verification_page.html(report, {})).found}
    for place in ("reference/metrics/accuracy", "candidates/0/against_reference/agreement"):
        assert re.fullmatch(r"\d+%", figures[place]), "15 images"
    assert re.fullmatch(r"-?\d\.\d\d", figures["reference/metrics/mcc"])


def test_a_report_that_lacks_a_part_is_an_error(report):
    del report["candidates"][0]["bounds"]
    with pytest.raises(ValueError, match="lacks a part"):
        verification_page.html(report, {})
