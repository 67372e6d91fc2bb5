"""`triton --check`: a repository that was broken in one place is refused, and the message names that place."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemf_export.files.errors import HemfError
from hemf_export.triton import repository
from hemf_export.triton.options import Options
from tests.hemf_export.triton.models import means, plan


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an engine, an engine of a fixed batch, an ONNX file and a Python model."""
    folder = tmp_path_factory.mktemp("sound")
    repo = folder / "repo"
    repository.write([plan(folder / "engine.plan"), plan(folder / "fixed.plan", profiles=("4",))], repo, Options())
    repository.write([plan(folder / "many.plan", profiles=("1:1:1", "2:8:16"))], repo, Options())
    repository.write([means(folder / "onnx.onnx")], repo, Options())
    repository.write([means(folder / "python.onnx")], repo, Options(backend="python"))
    rtx = plan(folder / "rtx.plan", flavour="tensorrt-rtx")
    repository.write([rtx], repo, Options(backend="python"))
    return repo


@pytest.fixture
def repo(sound: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(sound, tmp_path / "repo"))


def swap(old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    """Change the text of a config.pbtxt."""

    def change(folder: Path) -> None:
        path = folder / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return change


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def flip(name: str) -> Callable[[Path], None]:
    """Change a byte."""

    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)

    return change


def move(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("other"))


BROKEN = {
    "batch over the profile": (
        "engine",
        swap("max_batch_size: 16", "max_batch_size: 64"),
        "max_batch_size 64 is over what model.plan takes: profile 1:4:16",
    ),
    "no batch": (
        "engine",
        swap("max_batch_size: 16", ""),
        "max_batch_size is 0, though model.plan takes several sizes",
    ),
    "batch of a fixed file": (
        "fixed",
        swap('name: "fixed"', 'name: "fixed"\nmax_batch_size: 4'),
        "model.plan has the fixed batch 4: it must be 0",
    ),
    "negative batch": ("engine", swap("max_batch_size: 16", "max_batch_size: -1"), "max_batch_size is -1"),
    "input dims": ("engine", swap("dims: 8", "dims: 9"), "the input has the dims [3, 9, 8], in the model [3, 8, 8]"),
    "output dims": (
        "onnx",
        swap("  dims: 3\n  label", "  dims: 4\n  label"),
        "the output has the dims [4], in the model [3]",
    ),
    "dims of a fixed batch": (
        "fixed",
        swap("dims: 4", "dims: 2"),
        "the input has the dims [2, 3, 8, 8], in the model [4, 3, 8, 8]",
    ),
    "input type": ("engine", swap("TYPE_FP32", "TYPE_UINT8"), "the input is TYPE_UINT8, in the model TYPE_FP32"),
    "output type": (
        "onnx",
        swap('name: "logits"\n  data_type: TYPE_FP32', 'name: "logits"\n  data_type: TYPE_FP16'),
        "the output is TYPE_FP16, in the model TYPE_FP32",
    ),
    "input name": (
        "onnx",
        swap('name: "images"', 'name: "image"'),
        "the input is called 'image', in the model 'images'",
    ),
    "output name": (
        "engine",
        swap('name: "logits"', 'name: "output"'),
        "the output is called 'output', in the model 'logits'",
    ),
    "label file gone": (
        "engine",
        drop("labels.txt"),
        "the label file labels.txt can't be read: No such file or directory",
    ),
    "labels too few": ("onnx", write("labels.txt", "bright\ndark\n"), "labels.txt has 2 labels, the model 3 classes"),
    "labels in another order": (
        "onnx",
        write("labels.txt", "dark\nbright\nstriped\n"),
        "the model's classes are bright, dark, striped",
    ),
    "warm-up elsewhere": (
        "onnx",
        swap('input_data_file: "warmup_0"', 'input_data_file: "../labels.txt"'),
        "reads '../labels.txt', which is not in warmup/",
    ),
    "label file elsewhere": ("onnx", swap("labels.txt", "../engine/labels.txt"), "is not in the model's folder"),
    "model bytes": ("engine", flip("1/model.plan"), "is not the file that model.plan.json describes"),
    "ONNX bytes": ("python", flip("1/model.onnx"), "is not the file that model.onnx.json describes"),
    "manifest gone": ("engine", drop("1/model.plan.json"), "has no manifest"),
    "version gone": (
        "engine",
        lambda folder: shutil.rmtree(folder / "1"),
        "version 1 has no folder, though its hash is in the parameters",
    ),
    "version that nothing describes": ("engine", move("1", "2"), "version 2 is not described in the parameters"),
    "policy without a version": (
        "engine",
        swap("latest {\n    num_versions: 1\n  }", "specific {\n    versions: 7\n  }"),
        "version 7 has no folder, though the version policy asks for it",
    ),
    "backend of another flavour": (
        "rtx",
        swap('backend: "python"', 'backend: "tensorrt"'),
        "is an engine of TensorRT-RTX, which the tensorrt backend doesn't take",
    ),
    "backend of another kind": (
        "engine",
        swap('backend: "tensorrt"', 'backend: "onnxruntime"'),
        "is a TensorRT plan, which the onnxruntime backend doesn't take",
    ),
    "unknown backend": (
        "onnx",
        swap('backend: "onnxruntime"', 'backend: "pytorch"'),
        "the backend is 'pytorch', which is none of tensorrt, onnxruntime, python",
    ),
    "preferred over the largest": (
        "engine",
        swap("preferred_batch_size: 4", "preferred_batch_size: 32"),
        "the preferred batch size 32 is not 1 to max_batch_size 16",
    ),
    "warm-up gone": ("engine", drop("warmup/warmup_0"), "warm-up 'batch-1' reads 'warmup_0', which is not in warmup/"),
    "warm-up cut": ("onnx", write("warmup/warmup_0", "x"), "warmup/warmup_0 has 1 bytes, its shape needs 768"),
    "warm-up batch": (
        "engine",
        swap("batch_size: 4\n  inputs", "batch_size: 99\n  inputs"),
        "has the batch size 99, outside 1 to 16",
    ),
    "engine on a CPU": ("engine", swap("KIND_GPU", "KIND_CPU"), "an engine can't run on KIND_CPU"),
    "profile not named": ("many", swap('  profile: "0"\n', ""), "optimization profile 0 is not named"),
    "profile that isn't there": (
        "many",
        swap('profile: "1"', 'profile: "5"'),
        "the engine has no optimization profile 5",
    ),
    "hash in the parameters": (
        "onnx",
        lambda folder: swap("checkpoint_sha256.1", "checkpoint_sha256.9")(folder),
        "the parameter checkpoint_sha256.1 is None",
    ),
    "description": (
        "onnx",
        swap('\\"size\\": 8', '\\"size\\": 9'),
        "the parameter hemf.1 is not the description in its manifest",
    ),
    "program": ("python", flip("1/model.py"), "model.py or hemf_runner.py was changed"),
    "program gone": ("python", drop("1/hemf_runner.py"), "hemf_runner.py is missing"),
    "name": ("onnx", renamed, "it is called 'onnx', its folder 'other'"),
}


