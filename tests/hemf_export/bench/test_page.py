"""The page of a benchmark, and the accuracy of a verification beside its latencies."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hemf_export import cli
from hemf_export.bench import accuracy, plots
from hemf_export.bench import page as bench_page
from hemf_export.bench import run as bench_run
from hemf_export.bench.memory import Memory
from hemf_export.bench.plots import Point
from hemf_export.bench.report import TimedFile
from hemf_export.checkpoints import checkpoint
from hemf_export.files.errors import BadInputError
from hemf_export.pages import drawing
from hemf_export.timing import measurement
from hemf_export.verification import verification
from tests.conftest import tiny_checkpoint, write_class_folders
from tests.hemf_export import page_figures

QUICK = ("--seconds", "0.05", "--threads", "1", "--runners", "eager,ort-cpu", "--batch", "1,2")


@pytest.fixture(autouse=True, scope="module")
def short_runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "WARMUP_S", 0.0)
        patch.setattr(bench_run.memory, "measure", lambda *_, **__: Memory(123_456_789, 98_765_432, None))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("images"), 2, seed=3)


@pytest.fixture(scope="module")
def told(made, images) -> dict[str, Any]:
    """A verification of both files."""
    return verification.verify(verification.Request((made.onnx, made.half), images)).to_dict()


@pytest.fixture
def verified(told, tmp_path) -> Path:
    """What `verify --json` prints of it."""
    path = tmp_path / "verify.json"
    path.write_text(json.dumps(told))
    return path


@dataclass(frozen=True)
class Benched:
    report: dict[str, Any]
    page: str
    markdown: str


@pytest.fixture(scope="module")
def benched(made, told, short_runs, tmp_path_factory: pytest.TempPathFactory) -> Benched:
    """A benchmark with everything in it."""
    folder = tmp_path_factory.mktemp("benched")
    old, new, page, verified = (folder / name for name in ("old.json", "new.json", "page.html", "verify.json"))
    verified.write_text(json.dumps(told))
    files = [str(path) for path in (made.checkpoint, made.onnx, made.half)]
    assert cli.run(["bench", *files, *QUICK, "--batch", "1", "-o", str(old)]) == 0
    more = ["--verified", verified, "--report", page, "--baseline", old, "--max-slowdown", 10_000, "-o", new]
    more += ["--markdown", folder / "bench.md"]
    assert cli.run(["bench", *files, *QUICK, *map(str, more)]) == 0
    return Benched(json.loads(new.read_text()), page.read_text(), (folder / "bench.md").read_text())


@pytest.fixture
def report(benched) -> dict[str, Any]:
    """Its JSON, to be changed at will."""
    return copy.deepcopy(benched.report)


def cells(page: str, title: str) -> list[dict[str, set[str]]]:
    """Each row of the first table after a title: by the column's heading, what the figures' places end with."""
    part = page.partition(f">{title}<")[2]
    part = part[: part.index("</table>")]
    columns = [heading.replace("<wbr>", "") for heading in re.findall(r'<th scope="col"[^>]*>(.*?)</th>', part)]
    rows = re.findall(r'<tr>(<th scope="row">.*?)</tr>', part, re.DOTALL)
    assert rows, title
    split = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [
        {
            column: {place for place, _, _ in page_figures.Figures(cell).found}
            for column, cell in zip(columns, row, strict=True)
        }
        for row in split
    ]


def test_the_pages_figures_are_the_jsons(benched):
    page, report = benched.page, benched.report
    assert page == bench_page.html(report), "made from the JSON alone"
    shown = page_figures.check(page, report)
    for index in range(len(report["timings"])):
        known = {name for name, value in report["timings"][index]["latency_ms"].items() if value is not None}
        assert {f"timings/{index}/latency_ms/{name}" for name in known} <= shown
        assert {f"timings/{index}/speed_up/{name}" for name in ("median", "low", "high")} <= shown
        assert f"timings/{index}/images_per_second" in shown
    assert [row["speed-up (95&nbsp;%)"] for row in cells(page, "Latency")] == [
        {f"timings/{index}/speed_up/{name}" for name in ("median", "low", "high")} for index in range(3)
    ]
    for row, index in zip(cells(page, "Latency"), range(3), strict=True):
        assert row["p50 ms"] == {f"timings/{index}/latency_ms/p50"}
        assert row["p90"] == {f"timings/{index}/latency_ms/p90"}
        assert row["images/s"] == {f"timings/{index}/images_per_second"}
        assert row["MB"] == {f"timings/{index}/memory/peak_rss_bytes"}
    for number, row in enumerate(cells(page, "Accuracy against latency")):
        runner = f"verified/runners/{number % 3}"
        assert report["timings"][number]["name"] == report["verified"]["runners"][number % 3]["name"]
        assert row["p50 ms"] == {f"timings/{number}/latency_ms/p50"}
        assert row["accuracy"] == {f"{runner}/accuracy"}
        assert row["agreement"] == {f"{runner}/agreement"}
    for number, row in enumerate(cells(page, "Compared with the baseline")):
        assert row["change"] == {f"baseline/changes/{number}/slowdown"}
        assert row["in the baseline"] == {f"baseline/changes/{number}/before/{n}" for n in ("median", "low", "high")}
    for number, row in enumerate(cells(page, "Floor on a t4 by its roofline")):
        assert row["floor ms"] == {f"roofline/floors/{number}/floor_ms"}
        assert row["least ms"] == {f"roofline/floors/{number}/least_ms"}
        assert row["MB"] == {f"roofline/floors/{number}/moved_bytes"}
    for number, row in enumerate(cells(page, "Memory")):
        assert row["libraries alone, MB"] == {f"timings/{number}/memory/imports_rss_bytes"}
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page), "nothing is fetched"
    shown_text = html.unescape(page)
    for text in (*report["notes"], *report["method"].values(), *(one["reason"] for one in report["not_run"])):
        assert str(text) in shown_text


def test_accuracy_is_the_verifications_by_file(report, made, told):
    by_name = {one["name"]: one for one in report["verified"]["runners"]}
    assert report["verified"]["figure"] == "accuracy"
    assert set(by_name) == {"eager, model.pt", "ort-cpu, model.onnx", "ort-cpu, model.fp16.onnx"}
    half = by_name["ort-cpu, model.fp16.onnx"]
    assert half["accuracy"] == told["candidates"][1]["metrics"]["accuracy"]
    assert half["accuracy_drop_points"] == told["candidates"][1]["against_reference"]["accuracy_drop_points"]
    assert half["float16_emulated"] is True
    assert by_name["eager, model.pt"]["accuracy"] == told["reference"]["metrics"]["accuracy"]
    assert {timing["file"] for timing in report["timings"]} == {made.checkpoint.name, made.onnx.name, made.half.name}


def test_what_was_verified_is_told_by_the_hash_then_by_the_name(verified):
    known = accuracy.read(verified)
    sha256 = known.subjects[1]["sha256"]
    timing = {"name": "ort-cpu, model.onnx", "file": "model.onnx", "sha256": sha256, "precision": "fp32"}
    renamed = {**timing, "name": "renamed", "file": "other.onnx"}
    changed = {**timing, "name": "changed", "sha256": "0" * 64}
    unknown = {**timing, "name": "unknown", "file": "new.onnx", "sha256": "1" * 64}
    hashless = {**timing, "name": "hashless", "sha256": ""}
    half = {"name": "amp", "file": "model.pt", "sha256": known.subjects[0]["sha256"], "precision": None}
    found = known.beside([timing, renamed, changed, unknown, hashless, half, timing])
    assert [one["name"] for one in found["runners"]] == ["ort-cpu, model.onnx", "renamed", "hashless"]
    reasons = {one["name"]: one["reason"] for one in found["not_verified"]}
    assert set(reasons) == {"changed", "unknown", "amp"}
    assert "changed since" in reasons["changed"]
    assert "not verified" in reasons["unknown"]
    assert "in float32" in reasons["amp"]
    with pytest.raises(BadInputError, match="of none of the files"):
        known.require(known.checkpoint_sha256, [TimedFile("model.onnx", "0" * 64, "ort-cpu")])


def test_a_verification_of_another_checkpoint_is_refused_before_any_timing(
    verified, tmp_path, run_cli, monkeypatch, made
):
    monkeypatch.setattr(measurement, "measure", lambda *_, **__: pytest.fail("it was timed"))
    other = tmp_path / "other.pt"
    checkpoint.save(tiny_checkpoint(seed=1), other)
    page = tmp_path / "page.html"
    code, _, err = run_cli("bench", other, *QUICK, "--verified", verified, "--report", page)
    assert code == 1
    assert "of the checkpoint" in err
    assert str(verified) in err
    assert not page.exists()
    for text, message in (("{}", "not the JSON of a verification"), ('{"verification": 1}', "lacks a part")):
        verified.write_text(text)
        code, _, err = run_cli("bench", made.onnx, *QUICK, "--verified", verified, "--report", page)
        assert (code, message in err) == (1, True), err


def test_markdown_sets_accuracy_beside_latency(benched, report):
    part = benched.markdown.partition("### Accuracy, from verify.json")[2].partition("\n##")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| ")][1:]
    runners = report["verified"]["runners"]
    assert [row[0].removeprefix("| ") for row in rows] == [one["name"] for one in runners]
    for row, one in zip(rows, runners, strict=True):
        assert row[1].rstrip("*") == f"{one['accuracy']:.0%}", "6 images justify no more digits"
        assert row[3] == f"{one['agreement']:.0%}"
    assert rows[0][-1].removesuffix(" |") == "reference"


def test_a_verification_without_a_place_to_show_it_is_wrong_usage(made, verified, run_cli):
    code, _, err = run_cli("bench", made.onnx, *QUICK, "--verified", verified)
    assert code == 2
    assert "--report" in err


def test_a_page_does_not_go_over_a_file_that_is_read(made, verified, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(measurement, "measure", lambda *_, **__: pytest.fail("it was timed"))
    before = verified.read_bytes()
    assert run_cli("bench", made.onnx, *QUICK, "--verified", verified, "--report", verified)[0] == 1
    assert run_cli("bench", made.onnx, *QUICK, "--report", tmp_path)[0] == 1
    assert verified.read_bytes() == before


def test_without_labels_agreement_is_shown(made, images, tmp_path, run_cli):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in images.rglob("*.png"):
        shutil.copy(path, flat)
    code, out, _ = run_cli("verify", made.onnx, "--data", flat, "--json")
    assert code == 0
    (tmp_path / "verify.json").write_text(out)
    page = tmp_path / "page.html"
    arguments = ("--verified", tmp_path / "verify.json", "--report", page, "--json")
    code, out, err = run_cli("bench", made.checkpoint, made.onnx, *QUICK, *arguments)
    assert code == 0, err
    report = json.loads(out)
    assert report["verified"]["figure"] == "agreement"
    text = page.read_text()
    shown = page_figures.check(text, report)
    assert "verified/runners/1/agreement" in shown
    assert not any(place.endswith("/accuracy") for place in shown)
    assert "agreement against latency at batch 2" in text
    assert "Without labels" in text


EVIL = 'ort-cpu, <script>$x_{1}$ 模型 "&\n.onnx'


def test_what_is_missing_and_what_is_odd_does_not_break_the_page(report):
    """Few rounds, no memory, a GPU with its floor, a failed check, names of any signs."""
    first, second = report["timings"][:2]
    first["latency_ms"] = {"p50": 20.0, "p90": None, "p95": None, "p99": None}
    first["memory"] = None
    second |= {"name": EVIL, "share_of_floor": 0.25, "file": EVIL}
    report["verified"]["runners"][1] |= {"name": EVIL, "accuracy": None}
    ranges = {name: [1, 2] for name in ("sm_mhz", "memory_mhz", "power_w")}
    report["conditions"]["gpu"] = {
        "name": "Tesla T4", "driver": "580", "power_limit_w": 70.0, **ranges, "temperature_c": None,
        "throttling": ["power cap"],
    }  # fmt: skip
    report["not_run"] = [{"name": EVIL, "reason": "Its logits are not finite.", "batch": 1, "failed": True}]
    report["error"] = f"{EVIL} is slower"
    page = bench_page.html(report)
    shown = page_figures.check(page, report)
    assert "timings/1/share_of_floor" in shown
    assert "conditions/gpu/sm_mhz/1" in shown
    assert not any(place.startswith("timings/0/memory") for place in shown)
    assert "<script" not in page
    assert "power cap" in page
    assert (
        page.count(">ort-cpu, &lt;script&gt;$x_{1}$ 模型 &quot;&amp;·.onnx<")
        + page.count('>ort-cpu, &lt;script&gt;$x_{1}$ 模型 "&amp;·.onnx<')
        == 2
    ), "in the plots of batch 1: its latency, its speed-up"
    assert page.count("FAILED") == 2, "the verdict and the contender"
    del report["verified"], report["baseline"], report["error"]
    report["roofline"]["floors"] = []
    page = bench_page.html(report)
    assert "No check failed" in page
    assert not re.search("<h2>(Accuracy|Compared|Floor)", page)
    del report["timings"][0]["latency_ms"]
    with pytest.raises((ValueError, KeyError)):
        bench_page.html(report)


def test_a_report_of_an_earlier_version_gets_its_speed_ups_from_its_ratios(report):
    page = bench_page.html(report)
    del report["headlines"]
    for timing in report["timings"]:
        del timing["speed_up"]
    assert cells(bench_page.html(report), "Latency") == cells(page, "Latency")


def test_the_plots_show_the_latencies(report, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "svg", lambda figure, label: drawn.append(figure.axes[0]) or "")
    timings = [copy.deepcopy(one) for one in report["timings"] if one["batch"] == 1]
    times = {"p50": 10.0, "p90": 12.0, "p95": 13.0, "p99": 40.0}
    timings[0] |= {"latency_ms": times, "share_of_floor": 0.5}
    timings[1] |= {
        "latency_ms": {**times, "p95": None, "p99": None},
        "speed_up": {"median": 2.0, "low": 1.0, "high": 2.5},
    }
    plots.latencies(timings[:2])
    plots.speed_ups(timings[:2])
    (latencies, speed_ups) = [[list(map(float, line.get_xdata())) for line in axes.lines] for axes in drawn]
    assert [line for line in latencies if line != [0.0, 1.0]] == [
        [10, 40], [10, 12], [10], [5], [10, 12], [10, 12], [10],
    ]  # fmt: skip
    assert [1.0, 2.5] in speed_ups
    assert [2.0] in speed_ups
    assert drawn[0].get_xscale() == "log", "from 5 to 40 ms"
    assert drawn[1].get_xscale() == "linear"
    assert {"10.0 ms", "ort-cpu, model.onnx"} <= {text.get_text() for text in drawn[0].texts}


def test_a_point_of_accuracy_stands_at_its_latency(monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "svg", lambda figure, label: drawn.append(figure.axes[0]) or "")
    plots.accuracies([Point(f"runner {n}", 1.5 + n, 0.9 + n / 200) for n in range(13)], "accuracy", 1, 300)
    lines = drawn[0].lines
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines] == [
        (1.5 + n, 0.9 + n / 200) for n in range(13)
    ]
    assert len({(line.get_marker(), line.get_color()) for line in lines}) == 13, "told apart"
    low, high = drawn[0].get_ylim()
    assert low < 0.9
    assert 0.96 < high <= 1


def test_a_name_below_the_points_is_drawn_as_it_is():
    assert "ort-cpu, $x_{1}$.onnx" in plots.accuracies([Point("ort-cpu, $x_{1}$.onnx", 1.0, 1.0)], "accuracy", 1, 300)
