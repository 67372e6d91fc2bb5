"""The GPU check around its steps: processes of their own, limits, results, the report, and a machine without a GPU."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import hemf_export
from hemf_export.doctor.probing import Finding
from hemf_export.files.errors import CheckFailedError, MissingCapabilityError, UsageError
from hemf_export.gpu_check import catalogue, check, claims
from hemf_export.gpu_check.catalogue import Entry
from hemf_export.gpu_check.check import GpuCheck
from hemf_export.gpu_check.claims import Claim
from hemf_export.gpu_check.step import Check, Result
from tests.conftest import Recorder


def outcome(*checks: Check, step: str = "bench", whole: str = "passed") -> tuple[Result, ...]:
    return (Result(step, whole, checks=checks),)  # type: ignore[arg-type]


GPU = Finding("ok", {"gpu": "Tesla T4"})
ONE_FAILED = outcome(Check("a", "passed", ""), Check("b", "failed", ""), whole="failed")


def entries(*names: str, limit_s: float = 60.0) -> tuple[Entry, ...]:
    return tuple(Entry(name, f"Trying {name}", limit_s, f"tests.hemf_export.gpu_check.steps:{name}") for name in names)


def has_ended(pid: str) -> bool:
    """Whether a process is gone, or waits as a zombie for whoever adopted it."""
    state = Path(f"/proc/{int(pid)}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU is found; the steps don't use it."""
    monkeypatch.setattr(check.probing, "probe_all", lambda probes: {"gpu": GPU})


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> GpuCheck:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check.probing, "probe_all", lambda probes: {"gpu": GPU})
        names = ("passing", "mixed", "crashing", "exiting", "elsewhere", "refused", "leaving", "undecodable")
        patch.setattr(catalogue, "ENTRIES", entries(*names))
        return hemf_export.check_gpu(tmp_path_factory.mktemp("check") / "gpu-check")


def result(checked: GpuCheck, name: str) -> Result:
    return next(one for one in checked.results if one.step == name)


def test_a_step_that_passes_has_its_checks_and_values(checked):
    found = result(checked, "passing")
    assert (found.outcome, found.checks, found.facts) == (
        "passed",
        (Check("sums", "passed", "1 + 1 is 2"),),
        {"number": 1.5},
    )
    assert "printed by native code" in (checked.path / "passing.log").read_text()


def test_a_failing_check_does_not_stop_its_step_nor_what_the_machine_lacks(checked):
    found = result(checked, "mixed")
    assert found.outcome == "failed"
    assert [check.outcome for check in found.checks] == ["can't run", "failed", "passed"]
    assert found.checks[1].found.startswith("RuntimeError: CUDA error: an illegal memory access (steps.py:")


@pytest.mark.parametrize(
    ("name", "outcome", "why"),
    [
        ("crashing", "failed", "crashed (SIGABRT): about to crash"),
        ("undecodable", "failed", ""),
        ("exiting", "failed", "ended Python (exit 3)"),
        ("elsewhere", "can't run", "It takes two GPUs."),
        ("refused", "failed", "TensorRT refuses the graph."),
    ],
)
def test_whatever_a_step_does_is_a_result(checked, name, outcome, why):
    assert (result(checked, name).outcome, result(checked, name).reason) == (outcome, why)


def test_the_report_has_everything(checked):
    lines = [json.loads(line) for line in (checked.path / "steps.jsonl").read_text().splitlines()]
    assert [Result.from_dict(line) for line in lines] == list(checked.results)
    page = (checked.path / "report.md").read_text()
    assert "**Tesla T4: 2 of 8 steps passed, 5 failed, 1 can't run here.**" in page
    for text in ("| passing | passed |", "1 + 1 is 2", '"number": 1.5', "crashed (SIGABRT)", claims.read()[0].claim):
        assert text in page
    assert not [path for path in checked.path.parent.iterdir() if path != checked.path], "working files are gone"
    assert isinstance(checked.problem, CheckFailedError)
    assert checked.problem.message == "mixed, crashing, exiting, refused, undecodable failed."


@pytest.mark.usefixtures("gpu")
def test_a_step_that_hangs_is_killed_with_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "ENTRIES", entries("hanging", limit_s=6.0))
    checked = hemf_export.check_gpu(tmp_path / "out")
    assert checked.results[0].reason == "no end within 6 s"
    assert has_ended((tmp_path / "started").read_text())
    assert "in hanging" in (tmp_path / "out" / "hanging.log").read_text(), "where it hung"


def test_what_a_step_leaves_behind_is_ended_and_no_one_waits_for_it(checked):
    """Neither a step that passes nor one that crashes is "no end within 60 s" for a process that holds its stderr."""
    for name, outcome in (("leaving", "passed"), ("crashing", "failed")):
        found = result(checked, name)
        assert (found.outcome, "no end" in found.reason) == (outcome, False)
        assert has_ended((checked.path / f"{name}.log").read_text().split()[0])


