"""A real Triton server without a GPU: the one in the wheel nvidia-pytriton, which `make .venv-triton/installed` puts
where these tests look for it. It has the Python backend alone."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.conftest import PROJECT

_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 30


def installation() -> Path | str:
    """Where the wheel is installed, or why there is no server here."""
    folder = Path(os.environ.get("HEMF_EXPORT_TRITON") or PROJECT / ".venv-triton")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "there is a Triton server for Linux on x86-64 alone"
    if not (folder / "pytriton" / "tritonserver" / "bin" / "tritonserver").is_file():
        return f"no Triton server in {folder}: make .venv-triton/installed"
    if not _stub(folder).is_file():
        return f"its Python backend has no stub for Python {sys.version_info[0]}.{sys.version_info[1]}"
    return folder


def _stub(folder: Path) -> Path:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return folder / "pytriton/tritonserver/python_backend_stubs" / version / "triton_python_backend_stub"


class TritonServer:
    """A server while the block lasts.

    Args:
        wheel: where it is installed.
        folder: has `models`, the repository; its log and backends are put here.
        control: how it learns of models: by default, when it is told to load one.

    Attributes:
        http, grpc: its URLs.
        repository: the folder of its models, which it loads when it is told to.
    """

    def __init__(self, wheel: Path, folder: Path, control: Sequence[str] = ("--model-control-mode=explicit",)) -> None:
        self.wheel, self._folder, self._control = wheel, folder, control
        self.repository = folder / "models"
        self._log = folder / "log"
        ports = _free_ports(2)
        self.http, self.grpc = f"http://127.0.0.1:{ports[0]}", f"grpc://127.0.0.1:{ports[1]}"
        self._ports = ports

    def __enter__(self) -> TritonServer:
        home = self.wheel / "pytriton" / "tritonserver"
        backends = self._folder / "backends"
        shutil.copytree(home / "backends", backends)
        shutil.copy(_stub(self.wheel), backends / "python")
        libraries = [self.wheel / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            # Its Python backend ignores PYTHONPATH, and takes the packages of the first python3 of the path.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        command = [
            home / "bin" / "tritonserver", f"--model-repository={self.repository}", f"--backend-directory={backends}",
            *self._control, "--exit-on-error=false", "--disable-auto-complete-config",
            "--allow-metrics=false", "--exit-timeout-secs=5",
            "--http-address=127.0.0.1", f"--http-port={self._ports[0]}",
            "--grpc-address=127.0.0.1", f"--grpc-port={self._ports[1]}",
        ]  # fmt: skip
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.pid = self._process.pid
        try:
            self._await_start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text(errors="replace")

    def load(self, name: str) -> None:
        """Have it load a model, or load it again; raises what tritonclient does where that fails."""
        from tritonclient.http import InferenceServerClient

        with InferenceServerClient(self.http.removeprefix("http://"), network_timeout=60) as client:
            client.load_model(name)

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"tritonserver ended with {self._process.returncode}:\n{self.log[-4000:]}")
            try:
                with urllib.request.urlopen(f"{self.http}/v2/health/live", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.1)
        raise RuntimeError(f"tritonserver didn't start within {_START_TIMEOUT_S} s:\n{self.log[-4000:]}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at, held together so that no two are the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
