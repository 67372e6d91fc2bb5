"""Standard output is kept free of what libraries print meanwhile, in Python and in native code."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

from hemf_export.files import native_output
from tests.conftest import PROJECT

PRINTING = """
import ctypes, os, sys
from hemf_export.files.native_output import off_stdout
library = ctypes.CDLL(None)
print("before")
with off_stdout():
    print("by Python")
    library.puts(b"into the C library's buffer, which a pipe leaves full")
    os.write(1, b"by a system call\\n")
print("after")
"""


def test_results_alone_are_left_on_stdout_in_their_order():
    """In a process of its own, where stdout is a pipe: the C library keeps what it prints until its buffer is full."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "before\nafter\n"
    for said in ("by Python", "into the C library's buffer", "by a system call"):
        assert said in done.stderr


def test_it_is_as_before_afterwards_even_after_an_error(capfd):
    before = sys.stdout
    try:
        with native_output.off_stdout():
            ctypes.CDLL(None).puts(b"gone")
            raise KeyError
    except KeyError:
        print("shown", flush=True)  # noqa: T201
    assert sys.stdout is before
    out, err = capfd.readouterr()
    assert out == "shown\n"
    assert "gone" in err


def test_a_closed_stdout_is_no_reason_to_fail():
    code = "import os; os.close(1)\nfrom hemf_export.files.native_output import off_stdout\nwith off_stdout(): print(1)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=True, env=environment)
    assert done.stderr == "1\n"
