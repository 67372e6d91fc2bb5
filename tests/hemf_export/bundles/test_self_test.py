"""`hemf-export self-test BUNDLE`: what runs is run and timed, a changed byte anywhere is found."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from hemf_export.bundles import archive, index, latency, making
from hemf_export.files import artifacts
from hemf_export.models.runners import OnnxRunner
from hemf_export.precision import golden_images
from tests.engines import fake_tensorrt as fake
from tests.hemf_export.bundles import packing
from tests.hemf_export.bundles.packing import entries, pack, reindexed, whole
from tests.hemf_export.test_engine_commands import small as small_engine
from tests.hemf_export.triton.models import SIDE, means, plan
from tests.hostile.conftest import contents, one_message


class Clock:
    """A clock that each reading moves on, so that no verdict hangs on how busy this machine is."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, 1e-9

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    """Everything is quicker than in any benchmark, unless a test says otherwise."""
    made = Clock()
    monkeypatch.setattr(latency, "_clock", made)
    return made


def test_onnx_files_are_run_and_timed(bundle, run_cli, tmp_path):
    code, out, err = run_cli("self-test", bundle)
    assert code == 0, err
    assert out.startswith("passed: 2 of 2 models compute here what they were proven to\n")
    assert out.count("passed") == 1 + 2
    assert "there)" in out
    assert "without a verdict" not in err
    assert f"next: hemf-export self-test {bundle} --keep DIR" in err
    code, out, _ = run_cli("self-test", bundle, "--json")
    values = json.loads(out)
    assert (code, values["passed"]) == (0, True)
    assert values["contents_sha256"] == index.Index.parse(entries(bundle)[index.NAME]).contents_sha256
    for model in values["models"]:
        assert model["golden"]["images"] == 4
        assert 0 <= model["golden"]["logit_difference"]["max"] <= model["golden"]["bound"]
        assert model["latency"]["batch"] == 1
        assert model["latency"]["same_kind"]
        assert model["latency"]["max_slowdown_percent"] == latency.DEFAULT_BOUND
        other = next(one["file"] for one in values["models"] if one is not model)
        assert model["latency"]["reference"] == f"ort-cpu, {other}"


def test_it_is_kept_where_it_passes(bundle, run_cli, tmp_path):
    code, _, err = run_cli("self-test", bundle, "--keep", tmp_path / "kept")
    assert code == 0, err
    assert contents(tmp_path / "kept").keys() >= entries(bundle).keys()
    assert f"next: hemf-export predict {tmp_path / 'kept' / 'models' / 'model.onnx'}" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    assert run_cli("self-test", bundle, "--keep", tmp_path / "other")[0] == 1
    assert contents(tmp_path / "other").keys() == {"x"}


def test_logits_that_differ_are_exit_3_and_nothing_is_kept(tmp_path, run_cli, monkeypatch):
    real = golden_images.of_pixels

    def off(*arguments, **more):
        found = real(*arguments, **more)
        return golden_images.Golden(found.pixels, found.logits + 1, found.source, 0.01)

    monkeypatch.setattr(golden_images, "of_pixels", off)
    path = making.make(making.Request((means(tmp_path / "m.onnx"),), tmp_path / "m.tar.zst", cpp=False)).path
    before = contents(tmp_path)
    code, out, err = run_cli("self-test", path, "--keep", tmp_path / "kept")
    assert (code, contents(tmp_path)) == (3, before)
    assert "m.onnx: a logit differs by 1, bound 0.01" in err
    assert out.startswith("FAILED: 0 of 1 models compute here what they were proven to\n")
    values = json.loads(run_cli("self-test", path, "--json")[1])
    assert (values["exit_code"], values["models"][0]["outcome"]) == (3, "failed")


def test_without_a_gpu_an_engine_is_told(small, tmp_path, run_cli, refused):
    code, out, err = run_cli("self-test", small)
    assert code == 0, err
    assert out.startswith("passed: 1 of 2 models compute here what they were proven to, 1 can't run here\n")
    assert "not run" in out
    assert "means.t4.engine needs" in err
    assert "hemf-export-" not in err, "the temporary folder is nobody's business"
    assert "--strict" in refused("self-test", small, "--strict", code=4)
    engine = plan(tmp_path / "m.t4.engine", flavour="tensorrt-rtx")
    path = making.make(making.Request((engine,), tmp_path / "m.tar.zst", cpp=False)).path
    assert "Nothing of it was run" in refused("self-test", path, "--keep", tmp_path / "kept", code=4)


