"""A real engine of TensorRT-RTX on machines that it isn't for, and what is left of it once it was damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hemf_export.cli.flags import in_flags
from hemf_export.engines import preflight
from hemf_export.engines.machine import Machine
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, MissingCapabilityError


@pytest.fixture
def built(real_engine: Path) -> tuple[Path, str]:
    """The engine, and the version that built it."""
    return real_engine, artifacts.read_manifest(real_engine)["backend_version"]


@pytest.fixture
def engine(built: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    for path in (built[0], artifacts.manifest_path(built[0])):
        shutil.copy(path, tmp_path)
    return tmp_path / built[0].name


def test_its_header_says_what_built_it(built):
    header = preflight.read_header(built[0])
    assert (header.backend, header.version) == ("tensorrt-rtx", built[1])


def test_it_may_run_on_the_gpu_that_it_is_for(built):
    assert preflight.look(built[0], Machine((7, 5), {"tensorrt-rtx": built[1]})).refusal is None


@pytest.mark.parametrize(
    ("gpu", "version", "found"),
    [
        ((8, 9), None, "built for sm_75; this GPU is sm_89"),
        ((12, 0), None, "built for sm_75; this GPU is sm_120"),
        ((7, 5), "1.6.0.1", "plans don't cross versions"),
        ((7, 5), "2.0.0.1", "plans don't cross versions"),
    ],
)
def test_another_gpu_or_version_is_exit_4_with_the_command_that_rebuilds(built, gpu, version, found):
    refusal = preflight.look(built[0], Machine(gpu, {"tensorrt-rtx": version or built[1]})).refusal
    assert isinstance(refusal, MissingCapabilityError)
    assert found in refusal.message
    target = "t4" if gpu == (7, 5) else f"sm_{gpu[0]}{gpu[1]}"
    assert f"hemf-export trt m.onnx --target {target} --backend tensorrt-rtx --batch 1:2:4" in in_flags(
        str(refusal.hint)
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_changed_byte_anywhere_is_refused(engine, built, share):
    data = bytearray(engine.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x10
    engine.write_bytes(data)
    assert isinstance(preflight.look(engine, Machine((7, 5), {"tensorrt-rtx": built[1]})).refusal, BadInputError)


@pytest.mark.parametrize("kept", [0, 40, 1000, -1])
def test_a_cut_file_is_refused_and_inspect_ends_with_1(engine, built, run_cli, kept):
    engine.write_bytes(engine.read_bytes()[:kept])
    assert isinstance(preflight.look(engine, Machine((7, 5), {"tensorrt-rtx": built[1]})).refusal, BadInputError)
    code, _, err = run_cli("inspect", engine)
    assert code == 1
    assert "Traceback" not in err
