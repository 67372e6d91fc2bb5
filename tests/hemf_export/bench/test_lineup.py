"""Who takes part in a benchmark, by machine, and why the others don't."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest
from PIL import Image

from hemf_export.bench.lineup import KINDS, ORT_KINDS, Entry, gather, parse_kinds
from hemf_export.checkpoints import checkpoint
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.models import onnx_model
from hemf_export.models.model_file import ModelFile
from tests.conftest import tiny_checkpoint


def names(files, *, gpu: bool, kinds=None, transfers="in", folder=Path()) -> tuple[list[str], dict[str, str]]:
    found = gather(files, folder, kinds=kinds, transfers=transfers, gpu=gpu)
    return [entry.name for entry in found.entries], {missing.name: missing.reason for missing in found.not_run}


@pytest.fixture
def engine(made, tmp_path) -> Path:
    """A file that its manifest calls an engine of the same checkpoint."""
    path = tmp_path / "model.t4.engine"
    artifacts.write_bytes(path, b"a plan")
    artifacts.write_manifest(path, ModelFile.open(made.half).description.to_dict())
    return path


def test_a_cpu_runs_what_gains_there_and_the_rest_is_listed_with_the_reason(made, engine):
    found, missing = names([made.checkpoint, made.onnx, engine], gpu=False)
    assert found == ["eager, model.pt", "channels-last, model.pt", "ort-cpu, model.onnx"]
    assert (
        missing["ort-cuda, model.onnx"]
        == missing["engine, model.t4.engine"]
        == "needs an NVIDIA GPU that PyTorch can use"
    )
    assert "bfloat16" in missing["amp, model.pt"]
    assert "only where it is asked for" in missing["compile, model.pt"]
    assert {name.split(",")[0] for name in (*found, *missing)} == set(KINDS), "nothing is silently dropped"


def test_a_gpu_runs_all_that_may_be_shipped_and_both_transfers_where_asked(made, engine):
    found, missing = names([made.checkpoint, made.onnx, engine], gpu=True)
    assert {name.split(",")[0] for name in found} == set(KINDS) - {"ort-tensorrt"}
    assert missing == {
        "ort-tensorrt, model.onnx": "builds an engine of its own, which nothing ships: timed only where it is asked for"
    }
    asked, missing = names([made.onnx], gpu=True, kinds=("ort-tensorrt",))
    assert (asked, missing) == (["ort-tensorrt, model.onnx"], {})
    both, _ = names([engine], gpu=True, transfers="both", kinds=("engine",))
    assert both == ["engine, model.t4.engine", "engine, model.t4.engine, on the GPU"]


def test_what_is_asked_for_runs_on_a_cpu_too(made):
    found = gather([made.checkpoint], Path(), kinds=("amp", "compile"), transfers="in", gpu=False)
    assert [(entry.kind, entry.precision, entry.transfers) for entry in found.entries] == [
        ("amp", "bf16", None), ("compile", "fp32", None),
    ]  # fmt: skip
    on_gpu = gather([made.checkpoint], Path(), kinds=("amp",), transfers="in", gpu=True)
    assert [(entry.precision, entry.device) for entry in on_gpu.entries] == [("fp16", "cuda")]


def test_a_file_for_a_cpu_does_not_run_on_a_gpu(made, tmp_path):
    model, path = ir.load(made.onnx), tmp_path / "model.int8-cpu.onnx"
    onnx_model.describe(model, dataclasses.replace(ModelFile.open(made.onnx).description, precision="int8-cpu"))
    ir.save(model, path)
    found, missing = names([path], gpu=True, kinds=ORT_KINDS)
    assert found == ["ort-cpu, model.int8-cpu.onnx"]
    assert set(missing.values()) == {"the file is for a CPU"}


def test_a_file_named_twice_runs_twice(made):
    found, _ = names([made.onnx, made.onnx], gpu=False, kinds=("ort-cpu",))
    assert found == ["ort-cpu, model.onnx", "ort-cpu, model.onnx (2)"]
    found, _ = names([made.checkpoint, made.checkpoint], gpu=False, kinds=("eager",))
    assert found == ["eager, model.pt", "eager, model.pt (2)"]


def test_the_folder_gives_engines_too(made, engine):
    shutil.copy(made.onnx, engine.parent)
    found, missing = names([], gpu=False, folder=engine.parent)
    assert found == ["ort-cpu, model.onnx"]
    assert "engine, model.t4.engine" in missing


def test_an_engine_that_was_changed_or_lost_its_manifest_is_refused(made, engine):
    artifacts.write_bytes(engine, b"another plan")
    with pytest.raises(BadInputError, match="is not the file"):
        names([engine], gpu=True)
    artifacts.manifest_path(engine).unlink()
    with pytest.raises(BadInputError, match="no manifest"):
        names([engine], gpu=True)


def test_files_of_two_models_are_not_compared(made, tmp_path):
    checkpoint.save(tiny_checkpoint(seed=1), tmp_path / "other.pt")
    with pytest.raises(BadInputError, match="2 different checkpoints"):
        names([tmp_path / "other.pt", made.onnx], gpu=False)


def test_what_is_no_model_is_refused_by_its_content(made, tmp_path):
    picture = tmp_path / "picture.onnx"
    Image.new("RGB", (8, 8)).save(picture, "png")
    with pytest.raises(BadInputError, match="not a checkpoint, an ONNX file or an engine: it is a PNG image"):
        names([picture, made.onnx], gpu=False)


def test_runners_are_parsed_and_a_wrong_name_gets_the_nearest():
    assert parse_kinds("ort-cpu, eager") == ("eager", "ort-cpu")
    assert parse_kinds(None) is None
    with pytest.raises(UsageError, match="Did you mean 'ort-cuda'"):
        parse_kinds("eager,ort-cda")


def test_an_entry_survives_the_way_to_a_child_process(made):
    (entry,) = gather([made.onnx], Path(), kinds=("ort-cpu",), transfers="in", gpu=False).entries
    assert Entry.from_dict(entry.to_dict()) == entry
