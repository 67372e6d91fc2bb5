"""`hemf-export bench` as a user sees it: table, JSON, Markdown, baseline, exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch

from hemf_export.bench import contenders
from hemf_export.bench import run as bench_run
from hemf_export.bench.memory import Memory
from hemf_export.bench.report import TimedFile
from hemf_export.files import artifacts
from hemf_export.models.model_file import ModelFile
from hemf_export.timing import measurement
from hemf_export.timing.intervals import Interval
from tests.hemf_export.triton.models import means

QUICK = ("--seconds", "0.05", "--threads", "1", "--no-memory")
ORT = (*QUICK, "--runners", "ort-cpu,ort-cuda", "--batch", "1")


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    monkeypatch.setattr(measurement, "WARMUP_S", 0.0)


@pytest.fixture
def bench_cli(run_cli, capfd):
    """As `run_cli`; where a check failed, `bench` has printed its report, and ends by itself."""

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            return run_cli("bench", *arguments)
        except SystemExit as stop:
            captured = capfd.readouterr()
            return int(stop.code or 0), captured.out, captured.err

    return call


def spoil(monkeypatch, name: str, value: float) -> None:
    """The contender of that name gives logits of `value`."""
    opened = contenders.open_entry

    def open_entry(entry, **settings):
        found = opened(entry, **settings)
        if entry.name != name:
            return found

        def prepare(pixels):
            work = found.prepare(pixels)
            monkeypatch.setattr(work, "logits", lambda: np.full((len(pixels), 3), value, np.float32))
            return work

        return dataclasses.replace(found, prepare=prepare)

    monkeypatch.setattr(contenders, "open_entry", open_entry)


def test_the_current_folder_is_taken_and_the_json_is_complete(made, bench_cli, monkeypatch):
    monkeypatch.chdir(made.folder)
    code, out, err = bench_cli(*QUICK, "--batch", "1,3", "--json")
    assert code == 0, err
    report = json.loads(out)
    names = ["eager, model.pt", "channels-last, model.pt", "ort-cpu, model.onnx", "ort-cpu, model.fp16.onnx"]
    assert [timing["name"] for timing in report["timings"]] == names * 2
    assert [timing["batch"] for timing in report["timings"]] == [1] * 4 + [3] * 4
    for timing in report["timings"]:
        assert timing["check_on_timed_batch"] == {"passed": True, "bound": pytest.approx(0.05, abs=0.05)}
        assert len(timing["latencies_ms"]) == timing["rounds"] >= measurement.MIN_ROUNDS
        assert timing["ratio"]["low"] <= timing["ratio"]["median"] <= timing["ratio"]["high"]
        assert timing["speed_up"]["high"] == pytest.approx(1 / timing["ratio"]["low"])
        assert timing["latency_ms"]["p50"] == pytest.approx(np.median(timing["latencies_ms"]), abs=1e-3)
    assert {missing["name"] for missing in report["not_run"]} >= {"compile, model.pt", "ort-cuda, model.onnx"}
    assert "stable" in report["method"]["until"] or "known to" in report["method"]["until"]
    assert report["conditions"]["cpu"]["threads"] == 1
    floors = {(floor["precision"], floor["batch"]): floor for floor in report["roofline"]["floors"]}
    assert report["roofline"]["target"] == "t4"
    assert set(floors) == {(kind, batch) for kind in ("fp32", "fp16", "int8") for batch in (1, 3)}
    assert floors["fp16", 1]["source"] == "model.fp16.onnx", "the file's own types, where there is one"
    assert floors["int8", 1]["source"] == "model.onnx, all products"
    assert floors["int8", 3]["floor_ms"] > floors["int8", 3]["least_ms"]
    assert "float16 is emulated" in err


def test_it_begins_with_the_speed_up_and_ends_with_the_next_command(made, bench_cli, monkeypatch):
    measured = []
    monkeypatch.setattr(bench_run.memory, "measure", lambda *_, **__: measured.append(1))
    arguments = [argument for argument in ORT if argument != "--no-memory"]
    code, out, err = bench_cli(made.onnx, made.half, *arguments)
    assert code == 0, err
    lines = out.splitlines()
    compared = r"(as fast as|[\d.–]+× (slower|faster) than|too noisy to compare with)"
    assert re.match(rf"model\.fp16\.onnx: {compared} ort-cpu, model\.onnx at batch 1 \(95 %", lines[0])
    assert re.search(r"p50 ms +p99 ms +images/s +speed-up +95 %$", out, re.MULTILINE)
    assert "Floor" not in out, "which is no measurement, and --verbose shows"
    assert not measured, "nor is measured what isn't shown"
    assert "ort-cuda" not in err
    assert "--verbose says which, and why" in err
    assert f"next: hemf-export trt {made.half}" in err, "not the command that was just run"


def test_verbose_shows_everything_in_100_columns(made, bench_cli, monkeypatch):
    monkeypatch.setattr(bench_run.memory, "measure", lambda *_, **__: Memory(123_000_000, 100, None))
    arguments = [argument for argument in ORT if argument != "--no-memory"]
    code, out, err = bench_cli(made.onnx, made.half, *arguments, "--verbose")
    assert code == 0, err
    sentences, _, rest = out.partition("\nBatch 1")  # how long these are depends on what was measured
    assert "model.fp16.onnx: " in sentences
    tables, method = ("Batch 1" + rest).split("\nMethod\n")
    assert max(map(len, tables.splitlines())) <= 100
    row = next(line for line in tables.splitlines() if line.startswith("ort-cpu, model.fp16.onnx"))
    assert row.endswith("123")
    assert re.search(r"Batch 1, \d+ rounds", tables)
    assert "Floor on a t4" in tables
    assert "block bootstrap" in method
    assert re.search(r"not run: .*ort-cuda, model.onnx.*: needs an NVIDIA GPU", err)


def test_a_headline_says_faster_slower_or_as_fast(made):
    request = bench_run.Request((made.onnx,), batches=(1,), seconds=0.05, threads=1, kinds=("ort-cpu",), memory=False)
    report = bench_run.run(request)
    first, eager = report.timings[0], TimedFile("model.pt", "0" * 64, "eager")

    def headline(low: float, median: float, high: float) -> dict[str, str]:
        second = dataclasses.replace(first, ratio=Interval(median, low, high))
        second = dataclasses.replace(second, contender=dataclasses.replace(first.contender, name="second"))
        files = {first.name: eager, "second": TimedFile("model.onnx", "1" * 64, "ort-cpu")}
        return dataclasses.replace(report, timings=(first, second), files=files).headlines()

    assert headline(0.36, 0.4, 0.41) == {"model.onnx": "2.5× faster than PyTorch at batch 1 (95 %: 2.4–2.8)"}
    assert headline(1.5, 1.6, 1.64) == {"model.onnx": "1.60× slower than PyTorch at batch 1 (95 %: 1.50–1.64)"}
    assert headline(0.5, 0.8, 2.5) == {"model.onnx": "too noisy to compare with PyTorch at batch 1 (95 %: 0.40–2.0×)"}
    wide = "2.0–10× faster than PyTorch at batch 1 (95 %; too noisy for one figure)"
    assert headline(0.1, 0.4, 0.5) == {"model.onnx": wide}
    assert headline(0.97, 1.01, 1.05) == {"model.onnx": "as fast as PyTorch at batch 1 (95 %: 0.95–1.03×)"}


def test_files_are_written_whole_and_read_as_a_baseline(made, bench_cli, tmp_path):
    old, markdown = tmp_path / "old.json", tmp_path / "bench.md"
    code, out, err = bench_cli(made.onnx, made.half, *ORT, "--json", "-o", old, "--markdown", markdown)
    assert code == 0, err
    assert json.loads(old.read_text()) == json.loads(out)
    text = markdown.read_text()
    assert "### Batch 1, " in text
    assert re.search(r"^\| ort-cpu, model.fp16.onnx \| [\d.]+ \|", text, re.MULTILINE)
    assert "ort-cuda" in text.partition("### Not run")[2]

    def worsened(factor: float) -> int:
        values = json.loads(out)
        for key in ("median", "low", "high"):
            values["timings"][1]["ratio"][key] *= factor
        old.write_text(json.dumps(values))
        code, _, _ = bench_cli(made.onnx, made.half, *ORT, "--baseline", old, "-o", tmp_path / "new.json")
        return code

    assert worsened(1e-3) == 3
    new = json.loads((tmp_path / "new.json").read_text())
    assert new["baseline"]["changes"][0]["outcome"] == "worse"
    assert "slower than in the baseline" in new["error"], "the report is written where the check fails"
    assert worsened(1e3) == 0


def test_wrong_logits_are_exit_3_and_the_report_is_still_written(made, bench_cli, monkeypatch, tmp_path):
    spoil(monkeypatch, "ort-cpu, model.fp16.onnx", 100.0)
    path = tmp_path / "bench.json"
    code, out, err = bench_cli(made.onnx, made.half, *ORT, "--json", "-o", path)
    assert code == 3
    report = json.loads(out)
    assert report == json.loads(path.read_text())
    assert [timing["name"] for timing in report["timings"]] == ["ort-cpu, model.onnx"]
    assert [missing["name"] for missing in report["not_run"] if missing["failed"]] == ["ort-cpu, model.fp16.onnx"]
    assert report["exit_code"] == 3
    assert "computes other logits than the first" in err


def test_wrong_logits_of_a_file_that_is_not_judged_are_told(made, monkeypatch):
    spoil(monkeypatch, "ort-cpu, model.fp16.onnx", 100.0)
    request = bench_run.Request(
        (made.onnx, made.half), batches=(1,), seconds=0.05, threads=1, kinds=("ort-cpu",), memory=False,
        judged=(made.onnx,),
    )  # fmt: skip
    outcome = bench_run.benchmark(request)
    assert outcome.problem is None
    assert "error" not in outcome.values
    (note,) = (note for note in outcome.notes if "only there for comparison" in note)
    assert note.startswith("ort-cpu, model.fp16.onnx at batch 1, which")
    assert "computes other logits than the first" in note
    judged = bench_run.benchmark(dataclasses.replace(request, judged=(made.half,)))
    assert "ort-cpu, model.fp16.onnx at batch 1" in str(judged.problem)
    assert not any("only there for comparison" in note for note in judged.notes)


def test_nan_on_both_sides_is_exit_3(made, bench_cli, monkeypatch):
    for name in ("ort-cpu, model.onnx", "ort-cpu, model.onnx (2)"):
        spoil(monkeypatch, name, float("nan"))
    code, out, _ = bench_cli(made.onnx, made.onnx, *ORT, "--json")
    assert code == 3
    assert "not finite" in json.loads(out)["error"]


def test_an_interrupted_run_leaves_what_was_there(made, bench_cli, monkeypatch, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text("of yesterday")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, "_rounds", interrupted)
    code, _, _ = bench_cli(made.onnx, *ORT, "-o", path, "--markdown", tmp_path / "bench.md")
    assert code == 130
    assert path.read_text() == "of yesterday"
    assert [kept.name for kept in tmp_path.iterdir()] == ["bench.json"]


def test_a_place_that_can_not_be_written_is_told_before_any_work(made, bench_cli, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_run, "run", lambda *_: pytest.fail("it worked"))
    assert bench_cli(made.onnx, *ORT, "-o", tmp_path)[0] == 1
    assert bench_cli(made.onnx, *ORT, "--markdown", made.onnx)[0] == 1
    old = tmp_path / "old.json"
    old.write_text("{}")
    assert bench_cli(made.onnx, *ORT, "--baseline", old)[0] == 1


def test_an_empty_folder_says_what_to_do(bench_cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = bench_cli()
    assert code == 1
    assert "hemf-export onnx" in err


def test_without_the_checkpoint_the_files_alone_are_timed(made, bench_cli, tmp_path):
    shutil.copy(made.onnx, tmp_path)
    code, out, err = bench_cli(tmp_path / "model.onnx", *QUICK, "--batch", "1", "--json")
    assert code == 0
    assert "PyTorch is not timed" in err
    assert len(json.loads(out)["timings"]) == 1


def test_images_of_any_classes_serve_as_input(made, bench_cli, image_data):
    """Whatever the folder's classes are called: nothing here is about accuracy."""
    code, out, err = bench_cli(made.onnx, "--images", image_data, *ORT, "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == str(image_data / "test")


def test_a_fixed_batch_is_the_only_one(tmp_path, bench_cli):
    path = means(tmp_path / "fixed.onnx", batch=4)
    code, _, err = bench_cli(path, *QUICK, "--batch", "1,4")
    assert code == 2
    assert "fixed batch 4" in err
    code, out, _ = bench_cli(path, *QUICK, "--runners", "ort-cpu", "--json")
    assert (code, [timing["batch"] for timing in json.loads(out)["timings"]]) == (0, [4])


def test_only_what_can_not_run_is_exit_4_with_the_reasons(made, bench_cli):
    code, out, err = bench_cli(made.onnx, *QUICK, "--runners", "ort-cuda,ort-tensorrt", "--json")
    assert code == 4
    assert "ort-tensorrt, model.onnx: needs an NVIDIA GPU" in err
    assert json.loads(out)["exit_code"] == 4


def test_a_share_of_the_floor_is_told_on_the_target_s_gpu_alone(made, bench_cli, monkeypatch):
    code, out, _ = bench_cli(made.onnx, *ORT, "--json")
    assert code == 0
    assert json.loads(out)["timings"][0]["share_of_floor"] is None
    request = bench_run.Request((made.onnx,), batches=(1,), seconds=0.05, threads=1, kinds=("ort-cpu",), memory=False)
    report = bench_run.run(request)
    timing = report.timings[0]
    on_gpu = dataclasses.replace(timing, contender=dataclasses.replace(timing.contender, on_gpu=True))
    floor = next(floor for floor in report.floors if floor.precision == "fp32")
    for name, share in (("Tesla T4", floor.floor_ms / timing.median_ms), ("Tesla T4G", None), ("NVIDIA A10", None)):
        report.conditions["gpu"] = {"name": name}
        assert report.share_of_floor(on_gpu) == share
    assert report.share_of_floor(timing) is None, "it ran on the CPU"


@pytest.mark.parametrize(("gpu", "target"), [("NVIDIA A10G", None), ("NVIDIA L40", "l40"), ("NVIDIA L4", "l4")])
def test_the_floor_is_of_the_gpu_of_this_machine_or_none_is_told(made, monkeypatch, gpu, target):
    """An A10G is no A10, and an L40 no L4, though its name starts so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    monkeypatch.setattr(bench_run, "_uuid", lambda: None)
    request = bench_run.Request((made.onnx,), batches=(1,), seconds=0.05, threads=1, kinds=("ort-cpu",), memory=False)
    report = bench_run.run(request)
    assert report.target == target
    assert bool(report.floors) == (target is not None)
    told = [note for note in report.notes if "No floor is computed" in note and gpu in note]
    assert len(told) == (target is None)


def test_a_file_that_was_named_and_can_not_be_timed_is_told(made, bench_cli, tmp_path):
    engine = tmp_path / "model.t4.engine"
    artifacts.write_bytes(engine, b"a plan")
    artifacts.write_manifest(engine, ModelFile.open(made.half).description.to_dict())
    code, _, err = bench_cli(made.onnx, engine, *QUICK, "--batch", "1")
    assert code == 0
    assert "model.t4.engine is not timed: needs an NVIDIA GPU that PyTorch can use." in err
    assert "model.onnx is not timed" not in err
