"""A benchmark as an HTML page. Made from its JSON alone; every figure is from there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hemf_export.bench import accuracy, plots
from hemf_export.pages.figures import billions, change, millions, milliseconds, rate, ratio, rough_percent
from hemf_export.pages.report_page import Section, escaped, figure, listed, page, table

_NAMED = 4  # files in the title
_LEGEND = (
    "Dot: the median (p50). Thick: to p90; thin: to p99, or to the highest percentile that the rounds tell. A dash: "
    "too few rounds to tell. Ratio: to the first runner, round by round; in brackets where another run's ratio falls "
    "with 95 %. MB: peak of the host's memory."
)
_FLOOR = (
    "Counted operations and bytes over the rates that the GPU's maker publishes: not a measurement. As compiled: the "
    "kernels of that engine, with 2.5 µs for each launch; of all others fusion is assumed, and no kernel can be "
    "quicker as far as that holds. Least: what no fusion can beat."
)
_GPU_RANGES = (
    ("clock, MHz", "sm_mhz"), ("memory clock, MHz", "memory_mhz"), ("power, W", "power_w"),
    ("temperature, °C", "temperature_c"),
)  # fmt: skip


def html(report: Mapping[str, Any]) -> str:
    """Make the page.

    Args:
        report: the JSON of a benchmark; parts that it lacks are left out.
    """
    failed = "error" in report
    verdict = '<span class="bad">FAILED</span>' if failed else '<span class="good">No check failed</span>'
    batches = ", ".join(str(batch) for batch, _ in _by_batch(report))
    runners = len({timing["name"] for timing in report["timings"]})
    lead = (
        f"<p>{verdict}: {runners} runner{'s' * (runners != 1)} at batch {escaped(batches)} on "
        f"{_machine(report)}; {escaped(report['conditions']['date'])}; checkpoint "
        f"<code>{escaped(report['checkpoint_sha256'])}</code>.</p>"
        + (f'<p class="bad">{escaped(report["error"])}</p>' if failed else "")
        + listed([*report["notes"], *report.get("baseline", {}).get("notes", ())])
    )
    sections = [
        Section("Latency", _latency(report)),
        Section("Accuracy against latency", accuracy.section(report)),
        Section("Compared with the baseline", _baseline(report)),
        Section(f"Floor on a {report['roofline']['target']} by its roofline", _floors(report)),
        Section("Memory", _memory(report)),
        Section("Not run", _not_run(report)),
        Section("What was run, and where", _conditions(report)),
        Section("How it was measured", _method(report)),
    ]
    names = list(dict.fromkeys(one["file"] for one in report["timings"]))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return page(f"Benchmark: {', '.join(names[:_NAMED])}{more}", lead, sections)


def _by_batch(report: Mapping[str, Any]) -> Iterator[tuple[int, list[tuple[int, Mapping[str, Any]]]]]:
    """Each batch size with its timings and their places."""
    numbered = list(enumerate(report["timings"]))
    for batch in dict.fromkeys(timing["batch"] for timing in report["timings"]):
        yield batch, [(index, timing) for index, timing in numbered if timing["batch"] == batch]


def _latency(report: Mapping[str, Any]) -> str:
    parts = []
    for batch, members in _by_batch(report):
        timings = [timing for _, timing in members]
        shares = any(timing["share_of_floor"] is not None for timing in timings)
        used = any(timing["memory"] is not None for timing in timings)
        columns = ["runner", "p50 ms", "p90", "p95", "p99", "images/s", "ratio (95 %)"]
        columns += ["MB"] * used + ["of floor"] * shares
        rows = []
        for index, timing in members:
            place = f"timings/{index}"
            row = [escaped(timing["name"])]
            row += [figure(report, f"{place}/latency_ms/{name}", milliseconds) for name in ("p50", "p90", "p95", "p99")]
            row += [figure(report, f"{place}/images_per_second", rate), _interval(report, f"{place}/ratio")]
            row += [figure(report, f"{place}/memory/peak_rss_bytes", millions)] if used else []
            row += [figure(report, f"{place}/share_of_floor", rough_percent)] if shares else []
            rows.append(row)
        drawn = [plots.latencies(timings), plots.ratios(timings) if len(timings) > 1 else ""]
        rounds = figure(report, f"timings/{members[0][0]}/rounds")
        parts.append(
            f"<h3>Batch {escaped(batch)}, {rounds} rounds</h3>"
            f'<div class="grid plots">{"".join(f"<div>{one}</div>" for one in drawn if one)}</div>'
            + table(columns, rows)
        )
    floor = " Triangle: the floor." if any(one["share_of_floor"] is not None for one in report["timings"]) else ""
    return "".join(parts) + f'<p class="soft">{escaped(_LEGEND + floor)}</p>'


def _baseline(report: Mapping[str, Any]) -> str:
    if "baseline" not in report:
        return ""
    rows = []
    for index, one in enumerate(report["baseline"]["changes"]):
        place, outcome = f"baseline/changes/{index}", one["outcome"]
        kind = {"worse": "bad", "ok": "good"}.get(outcome, "")
        rows.append(
            (
                escaped(one["name"]), escaped(one["batch"]), _interval(report, f"{place}/now"),
                _interval(report, f"{place}/before"), figure(report, f"{place}/slowdown", change),
                f'<span class="{kind}">{escaped(outcome)}</span>',
            )
        )  # fmt: skip
    allowed = figure(report, "baseline/max_slowdown", rough_percent)
    lead = f"<p>Beside {escaped(report['baseline']['file'])}; a ratio may grow by {allowed}.</p>"
    return lead + table(("runner", "batch", "ratio (95 %)", "in the baseline", "change", "verdict"), rows, words=(0, 5))


def _floors(report: Mapping[str, Any]) -> str:
    rows = []
    for index, floor in enumerate(report["roofline"]["floors"]):
        place = f"roofline/floors/{index}"
        counts = {name: figure(report, f"{place}/operations/{name}", billions) for name in floor["operations"]}
        rows.append(
            (
                escaped(floor["precision"].upper()),
                escaped(floor["batch"]),
                figure(report, f"{place}/floor_ms", milliseconds),
                figure(report, f"{place}/images_per_second", rate),
                figure(report, f"{place}/least_ms", milliseconds),
                ", ".join(f"{count} {escaped(name)}" for name, count in counts.items()),
                figure(report, f"{place}/moved_bytes", millions),
                figure(report, f"{place}/memory_bound", rough_percent),
                escaped(floor["source"]),
            )
        )
    if not rows:
        return ""
    columns = (
        "", "batch", "floor ms", "images/s", "least ms", "G operations", "MB", "waits for memory", "counted from",
    )  # fmt: skip
    return table(columns, rows, words=(0, 8)) + f'<p class="soft">{escaped(_FLOOR)}</p>'


def _memory(report: Mapping[str, Any]) -> str:
    rows = []
    for index, timing in enumerate(report["timings"]):
        if timing["memory"] is not None:
            place = f"timings/{index}/memory"
            names = ("peak_rss_bytes", "imports_rss_bytes", "gpu_bytes")
            shown = (figure(report, f"{place}/{name}", millions) for name in names)
            rows.append((escaped(timing["name"]), escaped(timing["batch"]), *shown))
    columns = ("runner", "batch", "peak, MB", "libraries alone, MB", "on the GPU, MB")
    return table(columns, rows) if rows else ""


def _not_run(report: Mapping[str, Any]) -> str:
    rows = [
        (
            escaped(one["name"]), "all" if one["batch"] is None else escaped(one["batch"]),
            ('<span class="bad">FAILED</span>: ' if one["failed"] else "") + escaped(one["reason"]),
        )
        for one in report["not_run"]
    ]  # fmt: skip
    return table(("runner", "batch", "why"), rows, words=(0, 2)) if rows else ""


def _interval(report: Mapping[str, Any], place: str) -> str:
    """A ratio, and its interval in brackets."""
    low, high = (figure(report, f"{place}/{end}", ratio) for end in ("low", "high"))
    return f"{figure(report, f'{place}/median', ratio)} ({low} to {high})"


def _machine(report: Mapping[str, Any]) -> str:
    """GPU, processor and threads in one line of HTML."""
    gpu = report["conditions"]["gpu"]
    cpu = (
        f"{escaped(report['conditions']['cpu']['model'])}, {figure(report, 'conditions/cpu/threads')} of "
        f"{figure(report, 'conditions/cpu/cores')} cores"
    )
    return f"{escaped(gpu['name'])}; {cpu}" if gpu else cpu


def _conditions(report: Mapping[str, Any]) -> str:
    """Conditions, files and versions."""
    rows = [
        ("date", escaped(report["conditions"]["date"])),
        ("processor", escaped(report["conditions"]["cpu"]["model"])),
        ("threads of each runner", figure(report, "conditions/cpu/threads")),
        ("cores that may be used", figure(report, "conditions/cpu/cores")),
        ("taken by other processes", figure(report, "conditions/cpu/others_share", rough_percent)),
        ("taken by other virtual machines", figure(report, "conditions/cpu/steal_share", rough_percent)),
        *_gpu(report),
        ("images", escaped(report["images"])),
        ("checkpoint, SHA-256", f"<code>{escaped(report['checkpoint_sha256'])}</code>"),
    ]
    files = {one["file"]: one["sha256"] for one in report["timings"]}
    rows += [(f"{escaped(name)}, SHA-256", f"<code>{escaped(sha256)}</code>") for name, sha256 in files.items()]
    versions = report["conditions"]["versions"]
    rows += [("versions", ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in versions.items()))]
    return table(("", ""), rows, words=(0, 1), kind="facts")


def _method(report: Mapping[str, Any]) -> str:
    """How it was measured, in the JSON's own words."""
    names = {name: re.sub(r" s$", ", s", name.replace("_", " ")) for name in report["method"]}
    rows = [(escaped(names[name]), escaped(text)) for name, text in report["method"].items()]
    return table(("", ""), rows, words=(0, 1), kind="facts")


def _gpu(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    gpu = report["conditions"]["gpu"]
    if not gpu:
        return [("GPU", "none")]
    rows = [("GPU", escaped(gpu["name"])), ("driver", escaped(gpu["driver"]))]
    rows.append(("power limit, W", figure(report, "conditions/gpu/power_limit_w")))
    for label, name in _GPU_RANGES:
        if gpu[name] is not None:
            ends = (figure(report, f"conditions/gpu/{name}/{end}") for end in (0, 1))
            rows.append((label, " to ".join(ends)))
    rows.append(("throttled by", ", ".join(map(escaped, gpu["throttling"])) or "nothing"))
    return rows
