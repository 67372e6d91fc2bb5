"""What a page tells of how and where a benchmark was run: machine, GPU, files, versions, method. From its JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hemf_export.figures import rough_percent
from hemf_export.report_page import escaped, figure, table

_GPU_RANGES = (
    ("clock, MHz", "sm_mhz"), ("memory clock, MHz", "memory_mhz"), ("power, W", "power_w"),
    ("temperature, °C", "temperature_c"),
)  # fmt: skip


def machine(report: Mapping[str, Any]) -> str:
    """GPU, processor and threads in one line of HTML."""
    gpu = report["conditions"]["gpu"]
    cpu = (
        f"{escaped(report['conditions']['cpu']['model'])}, {figure(report, 'conditions/cpu/threads')} of "
        f"{figure(report, 'conditions/cpu/cores')} cores"
    )
    return f"{escaped(gpu['name'])}; {cpu}" if gpu else cpu


def tables(report: Mapping[str, Any]) -> str:
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


def method(report: Mapping[str, Any]) -> str:
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
