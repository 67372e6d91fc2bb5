"""What fails around us is told as that, with an exit code of the user's; a defect of ours stays one."""

from __future__ import annotations

import errno
import json
import os

import pytest

from hemf_export.cli import home

FAILURES = {
    "disk full, named": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.onnx"), 1, "/data/x.onnx: No space"),
    "disk full": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "No space left"),
    "quota": (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), 1, "quota"),
    "broken disk": (OSError(errno.EIO, os.strerror(errno.EIO), "/data/x.png"), 1, "/data/x.png: Input/output error"),
    "read-only": (OSError(errno.EROFS, os.strerror(errno.EROFS), "out"), 1, "out: Read-only file system"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "/srv/x"), 1, "/srv/x: Permission denied"),
    "name too long": (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 1, "File name too long"),
    "gone": (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), 1, "a.png: No such file"),
    "too many files": (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files"),
    "no temporary folder": (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), 1, "TMPDIR"),
    "two names": (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), 1, "a → b"),
    "no process": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 4, "start another process"),
    "no thread": (RuntimeError("can't start new thread"), 4, "start another thread"),
    "memory": (MemoryError(), 4, "too little memory"),
    "memory of numpy": (MemoryError("Unable to allocate 7 GiB for an array"), 4, "7 GiB"),
    "memory of torch": (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), 4, "memory"),
    "memory of a GPU": (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), 1, "The GPU's memory is full"),
    "package": (ModuleNotFoundError("No module named 'scipy'", name="scipy"), 4, "scipy can't be imported"),
    "native library": (ImportError("libcudart.so.12: cannot open it", name="onnxruntime"), 4, "libcudart"),
    "a library by ctypes": (OSError("libnvinfer.so.10: cannot open shared object file: No such file"), 4, "libnvinfer"),
    "raised from it": (None, 1, "No space left"),
    "own module": (ModuleNotFoundError("No module named 'hemf_export.x'", name="hemf_export.x"), 70, "defect"),
    "defect": (RuntimeError("index 3 is out of range"), 70, "defect"),
    "defect of a call": (OSError(errno.EINVAL, "Invalid argument"), 70, "defect"),
    "wrong key": (KeyError("logits"), 70, "defect"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAILURES)
def test_failures_around_us(run_cli, monkeypatch, tmp_path, what):
    from hemf_export.checkpoints import checkpoint

    raised, code, told = FAILURES[what]
    if raised is None:
        raised = RuntimeError("writing failed")
        raised.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(checkpoint, "load", fail)
    (tmp_path / "a.pt").touch()
    found, out, err = run_cli("info", tmp_path / "a.pt", "--json")
    assert (found, json.loads(out)["exit_code"]) == (code, code), err
    assert told in err
    assert "Traceback" not in err
    assert ("defect of hemf-export" in err) == (code == 70)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    from hemf_export.files import artifacts
    from hemf_export.files.errors import BadInputError

    for name in ("HEMF_EXPORT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(BadInputError) as raised:
        artifacts.cache_folder()
    assert "HEMF_EXPORT_CACHE" in str(raised.value.hint)


def test_where_our_cache_cannot_be_written_packages_get_a_folder_that_goes(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        monkeypatch.delenv(name, raising=False)
    with home.kept_clean():
        assert os.environ["MPLCONFIGDIR"].startswith(str(tmp_path / "hemf-export-"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_who_says_where_packages_write_is_obeyed(monkeypatch, tmp_path):
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        monkeypatch.delenv(name, raising=False)
    with home.kept_clean():
        assert os.environ["MPLCONFIGDIR"] == str(tmp_path)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(os.environ["HEMF_EXPORT_CACHE"])
