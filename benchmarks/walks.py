"""Trace three commands through the code: a checkpoint to its bundle, an image to its class, images to an INT8 file.

    python -m benchmarks.walks [REPOSITORY]

Runs the commands of REPOSITORY (this one by default) in-process on a small network, and records every call between its
modules. Counted for each: the modules and packages entered, the calls between packages, and the pairs of packages that
call each other. Child processes and threads aren't followed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SAMPLES = Path(__file__).resolve().parent.parent / "examples" / "blood_cells"
ROOMS = ("hemf_export", "hemf", "train", "calibration", "engines")
SMALL = ("--image-size", "32", "--epochs", "1", "--batch-size", "16")


class Recorder:
    """Recorder of the calls between modules of a repository.

    Args:
        repository: root of the sources.
    """

    def __init__(self, repository: Path) -> None:
        self._root = str(repository.resolve()) + os.sep
        self._modules: dict[str, str | None] = {}
        self.calls: set[tuple[str, str]] = set()

    def module(self, file: str) -> str | None:
        """Return the path of a source file within the repository; None for other files."""
        if file not in self._modules:
            real = os.path.realpath(file)
            inside = real.removeprefix(self._root)
            is_ours = real != inside and Path(inside).parts[0] in ROOMS
            self._modules[file] = inside if is_ours else None
        return self._modules[file]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record within the block."""
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        # A module's top level runs on import: not a call.
        if event != "call" or frame.f_code.co_name == "<module>":
            return
        callee = self.module(frame.f_code.co_filename)
        if callee is None:
            return
        above = frame.f_back
        while above is not None and (caller := self.module(above.f_code.co_filename)) is None:
            above = above.f_back  # through a library, such as click or torch
        if above is not None and caller != callee and above.f_code.co_name != "<module>":
            self.calls.add((str(caller), callee))

    def summary(self) -> dict[str, int]:
        """Return counts of what was recorded."""
        modules = {name for call in self.calls for name in call}
        ways = {(_room(a), _room(b)) for a, b in self.calls if _room(a) != _room(b)}
        return {
            "modules": len(modules),
            "rooms": len({_room(name) for name in modules}),
            "ways between rooms": len(ways),
            "pairs of rooms both ways": sum(way[::-1] in ways for way in ways) // 2,
            "pairs of modules both ways": sum(call[::-1] in self.calls for call in self.calls) // 2,
        }


def _room(module: str) -> str:
    return str(Path(module).parent)


def main(repository: Path) -> None:
    """Train a small network, take the three walks, and print a table."""
    sys.path.insert(0, str(repository))
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    from hemf_export import cli

    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        subprocess.run(
            [sys.executable, "-m", "hemf_export.cli" if not (repository / "hemf_export/__main__.py").exists() else
             "hemf_export", "train", str(SAMPLES), "-o", "run", "--model", "hemf-tiny", *SMALL],
            env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        data, image = ("--data", str(SAMPLES)), next((SAMPLES / "test").rglob("*.*"))
        walks = {
            "checkpoint → bundle": ("ship", "run/best.pt", *data, "-o", "shipped", "--bench-seconds", "0.5"),
            "image → class": ("predict", "run/best.pt", str(image)),
            "images → INT8": (
                "calibrate", "shipped/best.onnx", "--precision", "int8", "--images", str(SAMPLES), "--count", "32",
                "--judges", "16", "-o", "int8.onnx",  # --held-out-count, by the name that earlier revisions have too
            ),
        }  # fmt: skip
        for title, arguments in walks.items():
            recorder = Recorder(repository)
            with recorder.recording():
                code = cli.run(list(arguments))
            counts = ", ".join(f"{number} {name}" for name, number in recorder.summary().items())
            print(f"{title}: {counts}" + (f" (exit code {code})" if code else ""), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve())