def test_without_golden_images_only_hashes_are_compared(tmp_path, refused):
    path = making.make(making.Request((means(tmp_path / "m.onnx"),), tmp_path / "m.tar.zst", cpp=False, golden=0)).path
    assert "every hash agrees" in refused("self-test", path, code=1)


def with_tensors(engine: Path) -> Path:
    """The manifest says what a builder would have told."""
    own = ("manifest", "file", "size_bytes", "sha256", "versions")
    fields = {name: value for name, value in (artifacts.read_manifest(engine) or {}).items() if name not in own}
    kinds = {"images": ("input", [-1, 3, SIDE, SIDE]), "logits": ("output", [-1, 3])}
    tensors = [{"name": name, "mode": mode, "type": "FLOAT", "shape": shape} for name, (mode, shape) in kinds.items()]
    artifacts.write_manifest(engine, {**fields, "tensors": tensors})
    return engine


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_on_a_gpu_the_engine_is_run(tmp_path, run_cli, off):
    with fake.installed() as patch:
        fake.on_a_gpu(patch)
        engine = with_tensors(small_engine(tmp_path, backend="tensorrt", off=off))
        path = making.make(making.Request((engine,), tmp_path / "m.tar.zst", cpp=False)).path
        code, out, err = run_cli("self-test", path, "--strict")
    assert code == (3 if off else 0), err
    assert ("failed" if off else "passed") in out


def timed_at(small: Path, proven, path: Path, p50_ms: float, cpu: str | None = None) -> Path:
    """The small bundle with a benchmark of its one ONNX file, of this machine or of another processor."""
    found = entries(small)
    report = json.loads(proven.bench.read_text())
    sha256 = hashlib.sha256(found["models/means.onnx"]).hexdigest()
    for timing in report["timings"]:
        timing |= {"file": "means.onnx", "sha256": sha256, "latency_ms": {"p50": p50_ms}}
    if cpu is not None:
        report["conditions"]["cpu"]["model"] = cpu
    return pack(path, whole(reindexed(found, **{"timings/bench.json": json.dumps(report).encode()})))


def test_a_latency_alone_is_no_verdict_but_where_one_is_asked_for(small, proven, tmp_path, run_cli, refused, clock):
    clock.step = 0.5
    slow = timed_at(small, proven, tmp_path / "slow.tar.zst", 1.0)
    code, out, err = run_cli("self-test", slow)
    assert code == 0, "a busy machine is no fault of the bundle's"
    assert "500 ms (1 there)" in out
    assert "means.onnx: latency without a verdict, the bundle has no second model" in err
    assert "500 ms at batch 1, where the bundle has 1 ms: 49900 % slower, bound 50 % (--max-slowdown)" in refused(
        "self-test", slow, "--max-slowdown", 50, code=3
    )
    assert run_cli("self-test", slow, "--max-slowdown", 49900)[0] == 0
    other = timed_at(small, proven, tmp_path / "other.tar.zst", 1.0, "Another CPU")
    code, _, err = run_cli("self-test", other)
    assert code == 0, "another machine's figures are no bound"
    assert "it was timed on another machine (Another CPU" in err
    assert run_cli("self-test", other, "--max-slowdown", 50)[0] == 3, "but where one is asked for"
    assert run_cli("self-test", small, "--max-slowdown", -1)[0] == 2


def test_a_model_that_falls_behind_the_other_fails_and_a_busy_machine_does_not(bundle, run_cli, clock, monkeypatch):
    """The second of two files takes a hundred times its share, on a machine that is a million times slower."""
    bench = json.loads(entries(bundle)["timings/bench.json"])
    shares = {
        timing["name"].removeprefix("ort-cpu, "): timing["latency_ms"]["p50"]
        for timing in bench["timings"]
        if timing["name"].startswith("ort-cpu, ") and timing["batch"] == 1
    }
    slower = dict.fromkeys(shares, 1e6)
    real = OnnxRunner.infer

    def infer(runner: OnnxRunner, batch):
        name = runner.name.removeprefix("ONNX Runtime, ")
        clock.now += shares[name] * slower[name] / 1000
        return real(runner, batch)

    monkeypatch.setattr(OnnxRunner, "infer", infer)
    code, out, err = run_cli("self-test", bundle, "--json")
    assert code == 0, err
    for model in json.loads(out)["models"]:
        assert model["latency"]["slowdown_percent"] > 1e7
        assert abs(model["latency"]["ratio_growth_percent"]) < 1
    slower["model.fp16.onnx"] *= 100
    code, out, _ = run_cli("self-test", bundle, "--json")
    values = json.loads(out)
    assert code == 3
    assert {model["file"]: model["outcome"] for model in values["models"]} == {
        "model.onnx": "passed", "model.fp16.onnx": "failed"
    }  # fmt: skip
    assert "slower in proportion to ort-cpu, model.onnx, bound 100 % (--max-slowdown)" in values["error"]
    assert "model.onnx: " not in values["error"]


