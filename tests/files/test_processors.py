"""Threads go by what a container may use: quotas of both versions of control groups, in trees as Linux shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hemf_export.images.folders
from hemf_export.calibration.session import Session
from hemf_export.files import processors
from hemf_export.train import run
from tests.conftest import Made

V2 = "30 23 0:26 {top} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate"
V1 = "31 23 0:27 {top} /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:9 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "32 23 0:28 / /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory"


def tree(root: Path, groups: str, mounts: list[str], **files: str) -> Path:
    """A file system's root: /proc/self as given, and files below /sys/fs/cgroup, whose names have _ for /."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("".join(f"{mount}\n" for mount in mounts))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("text", "cores"), [
    ("200000 100000\n", 2.0), ("150000 100000\n", 1.5), ("25000 50000\n", 0.5), ("max 100000\n", None),
    ("", None), ("200000\n", None), ("none of both\n", None), ("0 100000\n", None), ("1 0\n", None),
])  # fmt: skip
def test_the_limit_of_a_container_with_cgroup_v2(tmp_path, text, cores):
    assert processors.quota(tree(tmp_path, "0::/\n", [V2.format(top="/")], **{"cpu.max": text})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000\n", 3.0), ("-1\n", None), ("50000\n", 0.5), ("x\n", None)])
@pytest.mark.parametrize("path", ["/", "/docker/0a1b", "/../elsewhere"])
def test_the_limit_of_a_container_with_cgroup_v1(tmp_path, quota, cores, path):
    """Its path may be that of the host, of which nothing is to be seen here."""
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    mounts = [V1_MEMORY, V1.format(top="/docker/0a1b")]
    root = tree(tmp_path, f"12:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n", mounts, **files)
    assert processors.quota(root) == cores


def test_the_least_of_a_group_and_of_those_above_it_counts(tmp_path):
    files = {
        "user.slice/cpu.max": "max 100000", "user.slice/job/cpu.max": "150000 100000", "other/cpu.max": "1 100000",
        "user.slice/job/step/cpu.max": "400000 100000",
    }  # fmt: skip
    mounts = [V2.format(top="/"), "damaged", "30 23 0:26 / /x - cgroup2"]
    assert processors.quota(tree(tmp_path, "0::/user.slice/job/step\n", mounts, **files)) == 1.5


def test_both_versions_at_once(tmp_path):
    """systemd's hybrid: cgroup v2 is there without the controller."""
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": "600000", "cpu,cpuacct/a/cpu.cfs_period_us": "200000"}
    mounts = [V2.format(top="/"), V1.format(top="/")]
    assert processors.quota(tree(tmp_path, "4:cpuacct,cpu:/a\n0::/a\n", mounts, **files)) == 3.0


def test_a_mount_point_with_a_blank(tmp_path):
    mount = V2.format(top="/").replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040groups")
    root = tree(tmp_path, "0::/\n", [mount], **{"my groups/cpu.max": "700000 100000"})
    assert processors.quota(root) == 7.0


def test_another_system_has_no_limit(tmp_path):
    assert processors.quota(tmp_path) is None


@pytest.mark.parametrize(
    ("limit", "cores", "usable"),
    [(None, 8, 8), (2.5, 8, 2), (0.5, 8, 1), (64.0, 8, 8), (8.0, 8, 8), (2.0, 1, 1)],
)
def test_cores_are_those_of_the_affinity_and_of_the_quota(monkeypatch, limit, cores, usable):
    monkeypatch.setattr(processors, "quota", lambda: limit)
    monkeypatch.setattr(processors, "cores_by_affinity", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert processors.usable_cores() == processors.threads() == usable


@pytest.mark.parametrize(("asked", "threads"), [("5", 5), ("3,2", 3), ("", 2), ("0", 2), ("many", 2), ("-1", 2)])
def test_what_the_user_asks_for_goes_before_the_quota(monkeypatch, asked, threads):
    monkeypatch.setattr(processors, "quota", lambda: 2.0)
    monkeypatch.setattr(processors, "cores_by_affinity", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert processors.threads() == threads
    assert processors.usable_cores() == 2


def started(limit: float | None, asked: str | None, after: str) -> str:
    """What a process of its own prints, in which a container of eight cores has a quota."""
    code = (
        "import os, hemf_export.files.processors as processors\n"
        f"processors.quota = lambda: {limit}; processors.cores_by_affinity = lambda: 8\n{after}"
    )
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), **({"OMP_NUM_THREADS": asked} if asked else {})}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.extended
@pytest.mark.parametrize(
    "order", ["processors.respect_quota(); import torch", "import torch; processors.respect_quota()"]
)
def test_pytorch_keeps_to_it(order):
    assert started(1.0, None, f"{order}; print(torch.get_num_threads())") == "1"


def test_what_the_user_has_set_stays():
    assert started(1.0, "6", "processors.respect_quota(); print(os.environ['OMP_NUM_THREADS'])") == "6"


@pytest.mark.parametrize("limit", [None, 8.0, 9.5])
def test_without_a_quota_nothing_is_set(limit):
    assert started(limit, None, "processors.respect_quota(); print(os.environ.get('OMP_NUM_THREADS'))") == "None"


def test_onnx_runtime_loaders_and_pools_keep_to_it(made: Made, monkeypatch):
    import onnxruntime

    asked: list[int] = []
    real = onnxruntime.InferenceSession

    def session(source, options, providers):
        asked.append(options.intra_op_num_threads)
        return real(source, options, providers=providers)

    class Pool:
        def __init__(self, workers: int) -> None:
            asked.append(workers)
            raise InterruptedError

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processors, "cores_by_affinity", lambda: 64)
    monkeypatch.setattr(processors, "quota", lambda: 3.5)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(hemf_export.images.folders, "ThreadPoolExecutor", Pool)
    Session(made.onnx)
    images = hemf_export.images.folders.LabelledImages(Path(), (), (), None)
    with pytest.raises(InterruptedError):
        hemf_export.images.folders.unreadable(images)
    assert asked == [3, 3]
    assert [run._default_workers("cuda", processes) for processes in (1, 2, 8)] == [3, 1, 1]
    assert run._default_workers("cpu", 1) == 0