@pytest.mark.usefixtures("gpu")
def test_an_interrupted_step_may_close_what_it_opened_and_what_was_found_is_reported(tmp_path, monkeypatch):
    """Ctrl-C in the second of three steps; the output folder has the report of an earlier check."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("earlier")
    monkeypatch.setattr(catalogue, "ENTRIES", entries("passing", "serving", "elsewhere"))

    def interrupt(process, limit_s):
        if "serving" in process.args and limit_s == 60:
            while not (tmp_path / "started").exists():
                assert process.poll() is None
                time.sleep(0.01)
            raise KeyboardInterrupt
        return ended(process, limit_s)

    ended = check.child.ended
    monkeypatch.setattr(check.child, "ended", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hemf_export.check_gpu(out)
    assert (tmp_path / "started").read_text() == "closed"
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [(one["step"], one["outcome"]) for one in steps] == [
        ("passing", "passed"), ("serving", "can't run"), ("elsewhere", "can't run"),
    ]  # fmt: skip
    assert {one["reason"] for one in steps[1:]} == {"the check was interrupted"}
    assert "| passing | passed |" in (out / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "started"], "working files are gone"


def test_a_step_that_crashes_keeps_what_it_had_found(checked):
    found = result(checked, "crashing")
    assert (found.checks, found.facts) == ((Check("before", "passed", "it went well"),), {"number": 2.5})
    assert found.seconds > 0


@pytest.mark.usefixtures("gpu")
def test_what_there_is_no_time_for_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "ENTRIES", entries("passing", "elsewhere"))
    checked = hemf_export.check_gpu(tmp_path / "out", minutes=0.01)
    assert {one.reason for one in checked.results} == {"the 0.01 minutes for all steps were over"}
    assert checked.problem is None, "nothing failed"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("minutes", "least", "most"), [(10, 60, 60), (0.5, 20, 30)])
def test_a_step_gets_its_own_time_or_what_is_left(tmp_path, monkeypatch, minutes, least, most):
    limits: list[float] = []
    monkeypatch.setattr(catalogue, "ENTRIES", entries("passing"))
    monkeypatch.setattr(check, "run_step", lambda *given: limits.append(given[-1]) or Result("passing", "passed"))
    hemf_export.check_gpu(tmp_path, minutes=minutes)
    assert least <= limits[0] <= most


def test_without_a_gpu_every_step_says_so_and_the_command_ends_with_4(tmp_path, run_cli):
    code, out, err = run_cli("doctor", "--gpu", "-o", tmp_path / "out")
    assert code == 4
    assert out.startswith(f"No GPU: none of {len(catalogue.ENTRIES)} steps could run.")
    assert out.count("no GPU") == len(catalogue.ENTRIES)
    assert all(entry.name in out for entry in catalogue.ENTRIES)
    assert "hemf-export doctor says what is missing" in err
    assert (tmp_path / "out" / "report.md").is_file()


def test_as_json(tmp_path, run_cli):
    code, out, err = run_cli(
        "doctor", "--gpu", "--step", "bench", "--step", "cpp", "--step", "bench", "-o", tmp_path / "out", "--json"
    )
    values = json.loads(out)
    assert (code, values["exit_code"], values["gpu"]) == (4, 4, None)
    assert [one["step"] for one in values["steps"]] == ["bench", "cpp"]
    assert {claim["state"] for claim in values["claims"]} == {"not tried"}
    assert values["hint"] == "hemf-export doctor says what is missing."
    assert err.endswith(f"error: {values['error']}\n  {values['hint']}\n")


def test_what_is_refused(tmp_path, run_cli):
    with pytest.raises(UsageError, match="Did you mean 'bench'"):
        hemf_export.check_gpu(tmp_path, steps=["bensh"])
    with pytest.raises(UsageError, match="`minutes` must be positive"):
        hemf_export.check_gpu(tmp_path, minutes=0)
    assert run_cli("doctor", "--minutes", "3")[0] == 2
    assert not os.listdir(tmp_path)


def test_progress_tells_the_step_and_gets_its_result(tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(catalogue, "ENTRIES", entries("passing", "elsewhere"))
    progress = Recorder()
    checked = hemf_export.check_gpu(tmp_path / "out", progress=progress)
    assert "Trying elsewhere (2 of 2)" in progress.tasks
    assert progress.events == list(checked.results)


@pytest.mark.parametrize(
    ("claim", "results", "gpu_name", "state"),
    [
        ({}, outcome(), "Tesla T4", "confirmed"),
        ({}, outcome(whole="failed"), "Tesla T4", "failed"),
        ({}, outcome(whole="can't run"), "Tesla T4", "not tried"),
        ({}, outcome(step="cpp"), "Tesla T4", "not tried"),
        ({}, outcome(), None, "not tried"),
        ({"gpu": "Tesla T4"}, outcome(), "NVIDIA H200", "not tried"),
        ({"gpu": "H200"}, outcome(), "NVIDIA H200", "confirmed"),
        ({"checks": ("a",)}, ONE_FAILED, "x", "confirmed"),
        ({"checks": ("a", "b")}, outcome(Check("a", "passed", "")), "x", "not tried"),
        ({"checks": ("b",)}, outcome(Check("b", "failed", ""), whole="failed"), "x", "failed"),
        ({"checks": ("b",)}, outcome(Check("b", "can't run", "")), "x", "not tried"),
    ],
)  # fmt: skip
def test_what_results_say_of_a_claim(claim, results, gpu_name, state):
    assert claims.state(Claim("id", "claim", (), "bench", **claim), results, gpu_name) == state


def test_missing_gpus_are_no_failure_of_the_check():
    without = GpuCheck(Path("out"), outcome(whole="can't run"), None, {})
    assert isinstance(without.problem, MissingCapabilityError)
    assert len(without.tables) == 1
