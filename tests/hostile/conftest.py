"""What the hostile tests share: a refusal is one message that names the file, and changes nothing on the disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint_files import content_digest
from hemf_export.train.run import Run
from tests.conftest import TINY, tiny_checkpoint

SMALL = dataclasses.replace(TINY, name="small", width=16, heads=2)  # a quarter of the bytes
Refused = Callable[..., str]


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash; folders, links and special files by what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else "no file"
    return found


def one_message(stderr: str) -> str:
    """The one error on stderr, which must not be a traceback; talk may stand before it."""
    assert "Traceback" not in stderr
    assert stderr.count("error: ") == 1
    return stderr[stderr.index("error: ") + len("error: ") :]


@pytest.fixture
def refused(run_cli, tmp_path: Path) -> Refused:
    """Run a command twice, plainly and with --json, and see that it fails by the contract; its message."""

    def call(*arguments: object, names: object, code: int = 1, folder: Path = tmp_path) -> str:
        before = contents(folder)
        found, stdout, stderr = run_cli(*arguments)
        message = one_message(stderr)
        assert (found, stdout) == (code, "")
        assert str(names) in message
        found, stdout, stderr = run_cli(*arguments, "--json")
        value = json.loads(stdout)
        assert found == value["exit_code"] == code
        assert one_message(stderr).startswith(value["error"])
        assert str(names) in value["error"]
        assert contents(folder) == before
        return message

    return call


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a small checkpoint, by suffix."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for suffix in (".pt", ".safetensors"):
        checkpoint.save(tiny_checkpoint(config=SMALL), folder / f"m{suffix}")
        found[suffix] = (folder / f"m{suffix}").read_bytes()
    return found


@pytest.fixture
def altered(tmp_path: Path, whole: dict[str, bytes]) -> Callable[..., Path]:
    """A checkpoint of ours whose content was changed by someone who knows the format: its digest is right."""

    def write(change: Callable[[dict], object]) -> Path:
        path = tmp_path / "altered.pt"
        path.write_bytes(whole[".pt"])
        content = torch.load(path, weights_only=True)
        del content["sha256"]
        change(content)
        torch.save({**content, "sha256": content_digest(content)}, path)
        return path

    return write


def train(data: Path, output: Path, *options: str) -> list[object]:
    fast = ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    return ["train", data, "-o", output, *fast, *options]


@pytest.fixture
def trained_on(monkeypatch) -> list[Run]:
    """The runs that got as far as the first epoch; they are not trained."""
    runs: list[Run] = []

    def fit(run: Run) -> dict:
        runs.append(run)
        return {"splits": {}}

    monkeypatch.setattr(Run, "fit", fit)
    return runs


def cut(path: Path, share: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path
