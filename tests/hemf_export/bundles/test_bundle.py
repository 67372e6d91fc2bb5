"""`hemf-export bundle`: what is in it, the same bytes for the same inputs, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.bundles import archive, index, making
from hemf_export.bundles.contents import without_places
from hemf_export.engines import golden
from hemf_export.files import artifacts
from hemf_export.triton import repository
from tests.conftest import CLASSES, PROJECT
from tests.hemf_export.bundles import packing
from tests.hemf_export.triton.models import means, plan
from tests.hostile.conftest import contents


@pytest.fixture(scope="module")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    archive.unpack(bundle, folder)
    return folder


def test_everything_is_in_it(bundle, unpacked, proven):
    found = index.Index.parse((unpacked / index.NAME).read_bytes())
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert names == {index.NAME, index.SUMS, *found.members} == set(packing.entries(bundle))
    for name, member in found.members.items():
        assert artifacts.sha256(unpacked / name) == member.sha256
        assert (unpacked / name).stat().st_size == member.size_bytes
    assert (unpacked / "labels.txt").read_text().splitlines() == list(CLASSES)
    for path in (proven.onnx, proven.half):
        place = unpacked / index.MODELS / path.name
        assert place.read_bytes() == path.read_bytes()
        manifest = artifacts.read_manifest(place)
        known = golden.read(place, manifest)
        assert known is not None
        assert known.pixels.shape == (4, 64, 64, 3)
        own = artifacts.read_manifest(path)
        assert {name: manifest[name] for name in ("sha256", "classes", "preprocess", "versions")} == {
            name: own[name] for name in ("sha256", "classes", "preprocess", "versions")
        }
    assert {model.name for model in repository.check(unpacked / "triton").models} == {"model", "model.fp16"}
    assert json.loads((unpacked / "reports/verify.json").read_text())["passed"]
    assert json.loads((unpacked / "timings/bench.json").read_text())["timings"]
    for page in ("reports/verify.html", "timings/bench.html"):
        assert "<html" in (unpacked / page).read_text()
    cpp = {path.relative_to(PROJECT / "engines").as_posix() for path in (PROJECT / "engines/cpp").rglob("*.?pp")}
    assert cpp <= names
    assert "cpp/LICENSE" in names


def test_the_card_tells_what_was_measured(unpacked, proven):
    card = (unpacked / "MODEL_CARD.md").read_text()
    report = json.loads(proven.verify.read_text())
    for text in (
        "bright, dark, striped", "64 × 64", report["checkpoint_sha256"], artifacts.sha256(proven.half), "Not stated",
        f"{report['candidates'][1]['metrics']['accuracy']:.0%}", "15 images", "no medical device", "timings/bench.json",
        "torch", "model.fp16.onnx",
    ):  # fmt: skip
        assert text in card, text


def test_nothing_in_it_is_of_this_machines_folders(unpacked, proven, folder):
    for path in unpacked.rglob("*"):
        if path.suffix in (".json", ".md", ".html", ".pbtxt"):
            text = path.read_text()
            assert str(folder.parent) not in text, path
            assert str(proven.folder) not in text, path


def test_where_files_lay_is_no_part_of_it():
    """As text of one folder: another folder with the same name gives the same bytes."""
    for root in ("/home/me/", "../", "a/b/", ""):
        found = without_places(
            {"path": f"{root}x.onnx", "golden": [{"source": f"{root}data/test"}], "n": 1, "text": f"{root}stays"}
        )
        assert found == {"path": "x.onnx", "golden": [{"source": "data/test"}], "n": 1, "text": f"{root}stays"}
    assert without_places({"source": "seeded noise (20250)"}) == {"source": "seeded noise (20250)"}
    assert without_places({"source": "/"}) == {"source": ""}


@pytest.mark.extended
def test_the_same_inputs_give_the_same_bytes(bundle, proven, tmp_path):
    place = tmp_path / "another" / "folder"
    place.mkdir(parents=True)
    for path in proven.folder.iterdir():
        shutil.copy(path, place)
        os.utime(place / path.name, (1, 1))
        (place / path.name).chmod(0o600)
    files = (place / proven.onnx.name, place / proven.half.name)
    before = os.umask(0o077)
    try:
        made = making.make(
            making.Request(files, place / bundle.name, place / "verify.json", place / "bench.json")
        )  # fmt: skip
    finally:
        os.umask(before)
    assert made.path.read_bytes() == bundle.read_bytes()
    assert made.sha256 == artifacts.sha256(bundle)


def test_the_order_of_the_files_on_the_line_is_kept_in_the_card_alone(tmp_path):
    first, second = means(tmp_path / "a.onnx"), means(tmp_path / "b.onnx", scale=2)
    made = [
        making.make(making.Request(files, tmp_path / f"{number}.tar.zst", triton=False, cpp=False)).index.members
        for number, files in enumerate(((first, second), (second, first)))
    ]
    assert made[0].keys() == made[1].keys()
    assert {name for name in made[0] if made[0][name] != made[1][name]} == {"MODEL_CARD.md"}


def test_what_a_clock_measured_stands_apart(proven, tmp_path):
    """Another benchmark and another time of the build: nothing else of the bundle changes."""
    engine = plan(tmp_path / "m.t4.engine", build_seconds=1.0, build_peak_memory_bytes=5)
    first = making.make(making.Request((engine,), tmp_path / "m.tar.zst", cpp=False))
    plan(engine, build_seconds=2.0, build_peak_memory_bytes=6)
    second = making.make(making.Request((engine,), tmp_path / "m.tar.zst", cpp=False, force=True))
    changed = {name for name in first.index.members if first.index.members[name] != second.index.members[name]}
    assert changed == {"timings/builds.json"}
    assert first.index.contents_sha256 == second.index.contents_sha256
    assert first.sha256 != second.sha256
    assert "build_seconds" not in packing.entries(second.path)["models/m.t4.engine.json"].decode()


def test_an_engine_comes_with_its_golden_images_and_is_what_triton_serves(small):
    found = packing.entries(small)
    assert "triton/means.t4/1/model.plan" in found
    assert not any(name.startswith("triton/means/") for name in found), "the ONNX file is not served beside it"
    assert found["models/means.onnx.golden"] == found["models/means.t4.engine.golden"], "the same images"
    assert b"python" in found["triton/means.t4/config.pbtxt"], "TensorRT-RTX needs it"


def test_equal_files_cost_nothing(tmp_path):
    """The engine lies in it twice, for self-test and for Triton."""
    engine = plan(tmp_path / "m.t4.engine")
    manifest = json.loads(artifacts.manifest_path(engine).read_text())
    engine.write_bytes(engine.read_bytes()[:64] + os.urandom(3_000_000))
    own = ("manifest", "file", "size_bytes", "sha256", "versions")
    artifacts.write_manifest(engine, {name: value for name, value in manifest.items() if name not in own})
    made = making.make(making.Request((engine,), tmp_path / "m.tar.zst", cpp=False))
    assert made.path.stat().st_size < 3_200_000


def test_tar_and_sha256sum_take_it(bundle, tmp_path):
    tar, zstd, sums = (shutil.which(name) for name in ("tar", "zstd", "sha256sum"))
    if not (tar and zstd and sums):
        pytest.skip("needs tar, zstd and sha256sum")
    subprocess.run([tar, "--zstd", "-xf", bundle, "-C", tmp_path], check=True)
    subprocess.run([sums, "--quiet", "-c", index.SUMS], cwd=tmp_path, check=True)


def test_the_result_on_the_terminal_and_as_json(proven, tmp_path, run_cli):
    output = tmp_path / "m.tar.zst"
    code, out, err = run_cli("bundle", proven.onnx, "-o", output, "--verified", proven.verify, "--no-cpp")
    assert code == 0, err
    assert artifacts.sha256(output) in out
    assert "model.onnx (fp32, 4 golden images)" in out
    assert f"next: hemf-export self-test {output}" in err
    code, out, err = run_cli("bundle", proven.onnx, "-o", output, "--no-cpp", "--golden", 0, "--force", "--json")
    values = json.loads(out)
    assert (code, values["sha256"], values["verified"]) == (0, artifacts.sha256(output), False)
    assert values["models"][0]["golden_images"] == 0


def test_a_text_of_ones_own_and_images(proven, folder, tmp_path, run_cli):
    (tmp_path / "use.md").write_text("For counting *cells* only.\n")
    output = tmp_path / "m.tar.zst"
    code, _, err = run_cli(
        "bundle", proven.onnx, "-o", output, "--use", tmp_path / "use.md", "--images", folder, "--no-cpp"
    )
    assert code == 0, err
    found = packing.entries(output)
    card = found["MODEL_CARD.md"].decode()
    assert "For counting *cells* only." in card
    assert "not measured" in card
    assert folder.name in card, "whose images travel with it"
    assert folder.name in json.loads(found["models/model.onnx.json"])["golden"]["source"]


def other_checkpoint(proven, tmp_path):
    return [proven.onnx, means(tmp_path / "other.onnx")]


def no_manifest(proven, tmp_path):
    return [shutil.copy(proven.onnx, tmp_path / "m.onnx")]


def changed(proven, tmp_path):
    for path in (proven.half, artifacts.manifest_path(proven.half)):
        shutil.copy(path, tmp_path)
    path = tmp_path / proven.half.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return [path]


def verified_of_another(proven, tmp_path):
    return [means(tmp_path / "m.onnx"), "--verified", proven.verify]


def timed_of_another(proven, tmp_path):
    return [means(tmp_path / "m.onnx"), "--bench", proven.bench]


def verified_before_a_change(proven, tmp_path):
    values = json.loads(proven.verify.read_text())
    for one in (values["reference"], *values["candidates"]):
        one["sha256"] = "0" * 64
    (tmp_path / "old.json").write_text(json.dumps(values))
    return [proven.onnx, "--verified", tmp_path / "old.json"]


def not_a_benchmark(proven, tmp_path):
    return [proven.onnx, "--bench", proven.verify]


def half_a_benchmark(proven, tmp_path):
    values = json.loads(proven.bench.read_text())
    del values["conditions"]
    (tmp_path / "half.json").write_text(json.dumps(values))
    return [proven.onnx, "--bench", tmp_path / "half.json"]


def a_checkpoint(proven, tmp_path):
    return [proven.folder / "model.pt"]


def without_golden_images(proven, tmp_path):
    engine = plan(tmp_path / "m.t4.engine")
    golden.place(engine).unlink()
    return [engine]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (other_checkpoint, "was made from the checkpoint"),
        (no_manifest, "has no manifest"),
        (changed, "is not the file that model.fp16.onnx.json describes"),
        (verified_of_another, "is of the checkpoint"),
        (timed_of_another, "is of the checkpoint"),
        (verified_before_a_change, "is of none of the files, as they are now"),
        (not_a_benchmark, "is not the JSON of a benchmark"),
        (half_a_benchmark, "can't be read as a benchmark"),
        (a_checkpoint, ""),
        (without_golden_images, "is missing"),
    ],
)
def test_what_is_refused(given, said, proven, tmp_path, refused):
    message = refused("bundle", *given(proven, tmp_path), "-o", tmp_path / "x.tar.zst")
    assert said in message


def test_a_verification_that_failed_is_exit_3(proven, tmp_path, refused):
    values = json.loads(proven.verify.read_text())
    values["candidates"][1] |= {"passed": False, "missed": [{"text": "a logit differs by 9, bound 1"}]}
    (tmp_path / "failed.json").write_text(json.dumps(values))
    arguments = ["-o", tmp_path / "x.tar.zst", "--verified", tmp_path / "failed.json"]
    message = refused("bundle", proven.onnx, proven.half, *arguments, code=3)
    assert "a logit differs by 9, bound 1" in message
    assert cli.run(["bundle", str(proven.onnx), *map(str, arguments), "--no-cpp"]) == 0, "of the other file it may be"


def test_a_benchmark_that_failed_is_exit_3(proven, tmp_path, refused):
    values = json.loads(proven.bench.read_text()) | {"error": "wrong logits"}
    (tmp_path / "failed.json").write_text(json.dumps(values))
    assert "wrong logits" in refused(
        "bundle", proven.onnx, "-o", tmp_path / "x.tar.zst", "--bench", tmp_path / "failed.json", code=3
    )


@pytest.mark.parametrize(
    ("output", "files", "said"),
    [
        (".tar.zst", ["a.onnx"], "NAME.tar.zst"),
        ("x.tar.zst", ["a.onnx", "sub/a.onnx"], "Two files are called a.onnx"),
        ("x.tar.zst", ["a.onnx", "A.onnx"], "Two files are called"),
    ],
)
def test_wrong_calls_are_exit_2(output, files, said, tmp_path, refused):
    (tmp_path / "sub").mkdir()
    made = [means(tmp_path / name) for name in files]
    assert said in refused("bundle", *made, "-o", tmp_path / output, code=2)


def test_an_earlier_bundle_stays_without_force_and_is_replaced_whole_with_it(proven, tmp_path, refused, run_cli):
    output = tmp_path / "m.tar.zst"
    output.write_bytes(b"earlier")
    assert "--force" in refused("bundle", proven.onnx, "-o", output)
    assert output.read_bytes() == b"earlier"
    assert run_cli("bundle", proven.onnx, "-o", output, "--no-cpp", "--force")[0] == 0
    assert archive.require_sealed(output)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("at", [0, 20_000])
def test_a_full_disk_leaves_the_earlier_bundle(at, proven, tmp_path, run_cli, monkeypatch):
    output = tmp_path / "m.tar.zst"
    output.write_bytes(b"earlier")
    before = contents(tmp_path)
    done = 0

    def full(name: str, size: int) -> bytes:
        nonlocal done
        done += size
        if done >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(name, size)

    real = archive.tar_header
    monkeypatch.setattr(archive, "tar_header", full)
    code, _, err = run_cli("bundle", proven.onnx, "-o", output, "--no-cpp", "--force")
    assert (code, contents(tmp_path)) == (1, before)
    assert "No space left on device" in err


def test_without_tritonclient_it_says_so_at_once(proven, tmp_path, refused, monkeypatch, run_cli):
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    assert "pip install" in refused("bundle", proven.onnx, "-o", tmp_path / "x.tar.zst", code=4)
    assert run_cli("bundle", proven.onnx, "-o", tmp_path / "x.tar.zst", "--no-triton", "--no-cpp")[0] == 0


def test_the_seal_is_the_hash_of_all_before_it(small):
    data = small.read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
