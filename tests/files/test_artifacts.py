"""Atomic writes: a file is whole or it is the old one, and nothing else is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with artifacts.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails_at", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch, fails_at):
    path = tmp_path / "best.pt"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails_at, full)
    with pytest.raises(BadInputError, match="No space left on device"):
        artifacts.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "best.pt"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys; from pathlib import Path; from hemf_export.files import artifacts\n"
        "with artifacts.atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert all(other.name.startswith(".") for other in tmp_path.iterdir() if other != path)


def test_files_are_readable_by_others_as_the_umask_says(tmp_path: Path):
    artifacts.write_bytes(tmp_path / "a", b"x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_manifest_tells_a_changed_file(tmp_path: Path):
    path = tmp_path / "a.engine"
    path.write_bytes(b"plan")
    written = artifacts.write_manifest(path, {"kind": "engine"})
    assert artifacts.read_manifest(path) == written == json.loads((tmp_path / "a.engine.json").read_text())
    path.write_bytes(b"plaN")
    with pytest.raises(BadInputError, match="is not the file that"):
        artifacts.read_manifest(path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="Can't write into"):
        artifacts.check_writable(tmp_path / "file" / "out.onnx")
