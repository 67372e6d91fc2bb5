"""Probes in child processes (`probe`), two at a time: whatever a package does there, it ends in a Finding.

A child may crash, end or hang. Nothing goes through files: a doctor is called on machines whose disk is full, too.
"""

from __future__ import annotations

import json
import os
import signal
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
_KILLED_S = 5.0  # a process that waits in a broken driver can't even be killed: not waited for longer
_LONGEST_REASON = 300

Outcome = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Args:
        outcome: "missing" where nothing of the kind is installed, "broken" where it is there and doesn't work.
        facts: by name, as the probe gives them.
        reason: why it is not "ok", in one line.
    """

    outcome: Outcome
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def probe_all(probes: Mapping[str, tuple[str, ...]], *, timeout_s: float = TIMEOUT_S) -> dict[str, Finding]:
    """Run probes, each in a child of its own.

    Args:
        probes: name → arguments of `doctor.probe`: `("package", "onnx")`.
        timeout_s: for each; a child that takes longer is killed.
    """
    stop = Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            futures = {name: pool.submit(_probe, arguments, timeout_s, stop) for name, arguments in probes.items()}
            # In short waits: one without an end may never hear of a Ctrl-C that came just before it began.
            while wait(futures.values(), timeout=_POLL_S).not_done:
                pass
        finally:
            stop.set()  # after Ctrl-C: children end at once, and the rest isn't begun
            pool.shutdown(cancel_futures=True)
    return {name: future.result() for name, future in futures.items()}


def _probe(arguments: tuple[str, ...], timeout_s: float, stop: Event) -> Finding:
    command = child.command("hemf_export.doctor.probe", *arguments)
    what = "import" if arguments[0] == "package" else "test"
    try:
        # A session of its own, so that what the child has started ends with it.
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
            _kill(process)
    return _answered(output) or Finding("broken", reason=_death(process.returncode, noise, what))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started."""
    with suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_KILLED_S)


def _answered(output: bytes) -> Finding | None:
    """The child's answer: its last line that is one."""
    for line in reversed(output.decode(errors="replace").splitlines()):
        with suppress(ValueError, TypeError, KeyError):
            value = json.loads(line)
            return Finding(value["outcome"], value.get("facts", {}), value.get("reason", "")[:_LONGEST_REASON])
    return None


def _death(code: int, noise: bytes, what: str) -> str:
    reason = f"crashes at {what} (signal {-code})" if code < 0 else f"ends Python at {what} (exit {code})"
    lines = noise.decode(errors="replace").strip().splitlines()
    return f"{reason}: {lines[-1].strip()}"[:_LONGEST_REASON] if lines else reason
