"""What the C++ library makes of files, seen from Python."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from hemf_export.images.images import Preprocess

TIMEOUT_S = 120


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Args:
        code: its exit code.
        out: what it printed.
        err: what it said.
    """

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Refused:
    """An image that wasn't taken."""

    code: int
    message: str


@dataclass(frozen=True)
class Probe:
    """The programs that were built below `root`."""

    root: Path

    def run(
        self,
        program: str,
        *words: object,
        listed: Sequence[object] = (),
        given: bytes = b"",
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Ended:
        """A program with words, and paths or bytes on its standard input. A sanitizer's finding fails the test."""
        done = self._run(program, words, listed, cwd, given, variables or {})
        return Ended(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))

    def probe(self, *words: object, listed: Sequence[object] = ()) -> Ended:
        """The program that shows things."""
        return self.run("probe", *words, listed=listed)

    def floats(self, *words: object) -> NDArray[np.float32]:
        """Numbers that the program that shows things writes as they are."""
        return np.frombuffer(self._run("probe", words).stdout, np.float32)

    def fed(self, engine: Path, paths: Sequence[Path]) -> bytes:
        """What an engine is fed of images, by its manifest; nothing where they are refused."""
        return self._run("probe", ("fed", engine), paths).stdout

    def decode(self, paths: Sequence[Path]) -> list[NDArray[np.uint8] | Refused]:
        """RGB pixels (height, width, 3) of each image."""
        return list(self._images(self._run("probe", ("decode",), paths).stdout))

    def pixels(self, paths: Sequence[Path], preprocess: Preprocess) -> list[NDArray[np.uint8] | Refused]:
        """Preprocessed pixels of each image."""
        words = ("pixels", preprocess.mode, preprocess.size, preprocess.resize)
        return list(self._images(self._run("probe", words, paths).stdout))

    def _run(
        self,
        program: str,
        words: Sequence[object],
        listed: Sequence[object] = (),
        cwd: Path | None = None,
        given: bytes = b"",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[bytes]:
        place = self.root / "tests" / ("predict" if program == "hemf-predict" else "") / program
        given = given or b"".join(os.fsencode(str(path)) + b"\0" for path in listed)
        done = subprocess.run(
            [os.fsencode(str(word)) for word in (place, *words)],
            input=given, capture_output=True, check=False, timeout=TIMEOUT_S, cwd=cwd,
            env={**os.environ, **variables},
        )  # fmt: skip
        said = os.fsdecode(done.stderr)
        assert "Sanitizer" not in said, said
        assert "runtime error" not in said, said
        assert done.returncode >= 0, f"signal {-done.returncode}: {said}"
        return done

    @staticmethod
    def _images(answer: bytes) -> Iterator[NDArray[np.uint8] | Refused]:
        at = 0
        while at < len(answer):
            code, first = struct.unpack_from("=ii", answer, at)
            at += 8
            if code:
                yield Refused(code, os.fsdecode(answer[at : at + first]))
                at += first
                continue
            (height,) = struct.unpack_from("=i", answer, at)
            at += 4
            yield np.frombuffer(answer, np.uint8, first * height * 3, at).reshape(height, first, 3)
            at += first * height * 3
