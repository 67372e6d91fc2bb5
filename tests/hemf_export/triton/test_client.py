"""`triton-client` where no Triton server is: every failure is one message and the right exit code."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hemf_export.files.errors import UsageError
from hemf_export.triton.client import Server
from tests.hemf_export.triton.triton_server import _free_ports


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_listens(images, run_cli, protocol):
    (port,) = _free_ports(1)
    code, out, err = run_cli("triton-client", f"{protocol}://127.0.0.1:{port}", images[0], "--timeout", "3", "--json")
    assert code == 4
    assert f"No Triton server answers at {protocol}://127.0.0.1:{port}" in json.loads(out)["error"]
    assert "Is it running" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_somebody_listens_and_says_nothing(images, run_cli, protocol):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        code, _, err = run_cli("triton-client", f"{protocol}://127.0.0.1:{port}", images[0], "--timeout", "0.5")
    assert code == 4
    assert "No Triton server answers at" in err


class _Web(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b"<html>nothing here</html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    """Port of a web server that is no Triton."""
    server = HTTPServer(("127.0.0.1", 0), _Web)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_web_server_is_told_from_triton(images, run_cli, web):
    code, _, err = run_cli("triton-client", f"127.0.0.1:{web}", images[0], "--timeout", "5")
    assert code in (1, 4)
    assert f"http://127.0.0.1:{web}" in err
    assert "Internal error" not in err


def test_a_host_that_is_none(images, run_cli):
    for url in ("http://no-such-host.invalid:8000", "grpc://no-such-host.invalid:8001"):
        code, _, err = run_cli("triton-client", url, images[0], "--timeout", "5")
        assert code == 4
        assert "No Triton server answers" in err


@pytest.mark.parametrize(
    "url", ["ftp://localhost", "http://", "localhost:x", "http://localhost:99999", "http://a/b", "grpc://a?x", ""]
)
def test_urls_that_are_none(images, run_cli, url):
    code, _, err = run_cli("triton-client", url, images[0])
    assert code == 2
    assert "Like http://localhost:8000" in err


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("localhost", "http://localhost:8000"),
        ("localhost:9000", "http://localhost:9000"),
        ("http://localhost/", "http://localhost:8000"),
        ("grpc://triton", "grpc://triton:8001"),
        ("grpc://[::1]:9001", "grpc://[::1]:9001"),
    ],
)
def test_urls_in_short(given, shown):
    assert Server(given).url == shown


def test_images_are_looked_for_before_the_server(tmp_path, run_cli):
    code, _, err = run_cli("triton-client", "localhost:1", tmp_path / "none.png")
    assert code == 1
    assert "No image or folder" in err


def test_without_tritonclient(images, run_cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    for name in [name for name in sys.modules if name.startswith("tritonclient.")]:
        monkeypatch.delitem(sys.modules, name)
    for protocol in ("http", "grpc"):
        code, _, err = run_cli("triton-client", f"{protocol}://localhost", images[0])
        assert code == 4
        assert "pip install 'tritonclient[grpc,http]'" in err


def test_a_url_is_checked_without_tritonclient(monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(UsageError):
        Server("ftp://x")
