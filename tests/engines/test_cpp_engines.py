"""The C++ engine part on a TensorRT and a CUDA that are made up: batches, profiles, streams, graphs, threads, failures.

A made-up plan says its classes, size, types and profiles; logit c of an image is (c + 1) times the mean of its input.
Buffers are the host's, so that the address sanitizer sees each of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.engines import caches
from hemf_export.engines.golden import Golden
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.files import artifacts
from hemf_export.images.images import Preprocess
from tests.engines.cpp_probe import Ended, Probe
from tests.engines.test_cpp_manifest import MODEL

SIZE, CLASSES = 8, 3
PIXELS = np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
PREPROCESS = Preprocess.for_size(SIZE)


def fake_engine(
    folder: Path,
    profiles: str = "1:4:16",
    *,
    raw: bool = False,
    half: bool = False,
    logits: int = CLASSES,
    sides: tuple[int, int] = (SIZE, SIZE),
    other_layout: str | None = None,
    version: tuple[int, ...] = (10, 16, 1, 11),
    backend: str = "tensorrt",
    **fields: Any,
) -> Path:
    path = folder / "m.engine"
    taken = int(raw) + (2 if other_layout else 0)  # 2: floats with the channels last; 3: bytes with the channels first
    text = f"{logits} {sides[0]} {sides[1]} {taken} {int(half)} {profiles}"
    path.write_bytes((b"ftrt" if backend == "tensorrt" else b"vtrt") + bytes(20) + bytes(version) + text.encode())
    build = BuildOptions(tuple(BatchProfile.parse(one) for one in profiles.split()))
    known = {
        **MODEL,
        "kind": "engine",
        "parent": "m.onnx",
        "backend": backend,
        "backend_version": ".".join(map(str, version)),
        "target": "t4",
        "compute_capability": "sm_75",
        "platform": "linux-x86_64",
        "input_type": "uint8" if raw else "float32",
        "build": build.to_dict(),
        **({"layout": other_layout} if other_layout else {}),
    }
    artifacts.write_manifest(path, {**known, **fields})
    return path


def expected(count: int, *, raw: bool = False) -> np.ndarray:
    inputs = PIXELS[:count].astype(float) if raw else PREPROCESS.normalize(PIXELS[:count]).astype(float)
    return inputs.reshape(count, -1).mean(1)[:, None] * np.arange(1, CLASSES + 1)


def given(count: int, *, raw: bool) -> bytes:
    return PIXELS[:count].tobytes() if raw else PREPROCESS.normalize(PIXELS[:count]).tobytes()


def rows(text: str) -> np.ndarray:
    return np.array([[float(word) for word in line.split()] for line in text.splitlines()])


def infer(
    cpp: Probe, path: Path, *batches: int, threads: int = 1, raw: bool = False, program: str = "engines",
    **variables: str,
) -> Ended:  # fmt: skip
    data = given(max(batches), raw=raw)
    return cpp.run(program, path, threads, *batches, given=data, variables=variables)


def counts(found: Ended, line: int = -1) -> dict[str, int]:
    """Parse the counts that the program printed."""
    words = found.out.splitlines()[line].removeprefix("warm: ").split(", ")
    return {name: int(number) for name, number in (word.split() for word in words)}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("graphs", [{}, {"NO_GRAPHS": "1"}], ids=["graphs", "no graphs"])
def test_batches_of_any_size_give_the_logits_of_each_image(
    cpp: Probe, tmp_path: Path, raw: bool, graphs: dict[str, str]
):
    batches = (1, 4, 16, 3, 40, 4)
    found = infer(cpp, fake_engine(tmp_path, raw=raw), *batches, raw=raw, **graphs)
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if not line.startswith("stream")]
    np.testing.assert_allclose(
        rows("\n".join(lines)), np.concatenate([expected(count, raw=raw) for count in batches]), rtol=1e-5, atol=1e-6
    )
    streams = [line.split()[1:] for line in found.out.splitlines() if line.startswith("stream ")]
    for count, (own, *values) in zip((1, 4, 16, 3, 4), streams, strict=True):
        assert own == "1", "the caller's stream is used"
        np.testing.assert_allclose(
            np.array(values, float).reshape(count, CLASSES), expected(count, raw=raw), rtol=1e-5, atol=1e-6
        )
    last = found.out.splitlines()[-1]
    assert ("launched 1" in last) == (not graphs)
    assert ("captures 0" in last) == bool(graphs)


def test_a_size_is_captured_once_a_stream_and_threads_share_streams(cpp: Probe, tmp_path: Path):
    found = infer(cpp, fake_engine(tmp_path), 5, 9, threads=6)
    assert found.code == 0, found.err
    words = dict(part.split() for part in found.out.splitlines()[-1].split(", "))
    assert int(words["streams"]) <= 2, "two contexts were allowed"
    assert int(words["captures"]) <= 2 * int(words["streams"]), "two sizes"


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("FAKE_NO_CAPTURE", "unknown"),
        ("FAKE_BROKEN_CAPTURE", "operation failed due to a previous error during capture"),
    ],
)
def test_a_size_that_cannot_be_captured_is_run_without_a_graph(cpp: Probe, tmp_path: Path, fails: str, reason: str):
    found = infer(cpp, fake_engine(tmp_path), 4, 4, **{fails: "1"})
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if not line.startswith("stream")]
    np.testing.assert_allclose(rows("\n".join(lines)), np.concatenate([expected(4)] * 2), atol=1e-6)
    assert (counts(found)["captures"], counts(found)["launched"]) == (0, 0)
    assert found.err.splitlines() == [
        f"note: A batch of 4 is run without a CUDA graph, as it can't be captured: {reason}."
    ]


@pytest.mark.parametrize("program", ["engines", "engines_rtx"])
def test_after_a_warm_up_no_request_captures_or_compiles(cpp: Probe, tmp_path: Path, program: str):
    backend = "tensorrt" if program == "engines" else "tensorrt-rtx"
    path = fake_engine(tmp_path, "1:1:1 2:8:16", backend=backend)
    found = infer(cpp, path, 1, 8, threads=4, program=program, WARM_UP="1")
    assert found.code == 0, found.err
    warm, last = counts(found, 0), counts(found)
    assert warm == {"contexts": 4, "captures": 4 * (backend == "tensorrt"), "enqueues": warm["enqueues"]}
    assert last["captures"] == warm["captures"], "two sizes in two contexts"
    assert last["compiled"] == (0 if backend == "tensorrt" else 2)


def test_tensorrt_rtx_compiles_before_it_runs_and_keeps_what_it_compiled(cpp: Probe, tmp_path: Path):
    path = fake_engine(tmp_path, backend="tensorrt-rtx")
    first = infer(cpp, path, 1, 4, program="engines_rtx")
    assert first.code == 0, first.err
    assert (counts(first)["compiled"], counts(first)["fallbacks"]) == (2, 0)
    kept = path.with_name("m.engine.tesla-t4.runtime-cache")
    assert caches.read(kept) == (b"1 4 ", None)
    again = infer(cpp, path, 1, 4, program="engines_rtx")
    assert (counts(again)["compiled"], counts(again)["fallbacks"]) == (0, 0)
    kept.write_bytes(kept.read_bytes()[:-1])
    third = infer(cpp, path, 1, program="engines_rtx")
    assert "is damaged; a new one is begun" in third.err
    assert counts(third)["compiled"] == 1


def test_what_a_stream_of_the_caller_compiled_is_kept_at_the_end(cpp: Probe, tmp_path: Path):
    """Only `Engine::infer` saves as it goes."""
    path = fake_engine(tmp_path, "1:4:16", backend="tensorrt-rtx")
    assert infer(cpp, path, 3, program="engines_rtx", STREAM_ONLY="1").code == 0
    assert caches.read(path.with_name("m.engine.tesla-t4.runtime-cache")) == (b"3 ", None)


def test_a_predictor_passes_its_engines_notes_on(cpp: Probe, tmp_path: Path):
    path = fake_engine(tmp_path)
    entry = Golden(PIXELS[:2], expected(2).astype(np.float32), "noise", 1e-3).write(path)
    artifacts.write_manifest(path, {**artifacts.read_manifest(path), "golden": entry})
    found = cpp.run("engines", path, 0, given=PIXELS[:1].tobytes(), variables={"FAKE_BROKEN_CAPTURE": "1"})
    assert found.code == 0, found.err
    assert "note: A batch of 2 is run without a CUDA graph" in found.err


def test_more_sizes_than_are_kept_make_room(cpp: Probe, tmp_path: Path):
    batches = (*range(1, 13), 1, 2)
    found = infer(cpp, fake_engine(tmp_path), *batches, threads=1)
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if not line.startswith("stream")]
    np.testing.assert_allclose(
        rows("\n".join(lines)), np.concatenate([expected(count) for count in batches]), atol=1e-6
    )


def test_each_profile_has_a_context_of_its_own(cpp: Probe, tmp_path: Path):
    found = infer(cpp, fake_engine(tmp_path, "1:1:1 2:8:16"), 1, 8, 17)
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if not line.startswith("stream")]
    np.testing.assert_allclose(rows("\n".join(lines)), np.concatenate([expected(n) for n in (1, 8, 17)]), atol=1e-6)


def test_logits_in_float16_come_back_as_float32(cpp: Probe, tmp_path: Path):
    found = infer(cpp, fake_engine(tmp_path, half=True), 4)
    lines = [line for line in found.out.splitlines() if not line.startswith("stream")]
    np.testing.assert_allclose(rows("\n".join(lines)), expected(4), rtol=1e-3, atol=1e-4)


def test_a_batch_outside_the_profiles_is_refused_with_the_range(cpp: Probe, tmp_path: Path):
    found = infer(cpp, fake_engine(tmp_path, "4:4:8"), 3)
    assert found.code == 1
    assert "A batch of 3 is outside the engine's profile: it takes 4 to 8." in found.err


@pytest.mark.parametrize("profiles", ["1:4:16", "4:4:4", "3:5:7"])
@pytest.mark.parametrize("raw", [False, True])
def test_a_predictor_fills_batches_and_tries_the_golden_images(cpp: Probe, tmp_path: Path, profiles: str, raw: bool):
    path = fake_engine(tmp_path, profiles, raw=raw)
    entry = Golden(PIXELS[:2], expected(2, raw=raw).astype(np.float32), "noise", 1e-3).write(path)
    artifacts.write_manifest(path, {**artifacts.read_manifest(path), "golden": entry})
    found = cpp.run("engines", path, 0, given=PIXELS[:5].tobytes())
    assert found.code == 0, found.err
    name, _, logits = found.out.partition("\n")
    assert name == "tensorrt 10.16.1.11, m.engine"
    np.testing.assert_allclose(rows(logits), expected(5, raw=raw), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("raw", "layout"), [(False, "NHWC"), (True, "NCHW")])
def test_an_engine_of_another_exporters_layout_is_taken(cpp: Probe, tmp_path: Path, raw: bool, layout: str):
    path = fake_engine(tmp_path, raw=raw, other_layout=layout)
    found = cpp.run("engines", path, 0, given=PIXELS[:5].tobytes())
    assert found.code == 0, found.err
    np.testing.assert_allclose(rows(found.out.partition("\n")[2]), expected(5, raw=raw), rtol=1e-5, atol=1e-6)


def test_golden_images_that_come_out_otherwise_are_exit_3(cpp: Probe, tmp_path: Path):
    path = fake_engine(tmp_path)
    entry = Golden(PIXELS[:2], expected(2).astype(np.float32) + 0.5, "noise", 0.1).write(path)
    artifacts.write_manifest(path, {**artifacts.read_manifest(path), "golden": entry})
    found = cpp.run("engines", path, 0, given=PIXELS[:1].tobytes())
    assert found.code == 3
    assert "a logit differs by 0.5, bound 0.1" in found.err


@pytest.mark.parametrize(
    ("variables", "code", "reason"),
    [
        ({"FAKE_NO_GPU": "1"}, 4, "none is seen here"),
        ({"FAKE_NO_CONTEXT": "1"}, 4, "gives no execution context"),
        ({"FAKE_NO_MEMORY": "1"}, 4, "out of memory"),
        ({"FAKE_MAJOR": "11"}, 4, "plans don't cross versions"),
    ],
    ids=str,
)
def test_what_the_machine_lacks_is_exit_4(
    cpp: Probe, tmp_path: Path, variables: dict[str, str], code: int, reason: str
):
    found = infer(cpp, fake_engine(tmp_path), 1, **variables)
    assert (found.code, reason in found.err) == (code, True), found


def test_headers_of_another_version_than_the_library_are_refused(cpp: Probe, tmp_path: Path):
    path = fake_engine(tmp_path, version=(11, 16, 1, 11))
    found = infer(cpp, path, 1, FAKE_MAJOR="11")
    assert (found.code, "compiled with headers of version 10" in found.err) == (4, True), found


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"build": BuildOptions(stripped=True).to_dict()}, 4, "doesn't refit"),
        ({"classes": ["a", "b"]}, 1, "names 2 classes"),
        ({"input_type": "uint8"}, 1, "another input"),
        ({"layout": "NHWC"}, 1, "another input"),
        ({"preprocess": Preprocess.for_size(16).to_dict()}, 1, "another input"),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_the_plan_is_refused(
    cpp: Probe, tmp_path: Path, fields: dict[str, Any], code: int, reason: str
):
    found = cpp.run("engines", fake_engine(tmp_path, **fields), 0, given=PIXELS[:1].tobytes())
    assert (found.code, reason in found.err) == (code, True), found


def test_a_plan_that_tensorrt_does_not_take_has_its_reason(cpp: Probe, tmp_path: Path):
    found = infer(cpp, fake_engine(tmp_path, logits=0), 1)
    assert found.code == 1
    assert "the plan makes no sense" in found.err
    assert "Build it again from m.onnx for t4 with tensorrt" in found.err
