"""Run probes in child processes (`probe`), two at a time: whatever a package does, the result is a Finding.

A child may crash, exit or hang. No files are used, as the disk may be full.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal

from hemf_export.files import child

TIMEOUT_S = 60.0  # an import from a cold network disk takes tens of seconds
AT_ONCE = 2  # each may take hundreds of megabytes
_POLL_S = 0.1
_LONGEST_REASON = 300

Outcome = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """Result of a probe.

    Args:
        outcome: "ok", "missing" if it isn't installed, "broken" if it doesn't work.
        facts: the probe's facts by name.
        reason: why it isn't "ok", in one line.
    """

    outcome: Outcome
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def probe_all(probes: Mapping[str, tuple[str, ...]], *, timeout_s: float = TIMEOUT_S) -> dict[str, Finding]:
    """Run probes, each in its own child process.

    Args:
        probes: name → arguments of `doctor.probe`, such as `("package", "onnx")`.
        timeout_s: time limit of each; a slower child is killed.
    """
    stop = Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            futures = {name: pool.submit(_probe, arguments, timeout_s, stop) for name, arguments in probes.items()}
            # In short waits: an unlimited one could miss a Ctrl-C just before it.
            while wait(futures.values(), timeout=_POLL_S).not_done:
                pass
        finally:
            stop.set()  # after Ctrl-C: children end at once, and no more are started
            pool.shutdown(cancel_futures=True)
    return {name: future.result() for name, future in futures.items()}


def _probe(arguments: tuple[str, ...], timeout_s: float, stop: Event) -> Finding:
    command = child.command("hemf_export.doctor.probe", *arguments)
    what = "import" if arguments[0] == "package" else "test"
    try:
        # A session of its own, so that the child's own processes end with it.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        return Finding("broken", reason=f"no child process could be started for it: {error.strerror or error}")
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                output, noise = process.communicate(timeout=_POLL_S)
                break
            if stop.is_set() or time.monotonic() > deadline:
                return Finding("broken", reason=f"{what} hangs: no answer in {timeout_s:g} s")
    finally:
        if process.returncode is None:
            child.kill(process)
    return _answered(output) or Finding("broken", reason=_death(process.returncode, noise, what))


def _answered(output: bytes) -> Finding | None:
    """Return the child's answer, the last line that is one."""
    for line in reversed(output.decode(errors="replace").splitlines()):
        with suppress(ValueError, TypeError, KeyError):
            value = json.loads(line)
            return Finding(value["outcome"], value.get("facts", {}), value.get("reason", "")[:_LONGEST_REASON])
    return None


def _death(code: int, noise: bytes, what: str) -> str:
    reason = f"crashes at {what} (signal {-code})" if code < 0 else f"ends Python at {what} (exit {code})"
    lines = noise.decode(errors="replace").strip().splitlines()
    return f"{reason}: {lines[-1].strip()}"[:_LONGEST_REASON] if lines else reason
