"""A small model with its reports, and bundles of it, made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.bundles import making
from hemf_export.files import artifacts
from hemf_export.verification import run, verification
from hemf_export.verification.bounds import Bounds
from tests.conftest import once
from tests.hemf_export.triton.models import means, plan
from tests.hostile.conftest import contents, one_message

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'tritonclient[grpc,http]'")


@dataclass(frozen=True)
class Proven:
    """Model files with the reports of their verification and benchmark, in one folder."""

    folder: Path
    onnx: Path
    half: Path
    verify: Path
    bench: Path


@pytest.fixture(scope="session")
def proven(made, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    def within(place: Path) -> Proven:
        return Proven(
            place, place / made.onnx.name, place / made.half.name, place / "verify.json", place / "bench.json"
        )

    def make(place: Path) -> None:
        for path in made.folder.iterdir():
            shutil.copy(path, place)
        files = within(place)
        request = verification.Request(
            candidates=(files.onnx, files.half), data=folder, bounds=Bounds(100, 0, 100), reference=place / "model.pt"
        )
        values = run.plan_scrutiny(request.candidates, None, nodes=False).add_to(verification.verify(request)).to_dict()
        artifacts.write_json(files.verify, values)
        line = ["bench", files.onnx, files.half, "--seconds", "0.2", "--batch", "1,2", "--no-memory", "-o", files.bench]
        assert cli.run([str(word) for word in line]) == 0

    return within(once(tmp_path_factory, "proven", make))


@pytest.fixture(scope="session")
def bundle(proven: Proven, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything that a bundle can have, of two ONNX files."""

    def make(place: Path) -> None:
        request = making.Request((proven.onnx, proven.half), place / "scans.tar.zst", proven.verify, proven.bench)
        making.make(request)

    return once(tmp_path_factory, "bundle", make) / "scans.tar.zst"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few kilobytes: an ONNX file whose logits are means, and an engine that no machine here runs."""
    place = tmp_path_factory.mktemp("small")
    files = (means(place / "means.onnx"), plan(place / "means.t4.engine", flavour="tensorrt-rtx"))
    return making.make(making.Request(files, place / "small.tar.zst", cpp=False)).path


@pytest.fixture
def refused(run_cli, tmp_path: Path) -> Callable[..., str]:
    """Run a command twice, with --json as well, and see that it fails with one message and changes nothing; it."""

    def call(*arguments: object, code: int = 1) -> str:
        before = contents(tmp_path)
        found, _, err = run_cli(*arguments)
        message = one_message(err)
        assert found == code, message
        found, out, _ = run_cli(*arguments, "--json")
        assert found == json.loads(out)["exit_code"] == code
        assert contents(tmp_path) == before
        return message

    return call
