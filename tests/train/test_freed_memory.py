"""Freed memory is kept: measured by the page faults of a process that makes the same large tensor again and again."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from hemf_export.train import freed_memory

FAULTS = """
import resource, torch
from hemf_export.train import freed_memory
torch.set_num_threads(1)
def faults():
    torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def five_more():
    for _ in range(20):
        settled = faults()
    for _ in range(5):
        last = faults()
    return last - settled
print(five_more())
assert freed_memory.keep()
print(five_more())
"""
TENSOR_BYTES, LARGEST_PAGE = 4 * (12 << 20), 2 << 20

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")


@glibc
def test_a_tensor_made_again_takes_the_memory_of_the_one_before():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    left, kept = (int(number) for number in done.stdout.split())
    assert left >= 5 * TENSOR_BYTES // LARGEST_PAGE, "else there is nothing to keep"
    assert kept < left / 5


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert freed_memory.keep() is False
