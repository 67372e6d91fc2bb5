"""tritonclient, or a skip with the reason; and a real Triton server for those tests that need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hemf_export.triton.triton_server import TritonServer, installation
from tests.hostile.conftest import contents, one_message

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'tritonclient[grpc,http]'")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server on loopback with an empty repository; tests write models into it and have it load them."""
    found = installation()
    if isinstance(found, str):
        pytest.skip(found)
    folder = tmp_path_factory.mktemp("triton")
    (folder / "models").mkdir()
    with TritonServer(found, folder) as running:
        yield running


@pytest.fixture
def images(tmp_path: Path, pictures: Path) -> list[Path]:
    """Twelve pictures."""
    return sorted((pictures / "test").rglob("*.png"))


@pytest.fixture
def refused(run_cli, tmp_path: Path) -> Callable[..., str]:
    """Run a command and see that it fails with one message and changes nothing; the message."""

    def call(*arguments: object, code: int) -> str:
        before = contents(tmp_path)
        found, out, err = run_cli(*arguments)
        message = one_message(err)
        assert (found, out) == (code, ""), message
        assert contents(tmp_path) == before
        return message

    return call
