"""A ratio that worsened since an earlier run fails where it is more than the bound, and more than chance."""

from __future__ import annotations

import json

import pytest

from hemf_export.bench import baseline as bench_baseline
from hemf_export.files.errors import BadInputError


def report(*timings: tuple[str, int, tuple[float, float, float]], model: str = "a CPU", threads: int = 2) -> dict:
    """What `bench` writes, as far as a comparison reads it; the first runner is there by itself."""
    first = [("eager", batch, (1.0, 1.0, 1.0)) for batch in dict.fromkeys(batch for _, batch, _ in timings)]
    return {
        "bench": 1,
        "conditions": {"cpu": {"model": model, "threads": threads}, "gpu": None},
        "timings": [
            {"name": name, "batch": batch, "ratio": dict(zip(("median", "low", "high"), ratio, strict=True))}
            for name, batch, ratio in (*first, *timings)
        ],
    }


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        ((0.50, 0.49, 0.51), "ok"),
        ((0.54, 0.53, 0.55), "ok"),
        ((0.60, 0.58, 0.62), "worse"),
        ((0.60, 0.50, 0.70), "uncertain"),
        ((0.30, 0.29, 0.31), "ok"),
    ],
)
def test_only_what_is_beyond_the_bound_and_more_than_chance_is_worse(now, outcome):
    before = report(("ort", 1, (0.50, 0.48, 0.52)))
    (change,) = bench_baseline.compare(before, report(("ort", 1, now)), max_slowdown=0.1).changes
    assert change.outcome == outcome
    assert change.to_dict()["slowdown"] == pytest.approx(now[0] / 0.5 - 1)


def test_each_batch_size_and_runner_is_compared_with_its_own():
    before = report(("ort", 1, (0.5, 0.49, 0.51)), ("ort", 8, (0.8, 0.79, 0.81)), ("gone", 8, (1, 1, 1)))
    now = report(("ort", 1, (0.5, 0.49, 0.51)), ("ort", 8, (0.95, 0.94, 0.96)), ("new", 8, (1, 1, 1)))
    found = bench_baseline.compare(before, now, max_slowdown=0.1)
    assert [(change.name, change.batch) for change in found.changes] == [("ort", 1), ("ort", 8)]
    assert [(change.name, change.batch) for change in found.worse] == [("ort", 8)]
    assert found.notes == ("In the baseline, and not here: gone at batch 8.",)


def test_markdown_has_the_ratios_and_what_became_of_them():
    before, now = report(("ort", 1, (0.5, 0.49, 0.51))), report(("ort", 1, (0.75, 0.74, 0.76)), threads=4)
    text = bench_baseline.compare(before, now, max_slowdown=0.1).markdown()
    assert "| ort | 1 | 0.75 | 0.50 | +50% | worse |" in text
    assert "another threads" in text


def test_another_machine_is_told():
    before, now = report(("ort", 1, (1, 1, 1))), report(("ort", 1, (1, 1, 1)), model="another", threads=8)
    notes = bench_baseline.compare(before, now, max_slowdown=0.1).notes
    assert "another processor (a CPU, now another)" in notes[0]
    assert "another threads (2, now 8)" in notes[1]


def test_ratios_to_different_runners_are_not_compared():
    before, now = report(("ort", 1, (1, 1, 1))), report(("ort", 1, (1, 1, 1)))
    now["timings"][0]["name"] = "channels-last"
    with pytest.raises(BadInputError, match="are to eager, these to channels-last"):
        bench_baseline.compare(before, now, max_slowdown=0.1)


def test_nothing_in_common_is_no_success():
    with pytest.raises(BadInputError, match="no runner in common"):
        bench_baseline.compare(report(("a", 1, (1, 1, 1))), report(("b", 1, (1, 1, 1))), max_slowdown=0.1)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"bench": 1, "timings": [{}], "conditions": {"cpu": {}}}', "7"])
def test_a_file_that_is_no_report_is_refused(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"old\.json is not"):
        bench_baseline.read(path)
    with pytest.raises(BadInputError, match="can't be read"):
        bench_baseline.read(tmp_path / "none.json")


def test_a_report_is_read_back(tmp_path):
    path = tmp_path / "old.json"
    values = report(("ort", 1, (0.5, 0.4, 0.6)))
    path.write_text(json.dumps(values))
    assert bench_baseline.read(path) == values
