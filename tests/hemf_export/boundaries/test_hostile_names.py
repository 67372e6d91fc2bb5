"""What a file says is never a path: names of tensors, classes and files through the commands that write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hemf_export.bundles import archive
from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts, file_names
from hemf_export.files.errors import BadInputError
from hemf_export.networks.hemf.variants import vary
from hemf_export.shipping import records, shipment
from hemf_export.verification import run
from tests.conftest import CLASSES, TINY, tiny_checkpoint, write_class_folders, write_images
from tests.hemf_export.boundaries.hostile_files import NAMES, classifier
from tests.hemf_export.triton.models import means
from tests.hostile.conftest import contents, one_message

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'tritonclient[grpc,http]'")

LEGAL = (
    "my best model (v2)",
    "CON",
    "a:b",
    "modèle",
    "模型" * 30,
    "x" * 240,
    "new\nline",
    "\x1b[31mred",
    " ",
    "-rf",
)


@pytest.fixture
def within(run_cli, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a command that may write below `out` alone: what lies around it stays, byte for byte."""
    for name in ("victim.txt", "repo/victim.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a file of the user")
    (tmp_path / "repo" / "out").mkdir()

    def call(*arguments: object) -> tuple[int, str, str]:
        def around() -> dict[str, str]:
            return {name: what for name, what in contents(tmp_path).items() if not name.startswith("repo/out")}

        before, there = around(), Path("/tmp/victim.txt").exists()
        found = run_cli(*arguments)
        assert around() == before
        assert Path("/tmp/victim.txt").exists() == there
        assert found[0] in (0, 1, 2, 3), found
        assert "Traceback" not in found[2]
        for text in found[1:]:
            assert not any(ord(sign) < 32 and sign != "\n" for sign in text), "it would steer the terminal"
            assert not any("\x7f" <= sign <= "\x9f" or sign in "\u202e\u2028" for sign in text)
        return found

    return call


