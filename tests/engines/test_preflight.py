"""What an engine is checked for before it runs, with plans that only have a header, and machines made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemf_export.cli.flags import in_flags
from hemf_export.engines import preflight
from hemf_export.engines.machine import Machine
from hemf_export.engines.options import BuildOptions
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, MissingCapabilityError

RTX = "1.7.1.116"
T4 = Machine((7, 5), {"tensorrt-rtx": RTX})


def plan(path: Path, tag: bytes = b"vtrt", version: tuple[int, ...] = (1, 7, 1, 116), layout: int = 0) -> Path:
    start = tag + layout.to_bytes(4, "little") + bytes(16) + bytes(version)
    path.write_bytes(start + bytes(range(256)) * 8)
    return path


def engine(folder: Path, *, tag: bytes = b"vtrt", version=(1, 7, 1, 116), **fields: object) -> Path:
    path = plan(folder / "m.fp16.t4.engine", tag, version)
    known = {
        "kind": "engine", "parent": "m.fp16.onnx", "backend": "tensorrt-rtx", "backend_version": RTX, "target": "t4",
        "compute_capability": "sm_75",
    }  # fmt: skip
    artifacts.write_manifest(path, {**known, **fields})
    return path


def outcomes(path: Path, machine: Machine, **options: bool) -> dict[str, str]:
    return {check.what: check.outcome for check in preflight.look(path, machine, **options).checks}


def test_a_whole_engine_on_its_gpu_may_run(tmp_path):
    found = preflight.look(engine(tmp_path), T4)
    assert found.refusal is found.conflict is None
    assert {check.outcome for check in found.checks} == {"fine"}
    assert (found.header.backend, found.header.version) == ("tensorrt-rtx", RTX)


@pytest.mark.parametrize(("tag", "backend"), [(b"ftrt", "tensorrt"), (b"vtrt", "tensorrt-rtx")])
def test_the_header_tells_flavour_and_version(tmp_path, tag, backend):
    header = preflight.read_header(plan(tmp_path / "e", tag, (10, 16, 1, 11)))
    assert (header.backend, header.version) == (backend, "10.16.1.11")


@pytest.mark.parametrize(
    ("stored", "version", "agrees"),
    [
        ((10, 16, 1, 11), "10.16.1.11", True),
        ((10, 16, 1, 11), "10.16.1.12", False),
        ((10, 16, 1, 11), "10.16.2.11", False),
        ((10, 16, 1, 11), "10.16.1", False),
        ((10, 0, 0, 6), "10.0.0b6", True),
        ((11, 4, 0, 44), "11.4.0.300", True),  # 300 doesn't fit: whatever is stored of it
        ((11, 4, 0, 44), "11.3.0.300", False),
    ],
)
def test_only_numbers_that_a_byte_holds_are_compared(tmp_path, stored, version, agrees):
    """The header has a byte for each (trtexec's `printPlanVersion`); builds have been below 256 so far."""
    path = engine(tmp_path, version=stored, backend_version=version)
    found = preflight.look(path, Machine((7, 5), {"tensorrt-rtx": version}))
    assert (found.refusal is None) == agrees
    assert preflight.read_header(path).agrees(version) == agrees
    other = preflight.look(path, Machine((7, 5), {"tensorrt-rtx": "1.2.3.4"})).refusal
    assert other is not None, "another version than the manifest's"


def test_without_a_manifest_the_header_alone_tells_the_version(tmp_path):
    path = plan(tmp_path / "m.engine", version=(1, 7, 1, 44))
    for version, refused in (("1.7.1.300", False), ("1.7.1.44", False), ("1.7.2.44", True)):
        found = preflight.look(path, Machine((7, 5), {"tensorrt-rtx": version}), trust=True)
        assert (found.refusal is not None) == refused


@pytest.mark.parametrize(
    ("compatible", "gpu", "refused"),
    [
        (False, "Tesla T4", False),
        (False, "NVIDIA GeForce RTX 2080 Ti", True),
        (False, None, False),
        (True, "NVIDIA GeForce RTX 2080 Ti", False),
        (None, "NVIDIA GeForce RTX 2080 Ti", False),  # an earlier manifest: they all were
    ],
)
def test_a_plan_for_one_model_runs_on_no_other_of_its_capability(tmp_path, compatible, gpu, refused):
    fields = {} if compatible is None else {"hardware_compatible": compatible}
    path = engine(tmp_path, built_on="Tesla T4", build=BuildOptions().to_dict(), **fields)
    found = preflight.look(path, Machine((7, 5), {"tensorrt-rtx": RTX}, gpu_name=gpu))
    assert (found.refusal is not None) == refused
    if refused:
        assert isinstance(found.conflict, MissingCapabilityError)
        assert "was built for Tesla T4 alone; this GPU is NVIDIA GeForce RTX 2080 Ti" in str(found.conflict)
        assert "--hardware-compatible" in in_flags(str(found.conflict.hint))


def test_a_layout_that_is_not_known_hides_the_version_alone(tmp_path):
    assert preflight.read_header(plan(tmp_path / "e", layout=1)).version is None


@pytest.mark.parametrize("data", [b"", b"vtrt", b"vtrt" + bytes(23), bytes(100), b"\x89PNG" + bytes(96)])
def test_what_is_no_plan_is_refused_before_any_manifest(tmp_path, data):
    path = tmp_path / "m.engine"
    path.write_bytes(data)
    artifacts.write_manifest(path, {"kind": "engine"})
    found = preflight.look(path, T4)
    assert isinstance(found.conflict, BadInputError)
    assert "not a TensorRT plan" in str(found.refusal)


@pytest.mark.parametrize("place", [8, 30, -1])
def test_a_changed_byte_is_refused_by_its_hash(tmp_path, place):
    path = engine(tmp_path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    found = preflight.look(path, T4)
    assert isinstance(found.conflict, BadInputError)
    assert "SHA-256" in str(found.conflict)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_cut_file_is_refused(tmp_path, kept):
    path = engine(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert isinstance(preflight.look(path, T4).conflict, BadInputError)


def test_an_engine_without_a_manifest_runs_only_if_trusted(tmp_path):
    path = plan(tmp_path / "m.engine")
    found = preflight.look(path, T4)
    assert isinstance(found.refusal, BadInputError)
    assert "`trust`" in str(found.refusal)
    trusted = preflight.look(path, T4, trust=True)
    assert trusted.refusal is None
    assert outcomes(path, T4, trust=True)["manifest"] == "not checked"


def test_trust_does_not_take_a_file_that_its_manifest_denies(tmp_path):
    path = engine(tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    assert isinstance(preflight.look(path, T4, trust=True).conflict, BadInputError)


def test_the_manifest_of_another_kind_is_refused(tmp_path):
    assert "of kind 'onnx'" in str(preflight.look(engine(tmp_path, kind="onnx"), T4).conflict)


@pytest.mark.parametrize("fields", [{"backend": "tensorrt"}, {"backend_version": "1.6.0.1"}])
def test_a_manifest_that_speaks_of_another_build_is_refused(tmp_path, fields):
    found = preflight.look(engine(tmp_path, **fields), T4)
    assert isinstance(found.conflict, BadInputError)
    assert "serialized by tensorrt-rtx 1.7.1.116" in str(found.conflict)


def test_another_version_of_tensorrt_is_exit_4_with_the_command_that_rebuilds(tmp_path):
    found = preflight.look(engine(tmp_path), Machine((7, 5), {"tensorrt-rtx": "1.8.0.1"}))
    assert isinstance(found.conflict, MissingCapabilityError)
    assert "hemf-export trt m.fp16.onnx --target t4 --backend tensorrt-rtx" in in_flags(str(found.conflict))
    assert RTX in str(found.conflict)
    assert "1.8.0.1" in str(found.conflict)


def test_another_compute_capability_is_exit_4_with_the_command_for_this_gpu(tmp_path):
    found = preflight.look(engine(tmp_path), Machine((8, 9), {"tensorrt-rtx": RTX}))
    assert isinstance(found.conflict, MissingCapabilityError)
    assert "sm_75" in found.conflict.message
    assert "sm_89" in found.conflict.message
    assert "--target sm_89" in in_flags(str(found.conflict))


def test_a_machine_without_gpu_or_tensorrt_is_no_conflict_but_runs_nothing(tmp_path):
    found = preflight.look(engine(tmp_path), Machine())
    assert found.conflict is None
    assert isinstance(found.refusal, MissingCapabilityError)
    assert [check.outcome for check in found.checks] == ["fine", "fine", "not checked", "not checked"]


@pytest.mark.parametrize(
    ("there", "fine"), [("10.16.1.11", True), ("11.4.0.106", True), ("10.9.0.34", False), ("9.3.0.1", False)]
)
def test_a_version_compatible_plan_runs_in_later_versions(tmp_path, there, fine):
    path = engine(
        tmp_path, tag=b"ftrt", version=(10, 16, 1, 11), backend="tensorrt", backend_version="10.16.1.11",
        version_compatible=True,
    )  # fmt: skip
    found = preflight.look(path, Machine((7, 5), {"tensorrt": there}))
    assert (found.refusal is None) == fine


def test_integrity_is_told_before_what_the_machine_lacks(tmp_path):
    path = engine(tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    assert isinstance(preflight.look(path, Machine()).refusal, BadInputError)


@pytest.mark.parametrize(
    ("driver", "cuda", "outcome"),
    [
        ((12, 8), 12, "fine"),
        ((12, 0), 12, "fine"),
        ((13, 0), 12, "fine"),
        ((11, 8), 12, "refused"),
        ((12, 9), 13, "refused"),
        ((12, 9), None, None),
        (None, 13, None),
    ],
)
def test_the_driver_has_to_serve_the_cuda_that_tensorrt_is_built_for(tmp_path, driver, cuda, outcome):
    majors = {"tensorrt": 14} | ({} if cuda is None else {"tensorrt-rtx": cuda})
    machine = Machine((7, 5), {"tensorrt-rtx": RTX}, driver=driver, cuda=majors)
    path = engine(tmp_path)
    found = preflight.look(path, machine)
    assert outcomes(path, machine).get("driver") == outcome
    assert found.refusal is found.conflict
    assert (found.refusal is None) == (outcome != "refused")
    if found.refusal is not None:
        assert found.refusal.exit_code == 4
        assert f"built for CUDA {cuda}; the NVIDIA driver serves CUDA up to {driver[0]}.{driver[1]}." in str(
            found.refusal
        )
        assert f"Update the driver, or install tensorrt-rtx for CUDA {driver[0]}." in str(found.refusal)


def test_an_old_driver_is_told_before_the_gpu_that_pytorch_does_not_see_with_it(tmp_path):
    machine = Machine(None, {"tensorrt-rtx": RTX}, driver=(11, 4), cuda={"tensorrt-rtx": 12})
    assert "serves CUDA up to 11.4" in str(preflight.look(engine(tmp_path), machine).refusal)