def test_the_whole_one_is_right(repo, run_cli):
    code, out, err = run_cli("triton", "--check", repo)
    assert code == 0, err
    assert re.search(r"^engine +tensorrt, versions 1, served 1 *$", out, re.MULTILINE)
    code, out, _ = run_cli("triton", "--check", repo, "--json")
    assert [model["name"] for model in json.loads(out)["models"]] == [
        "engine",
        "fixed",
        "many",
        "onnx",
        "python",
        "rtx",
    ]


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_in_one_place(repo, run_cli, broken):
    name, change, message = BROKEN[broken]
    change(repo / name)
    code, out, err = run_cli("triton", "--check", repo)
    assert code == 3, err
    assert out == ""
    assert message in err
    faults = [line for line in err.splitlines() if re.match(r"  (other|engine|fixed|many|onnx|python|rtx): ", line)]
    assert faults
    assert all(line.split(":")[0].strip() in (name, "other") for line in faults), "the others are right"


def test_every_fault_is_named_at_once(repo, run_cli):
    for name, change, _ in (BROKEN["batch over the profile"], BROKEN["labels too few"], BROKEN["program"]):
        change(repo / name)
    code, out, err = run_cli("triton", "--check", repo, "--json")
    assert code == 3
    value = json.loads(out)
    assert set(value["faults"]) == {"engine", "onnx", "python"}
    assert all(fault in err for faults in value["faults"].values() for fault in faults)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_batch_size", "max_batch", "ModelConfig has no key 'max_batch'. Did you mean 'max_batch_size'?"),
        ("preferred_batch_size", "prefered_batch_sizes", "Did you mean 'preferred_batch_size'?"),
    ],
)
def test_an_unknown_key_is_exit_2_with_the_nearest_one(repo, run_cli, old, new, message):
    swap(old, new)(repo / "engine")
    code, _, err = run_cli("triton", "--check", repo)
    assert code == 2
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    "text", ["max_batch_size: many", "max_batch_size: 99999999999", "name: ", "{", "\x00", 'name: "a" name: "b"']
)
def test_what_is_no_configuration(repo, run_cli, text):
    (repo / "engine" / "config.pbtxt").write_text(text)
    code, _, err = run_cli("triton", "--check", repo)
    assert code == 1
    assert "is not a configuration of Triton" in err


def test_bytes_that_are_no_text(repo, run_cli):
    (repo / "engine" / "config.pbtxt").write_bytes(b"\xff\xfe")
    code, _, err = run_cli("triton", "--check", repo)
    assert code == 1
    assert "can't be read" in err


@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_whatever_the_text_says_it_is_right_or_refused(repo, data):
    """Lines lost, doubled, moved, and values swapped for others: never an error of our own."""
    folder = repo / data.draw(st.sampled_from(["engine", "many", "onnx", "python"]))
    path, kept = folder / "config.pbtxt", (folder / "config.pbtxt").read_bytes()
    lines = kept.decode().splitlines()
    values = st.sampled_from(
        ["0", "-1", "7", "99999999999", '""', '"../x"', '"a\\000b"', "TYPE_INT64", "KIND_MODEL", "true"]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "double", "value", "swap"])):
            case "drop":
                del lines[index]
            case "double":
                lines.insert(index, lines[index])
            case "value":
                lines[index] = re.sub(r": .*", lambda _: f": {data.draw(values)}", lines[index])
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[index], lines[other] = lines[other], lines[index]
    path.write_text("\n".join(lines))
    try:
        with suppress(HemfError):
            repository.check(folder)
    finally:
        path.write_bytes(kept)


def test_where_no_repository_is(tmp_path, run_cli):
    assert run_cli("triton", "--check", tmp_path / "none")[0] == 1
    assert run_cli("triton", "--check", tmp_path)[0] == 1
