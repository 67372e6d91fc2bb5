"""`hemf-export ship`: from a checkpoint to a bundle, what is done again and what isn't, and several of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.bundles.index import NAME, Index
from hemf_export.cli.commands.ship import command
from hemf_export.files import artifacts
from hemf_export.files.errors import HemfError
from hemf_export.shipping import records, shipment
from hemf_export.shipping.options import Options
from tests import kills
from tests.conftest import PROJECT
from tests.engines import fake_tensorrt as fake
from tests.hemf_export.bench.test_command import spoil
from tests.hemf_export.bundles.packing import entries
from tests.hostile.conftest import contents

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'tritonclient[grpc,http]'")

STEPS = ["onnx", "precision", "engine", "verify", "bench", "bundle"]
QUICK = ["--precision", "fp16", "--no-cpp", "--bench-seconds", "0.2", "--batch", "1:2:4"]


@pytest.fixture(autouse=True, scope="module")
def quick_builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A TensorRT that builds at once, here and in child processes."""
    with fake.installed(tmp_path_factory.mktemp("packages")) as patch:
        fake.on_a_gpu(patch)
        yield


@pytest.fixture(scope="module")
def shipped(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory, quick_builds) -> Path:
    """A folder in which a checkpoint was shipped."""
    folder = tmp_path_factory.mktemp("ship") / "shipped"
    line = ["ship", str(trained.parent / "best.pt"), "--data", str(pictures), "-o", str(folder), *QUICK]
    assert cli.run(line) == 0
    return folder


@pytest.fixture
def again(shipped: Path, trained: Path, pictures: Path, tmp_path: Path, run_cli):
    """Run the line once more in a copy of that folder; steps that were done, and all of the result."""

    def call(*more: object) -> tuple[list[str], dict]:
        arguments = ["--data", pictures, "-o", tmp_path / "shipped", *QUICK, *more, "--json"]
        code, out, err = run_cli("ship", trained.parent / "best.pt", *arguments)
        assert code == 0, err
        (one,) = json.loads(out)["shipped"]
        assert sorted(one["made"] + one["cached"]) == sorted(
            STEPS if "--no-bench" not in more else set(STEPS) - {"bench"}
        )
        return one["made"], one

    shutil.copytree(shipped, tmp_path / "shipped")
    return call


def test_all_steps_are_done_and_the_bundle_passes(shipped, run_cli):
    names = {path.name for path in shipped.iterdir()}
    stems = ("onnx", "fp16.onnx", "fp16.t4.engine", "fp16.t4.engine.golden", "verify.json", "verify.html", "tar.zst")
    assert {f"best.{stem}" for stem in stems} | {"ship.json", "best.bench.json", "best.bench.html"} <= names
    code, out, err = run_cli("self-test", shipped / "best.tar.zst")
    assert code == 0, err
    assert err.count("latency without a verdict") == 1, "the ONNX file; the engine was not timed"
    assert out.count("passed") == 1 + 2, "the machine has a T4 that is none"
    about = Index.parse(entries(shipped / "best.tar.zst")[NAME]).about
    assert [model["file"] for model in about["models"]] == ["best.fp16.onnx", "best.fp16.t4.engine"]
    assert about["verified"]
    assert about["timed"]
    assert about["triton"] == ["best.fp16.t4"]
    images = json.loads(entries(shipped / "best.tar.zst")["models/best.fp16.onnx.json"])["golden"]["source"]
    assert images.endswith("test")


def test_a_second_call_does_nothing(again, tmp_path, trained, pictures, run_cli):
    before = contents(tmp_path)
    made, one = again()
    assert (made, one["cached"]) == ([], STEPS)
    assert contents(tmp_path) == before
    code, out, err = run_cli("ship", trained.parent / "best.pt", "--data", pictures, "-o", tmp_path / "shipped", *QUICK)
    assert code == 0, err
    assert "All as before: nothing was done." in err
    assert "best.tar.zst" in out
    assert err.count(": as before") == len(STEPS)


