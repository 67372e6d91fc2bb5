"""What a file is, is told by its content, for every command alike: names are only believed of damaged files."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors

from hemf_export.checkpoints import checkpoint
from hemf_export.export import onnx_export
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError
from hemf_export.models.file_kinds import kind_of, stem
from hemf_export.models.model_file import CheckpointFile, ModelFile, OnnxFile
from tests.conftest import CLASSES, TINY, tiny_checkpoint
from tests.engines.test_preflight import engine

NAMES = {
    "checkpoint": ["best.ckpt", "pytorch_model.bin", "model.pth.tar", "BEST.PT", "weights", "strange.onnx"],
    "onnx": ["BEST.ONNX", "model", "model.onnx.bak", "strange.engine"],
    "engine": ["BEST.ENGINE", "model.trt.1", "Best.Plan"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names])
def test_a_model_is_known_under_any_name(made, tmp_path: Path, kind, name):
    source = engine(tmp_path) if kind == "engine" else made.checkpoint if kind == "checkpoint" else made.onnx
    assert kind_of(Path(shutil.copy(source, tmp_path / name))) == kind


@pytest.mark.parametrize("name", ["m.safetensors", "m.bin", "m.pt", "m"])
def test_safetensors_are_read_under_any_name(tmp_path: Path, name):
    path = tmp_path / name
    path.write_bytes(
        to_safetensors({key: value.contiguous() for key, value in tiny_checkpoint(config=TINY).state.items()})
    )
    assert kind_of(path) == "checkpoint"
    assert checkpoint.load(path, classes=CLASSES).classes == CLASSES


@pytest.mark.parametrize("old", [False, True])
def test_pickles_of_both_kinds_of_torch(tmp_path: Path, old):
    path = tmp_path / "m"
    torch.save({"net": tiny_checkpoint(config=TINY).state}, path, _use_new_zipfile_serialization=not old)
    assert kind_of(path) == "checkpoint"
    path.write_bytes(path.read_bytes()[:3000])
    assert kind_of(path) == "checkpoint", "cut short it still is one, and is told to be damaged"


def test_an_onnx_file_that_is_cut_short_is_one(made, tmp_path: Path):
    path = tmp_path / "m.bin"
    path.write_bytes(made.onnx.read_bytes()[:5000])
    assert kind_of(path) == "onnx"
    with pytest.raises(BadInputError, match="not a whole ONNX file"):
        ModelFile.open(path).predictor()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("m.engine", "engine"),
        ("M.TRT", "engine"),
        ("m.ONNX", "onnx"),
        ("m.Pth", "checkpoint"),
        ("m.pth.TAR", "checkpoint"),
    ],
)
def test_of_bytes_that_tell_nothing_the_name_is_believed(tmp_path: Path, name, kind):
    for data in (b"", b"x" * 64, b"\0" * 64, bytes(range(256))):
        (tmp_path / name).write_bytes(data)
        assert kind_of(tmp_path / name) == kind


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_file_is_hashed_once(made, tmp_path: Path, monkeypatch, kind):
    path = Path(shutil.copy(getattr(made, kind), tmp_path))
    artifacts.write_manifest(path, {"kind": kind})
    file, hashed, sha256 = ModelFile.open(path), [], artifacts.sha256
    monkeypatch.setattr(artifacts, "sha256", lambda path: hashed.append(path) or sha256(path))
    assert file.manifest is not None
    assert file.manifest["sha256"] == file.sha256 == file.content_sha256
    assert file.read_as(classes=CLASSES).sha256 == file.sha256
    assert hashed == [path]


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_what_a_file_says_of_itself_is_read_once(made, monkeypatch, kind):
    path = getattr(made, kind)
    file = ModelFile.open(path)
    assert file.description.classes == file.predictor().description.classes == CLASSES
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read again"))
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("it was loaded again"))
    assert file.description.checkpoint_sha256 == artifacts.sha256(made.checkpoint)
    assert file.description.precision == "fp32"


def test_other_classes_than_a_file_has_are_refused_by_every_kind(made):
    for path in (made.checkpoint, made.onnx, made.half):
        with pytest.raises(BadInputError, match=r"has the classes .*, not a, b, c\."):
            ModelFile.open(path, classes=("a", "b", "c")).predictor()


def test_the_kind_that_is_opened_is_the_one_that_was_asked_for(made, tmp_path: Path):
    assert ModelFile.open(made.onnx) == OnnxFile.open(made.onnx)
    with pytest.raises(BadInputError, match="is an ONNX file, not a checkpoint"):
        CheckpointFile.open(made.onnx)
    with pytest.raises(BadInputError, match="No ONNX file at"):
        OnnxFile.open(tmp_path / "nothing.pt")


def others(folder: Path) -> dict[str, Path]:
    """Files that are no model, and of what is said of them."""
    for kind in ("png", "jpeg", "tiff", "bmp", "webp"):
        Image.new("RGB", (8, 8)).save(folder / f"picture.{kind}")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("images/a.txt", "a")
    files = {
        "a JSON file": ("best.onnx.json", b'{"manifest": 1}'),
        "an HDF5 file": ("model.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64),
        "an archive (zstd)": ("best.tar.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 64),
        "a TensorFlow Lite file": ("model.tflite", b"\x1c\0\0\0TFL3" + b"\0" * 64),
        "empty": ("model", b""),
    }
    for name, data in files.values():
        (folder / name).write_bytes(data)
    titles = {"png": "a PNG", "jpeg": "a JPEG", "tiff": "a TIFF", "bmp": "a BMP", "webp": "a WebP"}
    found = {f"{title} image": folder / f"picture.{kind}" for kind, title in titles.items()}
    return {
        **found,
        "a zip archive": folder / "images.zip",
        **{what: folder / name for what, (name, _) in files.items()},
    }


def test_what_is_no_model_is_refused_for_what_it_is(tmp_path: Path):
    for what, path in others(tmp_path).items():
        with pytest.raises(BadInputError) as caught:
            kind_of(path)
        assert f"{path} is not a checkpoint, an ONNX file or an engine" in caught.value.message
        assert f"it is {what}" in caught.value.message
    picture = tmp_path / "picture.engine"
    Image.new("RGB", (8, 8)).save(picture, "png")
    with pytest.raises(BadInputError, match="it is a PNG image"):
        kind_of(picture)
    with pytest.raises(BadInputError, match="is a folder"):
        kind_of(tmp_path)
    with pytest.raises(BadInputError, match="No engine at"):
        kind_of(tmp_path / "None.Engine")


COMMANDS = [
    "inspect", "predict IMAGE", "evaluate --data DATA -o OUT", "explain IMAGE -o OUT", "bench", "triton -o OUT",
    "trt --fp16", "onnx -o OUT.onnx", "info", "ship --data DATA -o OUT", "verify --data DATA", "finetune --data DATA",
    "calibrate --precision fp16 --images DATA",
]  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_says_the_same_of_a_picture(tmp_path: Path, image_data, run_cli, monkeypatch, line):
    monkeypatch.setattr("hemf_export.engines.backends.choose", lambda *_: "tensorrt")
    monkeypatch.setattr("hemf_export.engines.backends.load", lambda *_: None)
    picture = tmp_path / "best.onnx"
    Image.new("RGB", (8, 8)).save(picture, "jpeg")
    places = {"IMAGE": picture, "DATA": image_data, "OUT": tmp_path / "out", "OUT.onnx": tmp_path / "out.onnx"}
    command, *words = line.split()
    code, _, err = run_cli(command, picture, *(places.get(word, word) for word in words))
    assert code == 1, err
    assert "it is a JPEG image" in err


@pytest.mark.parametrize("words", [("onnx", "-o", "OUT.onnx"), ("info",), ("ship", "--data", "DATA", "-o", "OUT")])
def test_an_onnx_file_where_a_checkpoint_belongs_is_told_as_one(made, tmp_path: Path, image_data, run_cli, words):
    path = Path(shutil.copy(made.onnx, tmp_path / "best.pt"))
    places = {"DATA": image_data, "OUT": tmp_path / "out", "OUT.onnx": tmp_path / "out.onnx"}
    code, _, err = run_cli(words[0], path, *(places.get(word, word) for word in words[1:]))
    assert code == 1
    assert f"{path} is an ONNX file, not a checkpoint" in err


def test_files_with_the_names_of_other_programs_are_found_in_a_folder(made, tmp_path: Path):
    shutil.copy(made.checkpoint, tmp_path / "pytorch_model.bin")
    shutil.copy(made.onnx, tmp_path / "BEST.ONNX")
    assert [file.name for file in CheckpointFile.all_in(tmp_path)] == ["pytorch_model.bin"]
    assert [file.name for file in OnnxFile.all_in(tmp_path)] == ["BEST.ONNX"]
    assert [file.kind for file in ModelFile.all_in(tmp_path)] == ["onnx", "checkpoint"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best.pt", "best"), ("model.pth.tar", "model"), ("epoch=3-step=120.ckpt", "epoch=3-step=120"),
        ("BEST.ONNX", "BEST"),
        ("best.fp16.onnx", "best.fp16"), ("v1.2", "v1.2"), ("pytorch_model.bin", "pytorch_model"), (".pt", ".pt"),
    ],
)  # fmt: skip
def test_names_of_what_is_made_leave_out_what_the_file_was(name, expected):
    assert stem(Path(name)) == expected


def test_the_default_output_takes_no_name_that_is_not_ours(made, tmp_path: Path, run_cli):
    source = Path(shutil.copy(made.checkpoint, tmp_path / "model.pth.tar"))
    assert onnx_export.default_output(source) == tmp_path / "model.onnx"
    shutil.copy(made.onnx, tmp_path / "model.onnx")
    assert onnx_export.default_output(source) == tmp_path / "model.onnx", "an earlier one of ours is replaced"
    (tmp_path / "model.onnx").write_bytes(b"a thesis")
    code, out, err = run_cli("onnx", source, "--json")
    assert (code, json.loads(out)["exit_code"]) == (1, 1)
    assert "hemf-export didn't write it" in err
    assert (tmp_path / "model.onnx").read_bytes() == b"a thesis"
    named = Path(shutil.copy(made.checkpoint, tmp_path / "wrong.onnx"))
    assert run_cli("onnx", named)[0] == 1, "never onto the input"
    assert artifacts.sha256(named) == artifacts.sha256(made.checkpoint)
