"""Freed memory is kept: measured by the page faults of a process that makes the same large tensor again and again."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from train import freed_memory

FAULTS = """
import resource, sys, torch
from train import freed_memory
if sys.argv[1] == "keep":
    assert freed_memory.keep()
torch.set_num_threads(1)
def faults():
    torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    settled = faults()
for _ in range(5):
    last = faults()
print(last - settled)
"""
TENSOR_BYTES, LARGEST_PAGE = 4 * (12 << 20), 2 << 20

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc
def test_a_tensor_made_again_takes_the_memory_of_the_one_before():
    left = page_faults("leave")
    assert left >= 5 * TENSOR_BYTES // LARGEST_PAGE, "else there is nothing to keep"
    assert page_faults("keep") < left / 5


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert freed_memory.keep() is False