@pytest.mark.parametrize("name", NAMES)
def test_an_input_of_any_name_is_served(within, tmp_path, name):
    path = classifier(tmp_path / "m.onnx", tensor=NAMES[name])
    repo = tmp_path / "repo" / "out"
    assert within("triton", path, "-o", repo)[0] == 0
    assert within("triton", "--check", repo)[0] == 0
    assert sorted(str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file()) == [
        "m/1/model.onnx", "m/1/model.onnx.json", "m/config.pbtxt", "m/labels.txt", "m/warmup/warmup_0",
    ]  # fmt: skip
    second = classifier(tmp_path / "second.onnx", tensor=NAMES[name], producer="another")
    assert within("triton", second, "-o", repo, "--name", "m")[0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_names_that_a_file_says_are_shown_as_they_are_spelled(within, tmp_path, name):
    hostile = NAMES[name]
    path = classifier(tmp_path / "m.onnx", tensor=hostile, classes=(hostile, "b", "c"), producer=hostile)
    code, _, err = within("inspect", path)
    assert code == 0, err
    json.loads(within("inspect", path, "--json")[1])
    code, _, err = within("triton", path, "-o", tmp_path / "repo" / "out")
    assert code == (1 if name == "line breaks" else 0), err
    code, _, err = within("bundle", path, "-o", tmp_path / "repo" / "out" / "b.tar.zst", "--no-cpp", "--golden", 0)
    assert code == (1 if name == "line breaks" else 0), err


def test_a_class_name_in_markup_is_shown_literally(within, tmp_path):
    write_class_folders(tmp_path / "images", 1)
    path = classifier(tmp_path / "m.onnx", classes=("[red]a[/red]", ":skull:", "\x1b[31mc"))
    _, out, _ = within("predict", path, tmp_path / "images")
    assert "[red]a[/red]" in out
    assert ":skull:" in out
    assert "\\x1b[31mc" in out


@pytest.mark.parametrize("stem", LEGAL, ids=ascii)
def test_files_of_any_name_are_bundled_and_served_under_fit_ones(within, tmp_path, stem):
    path = tmp_path / f"{stem}.onnx"
    shutil.copy(means(tmp_path / "plain.onnx"), path)
    shutil.copy(artifacts.manifest_path(tmp_path / "plain.onnx"), artifacts.manifest_path(path))
    place = tmp_path / "repo" / "out"
    code, _, err = within("bundle", path, "-o", place / "b.tar.zst", "--no-cpp", "--golden", 1)
    assert code == 0, err
    (place / "unpacked").mkdir()
    found = archive.unpack(place / "b.tar.zst", place / "unpacked")
    assert all(file_names.is_plain(part) for name in found.members for part in name.split("/"))
    assert found.about["triton"] == [Path(found.about["models"][0]["file"]).stem]
    assert within("triton", path, "-o", place / "models")[0] == 0
    assert ("called" in err) == (file_names.fit(stem) != stem or len(stem) > 80)


def test_a_name_may_be_chosen_for_a_bundles_model(within, tmp_path):
    path, place = means(tmp_path / "m.onnx"), tmp_path / "repo" / "out"
    code, out, _ = within(
        "bundle", path, "-o", place / "b.tar.zst", "--no-cpp", "--golden", 0, "--name", "lung", "--json"
    )
    assert (code, json.loads(out)["triton"]) == (0, ["lung"])
    assert within("bundle", path, "-o", place / "c.tar.zst", "--name", "../x")[0] == 2
    assert within("bundle", path, "-o", place / "c.tar.zst", "--name", "lung", "--no-triton")[0] == 2


@pytest.mark.parametrize("stem", [stem for stem in LEGAL if stem != "\x1b[31mred"], ids=ascii)
def test_a_shipments_files_have_fit_names_whatever_the_checkpoint_is_called(tmp_path, stem):
    path = tmp_path / f"{stem}.pt"
    path.touch()
    (source,) = shipment.find(path, tmp_path / "out")
    assert source.name == file_names.fit(stem, longest=shipment.LONGEST_NAME)
    assert source.called == ("" if source.name == stem else stem)
    (chosen,) = shipment.find(path, tmp_path / "out", "lung.v2")
    assert (chosen.name, chosen.called) == ("lung.v2", "")


@pytest.mark.parametrize("name", [name for name in NAMES.values() if not file_names.is_plain(name)], ids=ascii)
def test_a_shipments_record_that_names_files_elsewhere_is_refused(tmp_path, name):
    for step in ({"files": {name: "a" * 64}, "facts": {}}, {"files": {}, "facts": {"graph": name}}):
        values = {"ship": records.FORMAT, "steps": {"onnx": {"key": "k", **step}}}
        artifacts.write_json(tmp_path / records.NAME, values)
        with pytest.raises(BadInputError, match=r"ship\.json can't be read"):
            records.Records(tmp_path)


def test_a_kept_engine_that_is_named_elsewhere_is_not_taken(tmp_path):
    place = artifacts.cache_folder() / "engines" / "key"
    place.mkdir(parents=True)
    (place / "engine.name").write_text("../../../m.onnx")
    means(tmp_path / "m.onnx")
    assert records.take_engine("key", tmp_path) is None


def test_a_manifest_cannot_name_a_parent_elsewhere(tmp_path):
    (tmp_path / "a").mkdir()
    elsewhere = means(tmp_path / "m.onnx")
    fields = {"parent": "../m.onnx", "parent_sha256": artifacts.sha256(elsewhere)}
    path = means(tmp_path / "a" / "half.onnx", **fields)
    assert run.plan_scrutiny([path]).parents == {}


@pytest.mark.skipif(os.name == "nt", reason="limits are POSIX's")
@pytest.mark.parametrize("limit", [2_000, 40_000])
def test_a_disk_that_is_full_under_bundle_is_exit_1_and_leaves_nothing(within, tmp_path, limit):
    import resource

    path, place = means(tmp_path / "m.onnx"), tmp_path / "repo" / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # the system's refusal to write more, and no stand-in
    try:
        code, _, err = within("bundle", path, "-o", place / "b.tar.zst")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert "Can't write" in one_message(err)
    assert list(place.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_through_every_command_that_writes(within, tmp_path, name):
    from tests.hemf_export.boundaries.foreign import foreign

    hostile, place = NAMES[name], tmp_path / "repo" / "out"
    data = write_class_folders(tmp_path / "images", 6)
    path = foreign(tmp_path / "m.onnx", hostile, CLASSES)
    half, small = place / "m.fp16.onnx", place / "m.int8.onnx"
    named = ("--images", data, "--classes", ",".join(CLASSES))
    assert within("calibrate", path, "--precision", "fp16", *named, "-o", half)[0] == 0
    eight = ("--precision", "int8", "--method", "max", "--sensitivity")
    assert within("calibrate", path, *eight, *named, "-o", small)[0] == 0
    within("verify", half, "--data", data, "--report", place / "v.html", "--markdown", place / "v.md", "--json")
    assert within("bench", half, "--seconds", 0.2, "--batch", 1, "--no-memory", "--report", place / "b.html",
                  "-o", place / "b.json", "--markdown", place / "b.md")[0] == 0  # fmt: skip
    assert within("predict", half, data)[0] == 0
    assert within("evaluate", half, "--data", data, "-o", place / "evaluation")[0] == 0
    assert within("triton", half, "-o", place / "repo")[0] == 0
    assert within("bundle", half, "-o", place / "b.tar.zst", "--no-cpp")[0] == 0
    assert within("self-test", place / "b.tar.zst", "--keep", place / "kept")[0] == 0
    within("trt", half, "-o", place / "m.engine", "--golden", 0)
    for page in place.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "\u202e" not in text
        assert "<script>alert" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_classes_of_a_checkpoint_through_every_command_that_writes(within, tmp_path, name):
    config, place = vary(TINY, "local-only"), tmp_path / "repo" / "out"
    path = tmp_path / "m.pt"
    checkpoint.save(tiny_checkpoint(config=config, classes=(NAMES[name], "dark", "striped")), path)
    write_images(tmp_path / "images", 2, "dark")
    assert within("info", path)[0] == 0
    assert within("explain", path, tmp_path / "images", "-o", place / "explained")[0] == 0
    assert within("onnx", path, "-o", place / "m.onnx")[0] == 0
    assert within("inspect", place / "m.onnx")[0] == 0
    assert within("predict", place / "m.onnx", tmp_path / "images")[0] == 0
    code = 1 if name == "line breaks" else 0  # a label is a line
    assert within("triton", place / "m.onnx", "-o", place / "repo")[0] == code
    assert within("bundle", place / "m.onnx", "-o", place / "b.tar.zst", "--no-cpp")[0] == code
    assert within("ship", path, "--data", tmp_path / "images", "-o", place / "shipped")[0] in (0, 1, 3)


@pytest.mark.parametrize("where", ["/proc/self/out", "/dev/null/out"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs folders that nobody can write into")
def test_a_folder_that_cannot_be_written_is_told_before_the_work(run_cli, tmp_path, where):
    write_images(tmp_path / "images", 1, "dark")
    for command in (["evaluate", "none.onnx", "--data"], ["explain", "none.pt"]):
        code, _, err = run_cli(*command, tmp_path / "images", "-o", where)
        assert code == 1
        assert "Can't write" in one_message(err)
        assert "none" not in err
