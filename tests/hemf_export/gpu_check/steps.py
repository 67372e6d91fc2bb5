"""Steps that behave as steps on a GPU may."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from hemf_export.files.errors import HemfError, MissingCapabilityError
from hemf_export.gpu_check.step import Findings, Place


def passing(place: Place, findings: Findings) -> None:
    os.write(1, b"printed by native code")
    (place.folder / "left").write_text("for a later step")
    findings.facts["number"] = 1.5
    findings.check("sums", True, "1 + 1 is 2")


def mixed(place: Place, findings: Findings) -> None:
    assert (place.folder / "left").read_text() == "for a later step"
    with findings.attempt("needs more"):
        raise MissingCapabilityError("Another GPU is needed.")
    with findings.attempt("breaks"):
        raise RuntimeError("CUDA error:\n an illegal memory access")
    findings.check("goes on", True, "after both")


def leaving(place: Place, findings: Findings) -> None:
    os.write(2, b"%d\n" % _sleeper().pid)
    findings.check("passes", True, "but leaves a process")


def undecodable(place: Place, findings: Findings) -> None:
    findings.check("a file", False, os.fsdecode(b"\xff.onnx is missing"))


def crashing(place: Place, findings: Findings) -> None:
    findings.facts["number"] = 2.5
    findings.check("before", True, "it went well")
    os.write(2, b"%d\nabout to crash" % _sleeper().pid)
    os.abort()


def exiting(place: Place, findings: Findings) -> None:
    os._exit(3)


def hanging(place: Place, findings: Findings) -> None:
    (place.folder.parent / "started").write_text(str(_sleeper().pid))
    time.sleep(600)


def serving(place: Place, findings: Findings) -> None:
    server = place.folder.parent / "started"
    try:
        server.write_text("open")
        time.sleep(600)
    finally:
        server.write_text("closed")


def elsewhere(place: Place, findings: Findings) -> None:
    raise MissingCapabilityError("It takes two GPUs.")


def refused(place: Place, findings: Findings) -> None:
    raise HemfError("TensorRT refuses the graph.")


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
