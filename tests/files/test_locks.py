"""Who makes a file or a folder is alone at it: the second one is told at once, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hemf_export.files import artifact_folder, artifacts, locks
from hemf_export.files.locks import InUseError

HOLD = """
import os, sys, time
from pathlib import Path
from hemf_export.files import locks
with locks.owned(Path(sys.argv[1])):
    print("held", flush=True)
    if sys.argv[2:]:
        import multiprocessing
        def live():
            print(os.getpid(), flush=True)  # by now it has let go of what its parent holds
            time.sleep(60)
        multiprocessing.get_context("fork").Process(target=live).start()
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns `path` until it is told to end."""
    line = [sys.executable, "-c", HOLD, str(path), *words]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "held\n"
        yield running
        if running.poll() is None:
            running.communicate("")


@pytest.mark.parametrize("kind", ["file", "folder", "new"])
def test_the_second_one_is_refused_at_once_and_told_who_is_there(tmp_path, kind):
    path = tmp_path / "run"
    if kind == "file":
        path.write_bytes(b"old")
    elif kind == "folder":
        path.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with holder(path) as running:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        for way in (path, tmp_path / "x" / ".." / "run", tmp_path / "link" / "run", Path(os.path.relpath(path))):
            told = rf"run is in use.*process {running.pid}\b"
            with pytest.raises(InUseError, match=told) as raised, locks.owned(way):
                pass
        assert raised.value.exit_code == 1
        with locks.owned(tmp_path / "other"):
            pass
    with locks.owned(path):
        pass
    (tmp_path / "link").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_locked_for_other_caches_too(tmp_path):
    """As in a second container, or by another user."""
    path = tmp_path / "run"
    path.mkdir()
    with holder(path, HEMF_EXPORT_CACHE=str(tmp_path / "elsewhere")):
        with pytest.raises(InUseError), locks.owned_folder(path):
            pass
        assert list(path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "run"
    with locks.owned(tmp_path / "best.onnx"), locks.owned_folder(path), pytest.raises(InUseError):
        in_a_thread(lambda: locks.owned(path))


def test_a_killed_process_leaves_no_lock_even_where_its_children_live_on(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    with holder(path, "with a child") as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        running.send_signal(signal.SIGKILL)
        running.wait()
        try:
            with locks.owned(path):
                pass
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def in_a_thread(make) -> None:
    """Enter a lock in another thread; its error comes back."""
    found: list[BaseException] = []

    def enter() -> None:
        try:
            with make():
                pass
        except BaseException as error:  # noqa: BLE001
            found.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if found:
        raise found[0]


def test_a_thread_may_own_twice_and_another_one_not(tmp_path):
    path = tmp_path / "run"
    with locks.owned(path):
        with locks.owned(path), locks.exclusive(path), artifact_folder.whole(path) as folder:
            (folder / "a").write_text("")
        with pytest.raises(InUseError):
            in_a_thread(lambda: locks.owned(path))
        with locks.owned_folder(path):
            pass
        with pytest.raises(InUseError):
            in_a_thread(lambda: artifact_folder.whole(path, "a", force=True))
    in_a_thread(lambda: locks.owned(path))
    assert not locks._held
    assert not locks._folders


def test_all_or_none(tmp_path):
    with holder(tmp_path / "b"):
        with pytest.raises(InUseError), locks.owned(tmp_path / "a", tmp_path / "b"):
            pass
        in_a_thread(lambda: locks.owned(tmp_path / "a"))


def test_a_function_that_owns_what_it_makes(tmp_path):
    @locks.owning(lambda path, **_: (path,))
    def make(path: Path, *, text: str) -> str:
        artifacts.write_bytes(path, text.encode())
        with pytest.raises(InUseError):
            in_a_thread(lambda: locks.owned(path))
        return text

    assert make(tmp_path / "a", text="new") == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
