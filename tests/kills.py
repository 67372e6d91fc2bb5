"""Programs that end by SIGKILL at a moment that is the same on any machine: before one of their file operations.

What is on the disk changes by nothing else, so that these are all the moments there are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from pathlib import Path

folders, pattern, kill_at, counted, *line = sys.argv[1:]
folders, operations = folders.split(os.pathsep), 0


def watch(event, arguments):
    global operations
    if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
        return
    if not str(arguments[0]).startswith(tuple(folders)) or (pattern and not any(Path(folders[0]).glob(pattern))):
        return
    operations += 1
    if operations == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch)
from hemf_export.cli import run

code = run(line)
if counted:
    Path(counted).write_text(str(operations))
sys.exit(code)
"""


def program(
    line: Sequence[object], *folders: Path, kill_at: int = 0, once: str = "", counted: Path | None = None
) -> list[str]:
    """The command line of hemf-export with `line`, which kills itself before its `kill_at`-th operation in `folders`.

    Args:
        line: arguments of hemf-export.
        folders: where files are opened, renamed and removed.
        kill_at: 0 for never.
        once: a pattern; operations count from when a file of the first folder matches it.
        counted: file that the number of all operations is written to, at the end.
    """
    words = (os.pathsep.join(map(str, folders)), once, kill_at, "" if counted is None else counted, *line)
    return [sys.executable, "-c", PROGRAM, *map(str, words)]


def killed(command: Sequence[str], **environment: str) -> None:
    """Run a program to its death."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


posix = pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
