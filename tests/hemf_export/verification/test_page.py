"""The page of a verification: its figures are the JSON's, and no name breaks it."""

from __future__ import annotations

import json
import re

from hemf_export.pages import report_page
from hemf_export.verification import page as verification_page
from hemf_export.verification import text as verification_text
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
    "recall of dark": "recall/dark",
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
    lines = dict(re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', page.read_text(), re.DOTALL))
    for label, name in LINES.items():
        own = [place for place, _, _ in Figures(lines[label]).found]
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
    page = report_page.page(evil, report_page.escaped(evil), [report_page.Section(evil, shown)])
    assert "<script" not in page
    assert Figures(shown).found == [
        [f"a/{evil}".replace("</", "<~1").replace("\n", "\\n"), "0.5", f"0.5{evil}".replace("\n", "\\n")]
    ]
    assert verification_text._cell("a|b*<i>\n") == "a\\|b\\*\\<i\\> "


def test_a_plot_draws_the_name_of_a_block_as_it_is():
    node = {"node": "n", "operator": "Gemm", "block": "$x_{1}$ 模型", "error": 0.1, "own_error": 0.001}
    drawn = verification_page.draw_divergence({"nodes": [node], "damaged": ["n"], "bound": 0.01}, "a.onnx")
    assert "$x_{1}$ 模型" in drawn
    assert "stores other numbers" in drawn
