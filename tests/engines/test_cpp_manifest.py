"""Manifests, hashes, preflight, golden images and batch profiles in C++: what Python says of the same files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.engines import golden, preflight
from hemf_export.engines.golden import Golden
from hemf_export.engines.machine import Machine
from hemf_export.engines.options import BatchProfile, BuildOptions
from hemf_export.engines.tensors import Interface, TensorInfo
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from tests.engines.cpp_probe import Probe
from tests.engines.test_preflight import RTX, engine, plan

MODEL = {
    "name": "test", "classes": ["bright", "dark", "mit Umlaut: ä"], "preprocess": Preprocess.for_size(8).to_dict(),
    "precision": "fp16", "input_type": "float32", "batch": None, "checkpoint_sha256": "0" * 64, "versions": {},
}  # fmt: skip
PLATFORM = "linux-x86_64"


def described(folder: Path, **fields: Any) -> Path:
    """An engine whose manifest says all of its model."""
    build = BuildOptions((BatchProfile(1, 4, 16),)).to_dict()
    return engine(folder, **{**MODEL, "build": build, **fields})


def words(machine: Machine) -> tuple[str, ...]:
    """A machine as the program of the tests takes it."""
    name = next(iter(machine.versions), "-")
    pair = [".".join(map(str, numbers)) if numbers else "-" for numbers in (machine.gpu, machine.driver)]
    versions = machine.versions.get(name, "-"), str(machine.cuda.get(name, "-"))
    return (*pair, name, *versions, machine.platform, machine.gpu_name or "-")


def test_a_manifest_says_the_same(cpp: Probe, tmp_path: Path):
    path = described(tmp_path, preprocess=Preprocess(29, "squash", 31).to_dict(), input_type="uint8", batch=4)
    found = cpp.probe("manifest", path)
    names = " ".join(json.dumps(name) for name in MODEL["classes"])
    assert found.code == 0, found.err
    assert found.out.splitlines() == [
        '"test"', "29 squash 31", f"{names} ", "fp16 uint8 4",
        "from m.fp16.onnx for t4 with tensorrt-rtx, batch 1:4:16", "any", "1:4:16 ",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (BuildOptions(), "batch 1:8:32"),
        (
            BuildOptions((BatchProfile(1, 1, 1), BatchProfile(2, 8, 32)), workspace_mib=512, optimization_level=4),
            "batch 1:1:1 and 2:8:32, a workspace of 512 MiB, optimization level 4",
        ),
        (
            BuildOptions(version_compatible=True, stripped=True, timing_cache=False),
            "batch 1:8:32, version-compatible, without weights, without a timing cache",
        ),
        (BuildOptions(hardware_compatible=True), "batch 1:8:32, for all GPUs of the compute capability"),
        (BuildOptions(hardware_compatible=False), "batch 1:8:32, for this model of GPU alone"),
    ],
)
def test_how_it_was_built_is_told_with_every_option(cpp: Probe, tmp_path: Path, options: BuildOptions, settings: str):
    path = described(tmp_path, build=options.to_dict(), parent="m.fp16.onnx", precision="fp32")
    told = cpp.probe("manifest", path).out.splitlines()[4]
    assert told == f"from m.fp16.onnx in fp32 for t4 with tensorrt-rtx, {settings}"


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": []}, {"classes": ["a", 1]}, {"classes": "abc"}, {"precision": "fp4"}, {"input_type": "int8"},
        {"batch": 0}, {"batch": 1.5}, {"batch": "4"}, {"preprocess": {"size": 8, "resize": 4}}, {"name": 5},
        {"preprocess": {**MODEL["preprocess"], "gamma": 2}}, {"preprocess": {**MODEL["preprocess"], "mean": [0, 1]}},
        {"preprocess": {**MODEL["preprocess"], "std": [0.5, 0, 0.5]}}, {"preprocess": []},
        {"layout": "CHWN"}, {"layout": 3},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_about_the_model_is_refused(cpp: Probe, tmp_path: Path, changes: dict[str, Any]):
    path = described(tmp_path, **changes)
    found = cpp.probe("manifest", path)
    assert found.code == 1
    assert "doesn't tell classes and preprocessing" in found.err
    assert str(path) in found.err


def test_a_file_that_its_manifest_does_not_describe_is_refused(cpp: Probe, tmp_path: Path):
    path = described(tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    found = cpp.probe("manifest", path)
    with pytest.raises(BadInputError) as python:
        artifacts.read_manifest(path)
    assert (found.code, found.err) == (1, f"{python.value.message}\n{python.value.hint}\n")


JSON = [
    "{}", " [1, -2.5e3, 0, 1e-7, 123456789012345] ", '{"b": [true, false, null], "a": {"c": ""}}',
    '"\\u00e9\\ud83d\\ude00é😀"',
    '"\\"\\\\\\/\\b\\f\\n\\r\\t"', "0.1", "1e22", "1E400", "-0.0", "5e-324", "[1.7976931348623157e308]",
    "", "{", "[1,]", "{'a': 1}", '{"a": 1, "a": 2}', "[01]", "[1.]", "[.5]", "[+1]", "NaN", "[Infinity]",
    '"\\x41"', '"\\ud800"',
    '"tab\there"', "nul", "[1] 2", '{"a" 1}', "[1 2]", "// comment\n1", "1e", "--1", '"open', "[" * 100 + "]" * 100,
    "[" * 65 + "]" * 65, "[" * 66 + "]" * 66, '{"a":' * 66 + "1" + "}" * 66, "-0", "18446744073709551615", "1e-400",
    '{"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}', '{"b": {"a": 1, "b": {}, "a": 2}}', "\ufeff{}",
    '{"\\ud83d\\ude00": 1}',
]  # fmt: skip
STRICTER = {
    '{"a": 1, "a": 2}', "NaN", "[Infinity]", '"\\ud800"', "[" * 100 + "]" * 100, "1E400", "[" * 66 + "]" * 66,
    '{"a":' * 66 + "1" + "}" * 66, '{"b": {"a": 1, "b": {}, "a": 2}}',
}  # fmt: skip


def test_json_is_read_as_strictly_as_python_reads_it_or_more(cpp: Probe):
    found = cpp.probe("json", listed=JSON).out.splitlines()
    for text, answer in zip(JSON, found, strict=True):
        try:
            value = json.loads(text)
        except ValueError:
            assert answer.startswith("malformed"), text
            continue
        if text in STRICTER:
            assert answer.startswith("malformed"), text
        else:
            assert answer == json.dumps(value, sort_keys=True), text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"sha256": "%s"} \0 {}', "it contains a zero byte"),
        (b'{"sha256": "%s\0"}', "it contains a zero byte"),
        (b'\xef\xbb\xbf{"sha256": "%s"}', "it begins with a byte order mark"),
        (b'{"sha256": "%s", "sha256": "%s"}', 'the key "sha256" is there twice'),
        (b'{"sha256": "%s", "name": "\xff"}', "parse error at line 1"),
        (b'{"sha256": "%s", "name": "\xc0\xaf"}', "parse error at line 1"),
        (b'{"sha256": "%s", "batch": ' + b"9" * 400 + b"}", "a number is out of range"),
        (b'{"sha256": "%s", "a": ' + b"[" * 100_000, "it is nested too deeply"),
        (b'{"sha256": "%s", "a": "' + b"a" * 100_000, "parse error at line 1"),
        (b'["%s"]', "'sha256' is missing"), (b'"sha256 %s"', "'sha256' is missing"),
        (b'{"sha256": 5, "name": "%s"}', "sha256 is of another kind"),
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused_in_a_few_words(cpp: Probe, tmp_path: Path, content: bytes, reason: str):
    path = described(tmp_path)
    digest = artifacts.read_manifest(path)["sha256"].encode()
    artifacts.manifest_path(path).write_bytes(content.replace(b"%s", digest))
    found = cpp.probe("manifest", path)
    assert found.code == 1, found
    assert f"{artifacts.manifest_path(path)} is not a manifest: {reason}" in found.err
    assert len(found.err) < 500 + len(str(path)), "what is quoted of a file is short"
    assert "json.exception" not in found.err


def test_a_manifest_that_is_too_large_is_not_read(cpp: Probe, tmp_path: Path):
    path = described(tmp_path)
    with artifacts.manifest_path(path).open("r+b") as file:
        file.truncate((64 << 20) + 1)
    found = cpp.probe("manifest", path)
    assert (found.code, "is not a manifest: too large" in found.err) == (1, True), found


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.png", "a.png"), ("ä é 画像 😀", "ä é 画像 😀"), ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x1b[31m\x7f", "\\x1b[31m\\x7f"), ("\x9b", "\\x9b"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"), ("\u2028\ufeff", "\\u2028\\ufeff"),
        ("\udcff\udc80", "\\udcff\\udc80"), ("\U000e0001", "\\U000e0001"),
    ],
    ids=ascii,
)  # fmt: skip
def test_names_are_shown_without_what_a_terminal_obeys(cpp: Probe, name: str, shown: str):
    assert cpp.probe("printable", listed=[name]).out == shown + "\n"


def test_numbers_are_written_as_python_writes_them(cpp: Probe):
    random = np.random.default_rng(0)
    values = [*(random.uniform(0, 1, 300)), *(10.0 ** random.uniform(-30, 30, 300)), 1e16, 1e15, 123456.0, 1e-4, 1e-5]
    texts = [repr(float(value)) for value in values]
    assert cpp.probe("json", listed=texts).out.splitlines() == texts


def test_hashes_are_those_of_hashlib(cpp: Probe, tmp_path: Path):
    paths = []
    for size in (0, 1, 55, 56, 63, 64, 65, 127, 128, 1000, (1 << 20) + 7):
        paths.append(tmp_path / str(size))
        paths[-1].write_bytes(np.random.default_rng(size).bytes(size))
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert cpp.probe("sha256", listed=paths).out.splitlines() == expected


MACHINES = {
    "the right one": Machine((7, 5), {"tensorrt-rtx": RTX}, PLATFORM),
    "no GPU": Machine(None, {"tensorrt-rtx": RTX}, PLATFORM),
    "another GPU": Machine((8, 6), {"tensorrt-rtx": RTX}, PLATFORM),
    "another version": Machine((7, 5), {"tensorrt-rtx": "1.6.0.9"}, PLATFORM),
    "a later version": Machine((7, 5), {"tensorrt-rtx": "1.8.0.1"}, PLATFORM),
    "the other flavour": Machine((7, 5), {"tensorrt": "10.16.1.11"}, PLATFORM),
    "no TensorRT": Machine((7, 5), {}, PLATFORM),
    "another platform": Machine((7, 5), {"tensorrt-rtx": RTX}, "linux-aarch64"),
    "an old driver": Machine((7, 5), {"tensorrt-rtx": RTX}, PLATFORM, (12, 4), {"tensorrt-rtx": 13}),
    "a T4": Machine((7, 5), {"tensorrt-rtx": RTX}, PLATFORM, gpu_name="Tesla T4"),
    "another model": Machine((7, 5), {"tensorrt-rtx": RTX}, PLATFORM, gpu_name="NVIDIA GeForce RTX 2080 Ti"),
    "a long build number": Machine((7, 5), {"tensorrt-rtx": "1.7.1.372"}, PLATFORM),
    "a fit driver": Machine((7, 5), {"tensorrt-rtx": RTX}, PLATFORM, (13, 0), {"tensorrt-rtx": 13}),
}
ENGINES: dict[str, dict[str, Any]] = {
    "usual": {},
    "elsewhere": {"platform": PLATFORM},
    "lasting": {"version_compatible": True},
    "of a kind": {"kind": "onnx"},
    "by hand": {"backend_version": "1.2.3.4"},
    "silent": {"compute_capability": None},
    "alone": {"hardware_compatible": False, "built_on": "Tesla T4"},
    "for all": {"hardware_compatible": True, "built_on": "Tesla T4"},
    "of a long build number": {"backend_version": "1.7.1.372"},
    "of a pre-release": {"backend_version": "1.7.1b116"},
}


@pytest.mark.parametrize("fields", ENGINES.values(), ids=ENGINES)
def test_preflight_finds_what_python_finds(cpp: Probe, tmp_path: Path, fields: dict[str, Any]):
    path = described(tmp_path, **fields)
    for name, machine in MACHINES.items():
        expected = preflight.look(path, machine)
        found = cpp.probe("preflight", path, *words(machine))
        lines = [f"{check.what}\t{check.outcome}\t{check.found}" for check in expected.checks]
        assert found.out.splitlines() == lines, name
        refusal = expected.refusal
        assert found.code == (refusal.exit_code if refusal else 0), name
        if refusal is None:
            continue
        if "not installed" in refusal.message:  # a program has no packages to install
            assert "was not built with" in found.err, name
        else:
            assert found.err.splitlines()[0] == refusal.message, name


@pytest.mark.parametrize("data", [b"", b"vtrt", b"vtrt" + bytes(23), bytes(100), b"\x89PNG" + bytes(96)])
def test_what_is_no_plan_is_refused_before_any_manifest(cpp: Probe, tmp_path: Path, data: bytes):
    path = tmp_path / "m.engine"
    path.write_bytes(data)
    found = cpp.probe("preflight", path, *words(MACHINES["the right one"]))
    assert found.code == 1
    assert "not a TensorRT plan" in found.err


def test_a_plan_without_a_manifest_is_refused(cpp: Probe, tmp_path: Path):
    found = cpp.probe("preflight", plan(tmp_path / "m.engine"), *words(MACHINES["the right one"]))
    assert found.code == 1
    assert "has no manifest" in found.err


LOGITS = np.array([[2, 0, -1], [0, 1, 3], [0.5, 0.4, 0]], np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def with_golden(folder: Path, **changes: Any) -> Path:
    path = described(folder)
    entry = Golden(PIXELS, LOGITS, "noise", 0.1).write(path)
    artifacts.write_manifest(path, {**artifacts.read_manifest(path), "golden": {**entry, **changes}})
    return path


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize(("added", "code"), [(0.0, 0), (0.09, 0), (0.2, 3), (np.nan, 3), (np.inf, 3)])
def test_golden_images_tell_an_engine_that_computes_something_else(
    cpp: Probe, tmp_path: Path, least: int, added: float, code: int
):
    path = with_golden(tmp_path)
    logits = LOGITS.copy()
    logits[1, 2] += added
    logits.tofile(tmp_path / "logits")
    found = cpp.probe("golden", path, tmp_path / "logits", least)
    assert found.code == code, found
    assert found.out == ("tried\n" if code == 0 else "")
    assert code == 0 or "doesn't compute what its graph does" in found.err


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3, 8, 8]}, {"shape": [3, 8, 8, 4]}, {"shape": [2, 8, 8, 3]}, {"shape": [3, 8, 9, 3]},
        {"shape": None},
        {"logits": [[1], [2]]}, {"logits": [[1, 2, 3], [1, 2], [1, 2, 3]]}, {"sha256": "0" * 64},
        {"max_logit_difference": -1},
    ],
    ids=str,
)  # fmt: skip
def test_golden_images_that_are_not_the_manifests_are_refused(cpp: Probe, tmp_path: Path, changes: dict[str, Any]):
    path = with_golden(tmp_path, **changes)
    LOGITS.tofile(tmp_path / "logits")
    with pytest.raises((BadInputError, ValueError)):
        golden.read(path, artifacts.read_manifest(path))
    found = cpp.probe("golden", path, tmp_path / "logits", 1)
    assert found.code == 1, found
    assert "golden images" in found.err or "is not what the manifest" in found.err


def test_golden_images_that_were_left_behind_are_missed(cpp: Probe, tmp_path: Path):
    path = with_golden(tmp_path)
    golden.place(path).unlink()
    found = cpp.probe("golden", path, tmp_path / "logits", 1)
    assert (found.code, "is missing" in found.err) == (1, True)


@pytest.mark.parametrize(
    "profiles",
    ["1:8:32", "1:4:16", "4:4:4", "3:5:7", "1:1:1 8:8:8", "2:4:6 16:16:16", "5:5:5 7:7:7"],
)
def test_batches_are_divided_as_python_divides_them(cpp: Probe, profiles: str):
    info = TensorInfo("x", (3, 8, 8), None)
    interface = Interface(info, info, tuple(BatchProfile.parse(text) for text in profiles.split()))
    found = cpp.probe("profiles", 40, *profiles.split()).out.splitlines()
    for count, line in enumerate(found, 1):
        try:
            expected = "".join(f" {part}" for part in interface.parts(count))
        except BadInputError as error:
            expected = f" {error}".replace(f" {error.hint}", "")
        assert line == f"{interface.filled(count)}:{expected}"
