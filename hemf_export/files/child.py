"""Run modules of this package in child processes: native code may crash on its input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

_KILLED_S = 5.0  # longest wait for a killed process: one blocked in a broken driver never ends


def command(module: str, *arguments: str) -> list[str]:
    """Build the command line that runs `module` as `python -m` would, with this process's import path.

    `-m` itself would put the current folder first, and a user's folder may well hold an `engines` or an `onnx.py`.
    """
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import runpy; "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code, *arguments]


def ended(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Wait for a child for at most `limit_s` seconds; return whether it has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(limit_s)
    return process.returncode is not None


def kill(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Kill a child that was started in a session of its own, and all its processes.

    Returns:
        What it wrote to its pipes, stdout and stderr.
    """
    with suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=_KILLED_S)
    except subprocess.TimeoutExpired as error:  # or one that it started in another session holds the pipes open
        return error.output or b"", error.stderr or b""