def test_its_options_are_of_bundles(tmp_path, run_cli):
    engine = plan(tmp_path / "m.t4.engine")
    for more in (("--strict",), ("--keep", tmp_path / "x"), ("--max-slowdown", 5)):
        assert run_cli("self-test", engine, *more)[0] == 2


def test_a_changed_byte_anywhere_is_found(small, tmp_path):
    """Every 7th byte, and all at both ends; before anything is decompressed."""
    path = Path(shutil.copy(small, tmp_path))
    data = path.read_bytes()
    places = {*range(0, len(data), 7), *range(64), *range(len(data) - archive._SEAL_BYTES - 64, len(data))}
    generator = random.Random(1)
    with open(path, "r+b", buffering=0) as file:
        for place in sorted(places):
            file.seek(place)
            file.write(bytes([data[place] ^ generator.randrange(1, 256)]))
            with pytest.raises(artifacts.BadInputError):
                archive.require_sealed(path)
            file.seek(place)
            file.write(data[place : place + 1])
    assert archive.require_sealed(path) == len(data) - archive._SEAL_BYTES, "put back, it is right"


@pytest.mark.parametrize("seed", range(12))
def test_a_changed_byte_of_a_large_one_fails_the_command(bundle, tmp_path, refused, seed):
    path = Path(shutil.copy(bundle, tmp_path))
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(len(data))] ^= 1 << seed % 8
    path.write_bytes(data)
    refused("self-test", path, "--keep", tmp_path / "kept")


@pytest.mark.parametrize("cut", [0, 1, 3, 40, 65, 66, 67, 5000])
def test_one_that_is_cut_short_or_longer(small, tmp_path, refused, cut):
    path = tmp_path / "cut.tar.zst"
    data = small.read_bytes()
    path.write_bytes(data[:cut])
    refused("self-test", path)
    path.write_bytes(data[: len(data) - max(1, cut)])
    refused("self-test", path)
    path.write_bytes(data + bytes(cut + 1))
    refused("self-test", path)


def members() -> list[str]:
    """Names in the small bundle, which every run has."""
    models = [f"models/means.{kind}" for kind in ("onnx", "onnx.json", "onnx.golden", "t4.engine", "t4.engine.json")]
    triton = [f"triton/means.t4/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.plan", "1/model.py")]
    return [index.NAME, index.SUMS, "MODEL_CARD.md", "labels.txt", *models, *triton]


@pytest.mark.parametrize("name", members())
def test_a_changed_byte_in_a_file_of_a_repacked_one_is_found(small, tmp_path, refused, name):
    found = entries(small)
    assert set(found) >= set(members())
    for place in (0, len(found[name]) // 2, len(found[name]) - 1):
        data = bytearray(found[name])
        data[place] ^= 1
        message = refused("self-test", pack(tmp_path / "m.tar.zst", whole({**found, name: bytes(data)})))
        assert name in message
        assert "Nothing was unpacked" in message


def test_every_file_of_a_repacked_one_is_compared(small, tmp_path):
    found = entries(small)
    for name in found:
        path = pack(tmp_path / "m.tar.zst", whole({**found, name: found[name] + b" "}))
        (tmp_path / "out").mkdir()
        with pytest.raises(artifacts.BadInputError):
            archive.unpack(path, tmp_path / "out")
        shutil.rmtree(tmp_path / "out")


def test_repacked_as_it_was_it_is_right(small, tmp_path, run_cli):
    """The helpers of these tests make bundles that pass, so that what fails fails for its own reason."""
    found = entries(small)
    assert reindexed(found) == found
    code, _, err = run_cli("self-test", pack(tmp_path / "m.tar.zst", whole(found)))
    assert code == 0, err
    assert packing.stream(whole(found)) == b"".join(
        archive.tar_header(name, len(data)) + data + archive.tar_padding(len(data)) for name, data in found.items()
    ) + bytes(1024)


def test_what_is_no_bundle_is_told(tmp_path, refused):
    (tmp_path / "text.tar.zst").write_text("hello")
    assert "is not a bundle" in refused("self-test", tmp_path / "text.tar.zst")
    assert "No bundle at" in refused("self-test", tmp_path / "none.tar.zst")
    (tmp_path / "folder.tar.zst").mkdir()
    assert one_message("error: " + refused("self-test", tmp_path / "folder.tar.zst"))