def test_it_needs_no_torch(shipped, trained, pictures):
    """Where all is as before, nothing heavy is imported."""
    line = ["ship", str(trained.parent / "best.pt"), "--data", str(pictures), "-o", str(shipped), *QUICK]
    script = (
        "import sys\nfrom hemf_export.cli import run\n"
        f"code = run({line!r})\n"
        "sys.exit(code or 'torch' in sys.modules and 'imported torch' or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": as before") == len(STEPS)


@pytest.mark.extended
def test_only_what_changed_is_done_again(again, tmp_path):
    folder = tmp_path / "shipped"
    (folder / "best.tar.zst").unlink()
    assert again()[0] == ["bundle"]
    (folder / "best.verify.html").write_text("changed by hand")
    assert again()[0] == ["verify"], "which comes out the same, so that the bundle stays"
    assert again("--no-triton", "--no-bench")[0] == ["bundle"]
    assert "timings/bench.json" not in entries(folder / "best.tar.zst")


@pytest.mark.slow
def test_an_option_of_the_engine_is_for_all_after_it(again):
    assert again("--golden", 2)[0] == ["engine", "verify", "bench", "bundle"]


@pytest.mark.slow
def test_noise_keeps_images_at_home(again, tmp_path):
    made, _ = again("--noise", "--no-bench")
    assert made == ["engine", "verify", "bundle"]
    found = entries(tmp_path / "shipped" / "best.tar.zst")
    sources = [
        json.loads(found[name])["golden"]["source"] for name in found if name.endswith((".onnx.json", "engine.json"))
    ]
    assert sources
    assert all("noise" in source for source in sources)


@pytest.mark.slow
def test_a_file_that_was_damaged_is_made_again(again, tmp_path):
    path = tmp_path / "shipped" / "best.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert again()[0] == ["onnx"], "the export gives the same file, and so all others stay"
    assert path.read_bytes() == data


def test_one_that_fails_does_not_stop_the_others(shipped, trained, pictures, tmp_path, run_cli):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.pt").write_bytes(b"no checkpoint")
    shutil.copy(trained.parent / "best.pt", tmp_path / "in")
    shutil.copytree(shipped, tmp_path / "out" / "best")
    line = ("ship", tmp_path / "in", "--data", pictures, "-o", tmp_path / "out", *QUICK)
    code, out, err = run_cli(*line)
    assert code == 1
    assert "1 of 2 checkpoints failed:\n  broken, onnx:" in err
    assert "failed at onnx" in out
    assert "best.tar.zst" in out
    value = json.loads(run_cli(*line, "--json")[1])
    assert (value["exit_code"], "broken" in value["error"]) == (1, True)


def test_a_bound_that_is_missed_is_exit_3_with_the_report(again, tmp_path, trained, pictures, run_cli, monkeypatch):
    from hemf_export.verification import text as verification_text

    monkeypatch.setattr(verification_text, "missed", lambda values, **_: ["best.fp16.onnx: too much"])
    folder = tmp_path / "shipped"
    for name in ("best.verify.json", "best.verify.html", "best.tar.zst"):
        (folder / name).unlink()
    code, out, err = run_cli("ship", trained.parent / "best.pt", "--data", pictures, "-o", folder, *QUICK)
    assert code == 3
    assert "best.fp16.onnx: too much" in err
    assert "failed at verify" in out
    assert (folder / "best.verify.html").is_file()
    assert not (folder / "best.tar.zst").exists()


@pytest.mark.extended
@pytest.mark.parametrize(
    ("wrong", "code", "failed_at"), [("ort-cpu, best.onnx", 1, "bundle"), ("ort-cpu, best.fp16.onnx", 3, "bench")]
)
def test_only_what_is_shipped_fails_for_wrong_logits(
    again, tmp_path, trained, pictures, run_cli, monkeypatch, wrong, code, failed_at
):
    """The float32 file is there for comparison. What comes after the benchmark is stopped, to be quick."""

    def stop(*_: object) -> None:
        raise HemfError("stopped")

    monkeypatch.setattr("hemf_export.shipping.steps.bundle", stop)
    spoil(monkeypatch, wrong, 100.0)
    folder = tmp_path / "shipped"
    (folder / "best.bench.json").unlink()
    found, out, err = run_cli("ship", trained.parent / "best.pt", "--data", pictures, "-o", folder, *QUICK)
    assert found == code, err
    assert f"failed at {failed_at}" in out
    assert f"{wrong} at batch 1" in err
    assert ("only there for comparison" in err) == (failed_at == "bundle")


@pytest.mark.extended
@kills.posix
def test_killed_while_it_packs_it_goes_on(again, tmp_path, trained, pictures, run_cli):
    folder = tmp_path / "shipped"
    (folder / "best.tar.zst").unlink()
    before = contents(folder)
    _kill(trained, pictures, folder, once=".best.tar.zst.*.tmp")
    assert contents(folder) != before, "what it had begun lies there"
    assert again()[0] == ["bundle"]
    assert contents(folder).keys() == before.keys() | {"best.tar.zst"}
    assert run_cli("self-test", folder / "best.tar.zst")[0] == 0


@pytest.mark.slow
@kills.posix
def test_killed_early_it_goes_on(trained, pictures, tmp_path, run_cli):
    folder = tmp_path / "shipped"
    _kill(trained, pictures, folder, once="best.fp16.onnx")
    code, _, err = run_cli("ship", trained.parent / "best.pt", "--data", pictures, "-o", folder, *QUICK)
    assert code == 0, err
    assert "onnx: as before" in err
    assert run_cli("self-test", folder / "best.tar.zst")[0] == 0


def _kill(trained: Path, pictures: Path, folder: Path, *, once: str) -> None:
    """Run the line in a process of its own, which is killed soon after a file is there."""
    line = ["ship", trained.parent / "best.pt", "--data", pictures, "-o", folder, *QUICK]
    kills.killed(kills.program(line, folder, once=once, kill_at=2))


def test_an_interruption_stops_all_of_it(trained, pictures, tmp_path, run_cli, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hemf_export.shipping.steps.onnx", stop)
    line = ("ship", trained.parent / "best.pt", "--data", pictures, "-o", tmp_path / "out", *QUICK)
    assert run_cli(*line)[0] == 130


def test_a_folder_of_something_else_is_left_alone(trained, pictures, tmp_path, run_cli):
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run_cli("ship", trained.parent / "best.pt", "--data", pictures, "-o", tmp_path)
    assert (code, contents(tmp_path).keys()) == (1, {"mine.txt"})
    assert "ship.json" in err


def test_a_source_size_without_raw_pixels_is_refused_before_any_work(trained, pictures, tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["ship", trained.parent / "best.pt", "--data", pictures, "-o", "out", "--source-size", "8x8"]
    code, _, err = run_cli(*line)
    assert (code, "raw pixels" in err) == (2, True), err
    assert not Path("out").exists()


def test_each_option_has_its_flag_and_default():
    flags = {parameter.name: parameter.default for parameter in command.params}
    assert {field.name: flags.get(field.name) for field in dataclasses.fields(Options)} == dataclasses.asdict(Options())


def test_a_file_of_options_and_flags_that_win(tmp_path):
    (tmp_path / "ship.toml").write_text('target = "l4"\nmax_drop = 1\nbench = false\n')
    found = Options.read(tmp_path / "ship.toml", {"max_drop": 2.0})
    assert (found.target, found.max_drop, found.bench, found.golden) == ("l4", 2.0, False, 4)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("max_dorp = 1", 2, "unknown key 'max_dorp'. \n  Did you mean 'max_drop'?"),
        ("zzz = 1", 2, "Known: backend, batch, bench"),
        ("max_drop = 'much'", 2, "max_drop must be a number"),
        ("bench = 1", 2, "bench must be true or false"),
        ("[table]\nx = 1", 2, "unknown key 'table'"),
        ("precision = 'int4'", 2, "precision has no 'int4'"),
        ("= 1", 1, "is not a TOML file"),
    ],
)
def test_a_file_of_options_that_is_wrong(text, code, said, tmp_path, run_cli):
    (tmp_path / "ship.toml").write_text(text)
    found, _, err = run_cli("ship", "x.pt", "--data", "d", "-o", tmp_path / "o", "--config", tmp_path / "ship.toml")
    assert found == code
    assert said.replace(" \n", "\n") in err
    assert run_cli("ship", "x.pt", "--data", "d", "-o", tmp_path / "o", "--config", tmp_path / "none.toml")[0] == 1


def test_which_checkpoints_of_a_folder(tmp_path):
    for name in ("a/best.pt", "a/last.pt", "b/c/best.pt", "b/metrics.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = shipment.find(tmp_path, Path("out"))
    assert [(one.name, one.folder) for one in found] == [("a", Path("out/a")), ("b-c", Path("out/b-c"))]
    (tmp_path / "m.safetensors").touch()
    (tmp_path / "last.pt").touch()
    assert [one.name for one in shipment.find(tmp_path, Path("out"))] == ["m"]
    (tmp_path / "m.pt").touch()
    with pytest.raises(Exception, match="Two checkpoints would be called m"):
        shipment.find(tmp_path, Path("out"))
    with pytest.raises(Exception, match="No checkpoint lies in"):
        shipment.find(tmp_path / "b" / "c" / "none", Path("out")) if (tmp_path / "b/c/none").mkdir() is None else None


def test_the_digest_of_a_folder_is_of_names_and_contents(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.png").write_bytes(b"1")
    first = records.folder_digest(tmp_path)
    os.utime(tmp_path / "train" / "a.png", (1, 1))
    (tmp_path / ".DS_Store").touch()
    assert records.folder_digest(tmp_path) == first
    (tmp_path / "train" / "a.png").write_bytes(b"2")
    second = records.folder_digest(tmp_path)
    (tmp_path / "train" / "a.png").rename(tmp_path / "train" / "b.png")
    assert len({first, second, records.folder_digest(tmp_path)}) == 3


def test_records_that_are_none(tmp_path, trained, pictures, run_cli):
    for text in ("", "[]", '{"ship": 2, "steps": {}}', '{"ship": 1}', '{"ship": 1, "steps": {"onnx": {}}}'):
        (tmp_path / "ship.json").write_text(text)
        code, _, err = run_cli("ship", trained.parent / "best.pt", "--data", pictures, "-o", tmp_path)
        assert code == 1
        assert "Remove it" in err


def test_a_step_of_other_versions_is_done_again(monkeypatch):
    first = records.key("onnx", {"a": 1})
    assert first == records.key("onnx", {"a": 1})
    assert first != records.key("precision", {"a": 1})
    monkeypatch.setattr(artifacts, "versions", lambda: {"torch": "9"})
    assert first != records.key("onnx", {"a": 1})


def test_files_that_are_not_made_any_more_are_removed(tmp_path):
    found = records.Records(tmp_path)
    for name in ("a.int8.onnx", "a.fp16.onnx", "mine.txt"):
        (tmp_path / name).touch()
    found.keep("precision", "1", [tmp_path / "a.int8.onnx"], {})
    found.keep("precision", "2", [tmp_path / "a.fp16.onnx"], {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.fp16.onnx", "mine.txt", "ship.json"}
    assert records.Records(tmp_path).find("precision", "2") is not None
    assert records.Records(tmp_path).find("precision", "1") is None


def test_engines_of_this_machine_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HEMF_EXPORT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "from").mkdir()
    engine = tmp_path / "from" / "a.engine"
    engine.write_bytes(b"plan")
    artifacts.write_manifest(engine, {"kind": "engine"})
    (tmp_path / "from" / "a.engine.golden").write_bytes(b"pixels")
    files = [engine, artifacts.manifest_path(engine), tmp_path / "from" / "a.engine.golden"]
    assert records.take_engine("k", tmp_path) is None
    for number in range(records.ENGINES_KEPT + 2):
        records.keep_engine(f"k{number}", files)
        os.utime(records._engine_place(f"k{number}"), (number, number))
    (tmp_path / "to").mkdir()
    taken = records.take_engine("k9", tmp_path / "to")
    assert taken is not None
    assert taken[0].name == "a.engine"
    assert contents(tmp_path / "to") == contents(tmp_path / "from")
    assert records.take_engine("k0", tmp_path) is None, "the oldest went"
    place = records._engine_place("k9") / "a.engine"
    place.write_bytes(b"other")
    assert records.take_engine("k9", tmp_path / "to") is None
    assert not place.exists(), "a damaged one is removed"
