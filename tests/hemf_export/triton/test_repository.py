"""`hemf-export triton`: repositories as Triton's own protobuf reads them, new versions, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemf_export.files import artifacts
from hemf_export.files.errors import UsageError
from hemf_export.images.model_input import SourceSize
from hemf_export.triton import config_file, repository
from hemf_export.triton.options import Options, VersionPolicy
from tests.conftest import CLASSES
from tests.hemf_export.triton.models import SIDE, means, plan
from tests.hostile.conftest import contents, one_message


def config_of(folder: Path) -> Any:
    """config.pbtxt, by nothing but Triton's protobuf."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def kinds(config: Any) -> list[str]:
    from tritonclient.grpc import model_config_pb2

    return [model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) for group in config.instance_group]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("raw", [False, True])
def test_an_engine_with_a_profile(tmp_path, run_cli, precision, raw):
    from tritonclient.grpc import model_config_pb2

    engine = plan(tmp_path / "best.t4.engine", precision=precision, raw=raw)
    code, _, err = run_cli("triton", engine, "-o", tmp_path / "repo")
    assert code == 0, err
    folder = tmp_path / "repo" / "best.t4"
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("best.t4", "tensorrt", 16)
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert kinds(config) == ["KIND_GPU"]
    assert config.optimization.cuda.graphs
    assert config.version_policy.latest.num_versions == 1
    (images,), (logits,) = config.input, config.output
    dims = [SIDE, SIDE, 3] if raw else [3, SIDE, SIDE]
    kind = model_config_pb2.TYPE_UINT8 if raw else model_config_pb2.TYPE_FP32
    assert (images.name, images.data_type, list(images.dims)) == ("images", kind, dims)
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", model_config_pb2.TYPE_FP32, [3])
    assert (folder / logits.label_filename).read_text().splitlines() == list(CLASSES)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["sha256.1"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert (parameters["parent_sha256.1"], parameters["checkpoint_sha256.1"]) == ("a" * 64, "c" * 64)
    assert json.loads(parameters["hemf.1"])["preprocess"]["size"] == SIDE
    assert (folder / "1" / "model.plan").read_bytes() == engine.read_bytes()
    assert artifacts.read_manifest(folder / "1" / "model.plan") == artifacts.read_manifest(engine)
    assert {path.name for path in (folder / "1").iterdir()} == {
        "model.plan", "model.plan.json", "model.plan.golden"
    }  # fmt: skip
    assert "TensorRT 10.16.1.11" in err
    assert "perf_analyzer -m best.t4 -u localhost:8001 -i grpc --concurrency-range" in err
    assert f"next: tritonserver --model-repository {tmp_path / 'repo'}" in err
    assert run_cli("triton", "--check", tmp_path / "repo")[0] == 0


def test_warmed_up_with_the_engines_golden_image(tmp_path):
    engine = plan(tmp_path / "m.engine")
    made = repository.write([engine], tmp_path / "repo", Options()).models[0]
    config = config_of(made.folder)
    assert [(entry.name, entry.batch_size) for entry in config.model_warmup] == [("batch-1", 1), ("batch-4", 4)]
    pixels = np.frombuffer(Path(f"{engine}.golden").read_bytes(), np.uint8)[: SIDE * SIDE * 3]
    expected = (pixels.reshape(SIDE, SIDE, 3).transpose(2, 0, 1).astype(np.float64) / 255 - 0.5) / 0.5
    for entry in config.model_warmup:
        ((name, image),) = entry.inputs.items()
        found = np.frombuffer((made.folder / "warmup" / image.input_data_file).read_bytes(), np.float32)
        assert (name, list(image.dims)) == ("images", [3, SIDE, SIDE])
        np.testing.assert_allclose(found.reshape(3, SIDE, SIDE), expected, atol=1e-6)
    assert "golden image (scans)" in made.warmed_by


def test_an_engine_with_a_fixed_batch_has_it_in_its_dims(tmp_path):
    made = repository.write([plan(tmp_path / "m.engine", profiles=("4",))], tmp_path / "repo", Options()).models[0]
    config = config_of(made.folder)
    assert config.max_batch_size == 0
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([4, 3, SIDE, SIDE], [4, 3])
    assert not config.HasField("dynamic_batching")
    (entry,) = config.model_warmup
    assert (entry.batch_size, list(entry.inputs["images"].dims)) == (1, [4, 3, SIDE, SIDE])
    assert (made.folder / "warmup" / "warmup_0").stat().st_size == 4 * 3 * SIDE * SIDE * 4


def test_all_profiles_of_an_engine_are_named(tmp_path):
    engine = plan(tmp_path / "m.engine", profiles=("1:1:1", "2:8:32"))
    config = config_of(repository.write([engine], tmp_path / "repo", Options()).models[0].folder)
    assert (config.max_batch_size, list(config.instance_group[0].profile)) == (32, ["0", "1"])
    assert list(config.dynamic_batching.preferred_batch_size) == [8]


@pytest.mark.parametrize(("device", "kind"), [("cpu", "KIND_CPU"), ("gpu", "KIND_GPU")])
@pytest.mark.parametrize(("backend", "name"), [("onnxruntime", "model.onnx"), ("python", "model.py")])
@pytest.mark.parametrize("batch", [None, 4])
def test_an_onnx_file(tmp_path, run_cli, device, kind, backend, name, batch):
    path = means(tmp_path / "m.onnx", batch=batch)
    code, out, err = run_cli(
        "triton", path, "-o", tmp_path / "repo", "--backend", backend, "--device", device, "--instances", "2",
        "--name", "scans", "--json",
    )  # fmt: skip
    assert code == 0, err
    folder = tmp_path / "repo" / "scans"
    config = config_of(folder)
    assert (config.backend, config.default_model_filename, kinds(config)) == (backend, name, [kind])
    assert config.instance_group[0].count == 2
    inside = batch is not None and backend == "onnxruntime"  # model.py fills a batch up, ONNX Runtime's backend doesn't
    assert config.max_batch_size == (0 if inside else batch or 32)
    assert list(config.input[0].dims) == [*([batch] if inside else []), 3, SIDE, SIDE]
    assert (folder / "1" / name).is_file()
    (told,) = json.loads(out)["models"]
    assert (told["name"], told["version"], told["backend"]) == ("scans", 1, backend)
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run_cli("triton", "--check", folder)[0] == 0, "a model's own folder can be checked too"


def test_auto_takes_onnx_runtime_for_an_onnx_file_without_a_manifest(tmp_path):
    path = means(tmp_path / "m.onnx")
    artifacts.manifest_path(path).unlink()
    made = repository.write([path], tmp_path / "repo", Options()).models[0]
    assert made.backend == "onnxruntime"
    assert artifacts.read_manifest(made.folder / "1" / "model.onnx")["classes"] == list(CLASSES)


def test_images_that_the_graph_resizes_itself(tmp_path):
    path = means(tmp_path / "m.onnx", raw=True, source=SourceSize(6, 10))
    made = repository.write([path], tmp_path / "repo", Options()).models[0]
    assert list(config_of(made.folder).input[0].dims) == [6, 10, 3]
    assert (made.folder / "warmup" / "warmup_0").stat().st_size == 6 * 10 * 3


def test_real_images_and_other_options_are_taken(tmp_path, run_cli, pictures):
    path = means(tmp_path / "m.onnx", raw=True)
    code, out, err = run_cli(
        "triton", path, "-o", tmp_path / "repo", "--max-batch", "16", "--preferred", "8,4", "--queue-delay", "250",
        "--threads", "1", "--versions", "all", "--images", pictures / "test",
    )  # fmt: skip
    assert code == 0, err
    assert str(pictures / "test") in out
    config = config_of(tmp_path / "repo" / "m")
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (16, [4, 8])
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert config.version_policy.HasField("all")
    assert (tmp_path / "repo/m/warmup/warmup_0").stat().st_size == SIDE * SIDE * 3
    assert run_cli("triton", path, "-o", tmp_path / "other", "--no-warmup")[0] == 0
    assert not config_of(tmp_path / "other" / "m").model_warmup


def test_several_models_at_once_and_a_second_writing_has_the_same_bytes(tmp_path):
    files = [means(tmp_path / "a.onnx"), plan(tmp_path / "b.engine")]
    for name in ("one", "two"):
        done = repository.write(files, tmp_path / name, Options())
        assert [made.name for made in done.models] == ["a", "b"]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_a_programme_needs_is_in_the_python_models_folder(tmp_path):
    made = repository.write([means(tmp_path / "m.onnx")], tmp_path / "repo", Options(backend="python")).models[0]
    files = {path.name for path in (made.folder / "1").iterdir()}
    assert files == {"model.py", "hemf_runner.py", "model.onnx", "model.onnx.json"}
    for name in ("model.py", "hemf_runner.py"):
        text = (made.folder / "1" / name).read_text()
        assert not any(
            f"{word} {room}" in text for word in ("import", "from") for room in ("hemf_export", "hemf.", "torch")
        )
    engine = plan(tmp_path / "rtx.engine", flavour="tensorrt-rtx")
    made = repository.write([engine], tmp_path / "repo", Options(backend="python")).models[0]
    assert "tensorrt_rtx" in (made.folder / "1" / "hemf_runner.py").read_text()
    assert config_of(made.folder).parameters["cuda_graphs"].string_value == "true"
    assert kinds(config_of(made.folder)) == ["KIND_GPU"]


# New versions


def test_a_new_version_lies_beside_the_old_one(tmp_path, run_cli):
    repo = tmp_path / "repo"
    first, second = means(tmp_path / "a.onnx"), means(tmp_path / "b.onnx", scale=2.0)
    assert run_cli("triton", first, "-o", repo, "--name", "m", "--queue-delay", "123", "--instances", "3")[0] == 0
    before = contents(repo / "m" / "1")
    code, out, err = run_cli("triton", second, "-o", repo, "--name", "m")
    assert code == 0, err
    assert "version 2" in out
    assert contents(repo / "m" / "1") == before
    config = config_of(repo / "m")
    assert config.dynamic_batching.max_queue_delay_microseconds == 123, "what wasn't said stays"
    assert config.instance_group[0].count == 3
    for version, path in ((1, first), (2, second)):
        assert config.parameters[f"sha256.{version}"].string_value == artifacts.sha256(path)
    code, out, err = run_cli("triton", second, "-o", repo, "--name", "m", "--queue-delay", "77")
    assert code == 0, err
    assert "has this file as version 2 already" in err
    assert not (repo / "m" / "3").exists()
    assert config_of(repo / "m").dynamic_batching.max_queue_delay_microseconds == 77
    assert run_cli("triton", "--check", repo)[0] == 0


def test_back_to_an_earlier_version(tmp_path, run_cli):
    repo = tmp_path / "repo"
    for scale in (1.0, 2.0):
        assert run_cli("triton", means(tmp_path / "m.onnx", scale=scale), "-o", repo)[0] == 0
    code, out, err = run_cli("triton", "-o", repo, "--name", "m", "--versions", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["models"] == [{"name": "m", "backend": "onnxruntime", "versions": [1, 2], "served": [1]}]
    assert list(config_of(repo / "m").version_policy.specific.versions) == [1]
    code, _, err = run_cli("triton", "-o", repo, "--name", "m", "--versions", "3")
    assert code == 3
    assert "version 3 has no folder, though the version policy asks for it" in err
    assert list(config_of(repo / "m").version_policy.specific.versions) == [1]
    code, _, err = run_cli("triton", means(tmp_path / "m.onnx", scale=3.0), "-o", repo)
    assert code == 0
    assert "version 3 is not served by the policy 1" in err
    shutil.rmtree(repo / "m" / "2")
    assert run_cli("triton", "--check", repo)[0] == 3
    assert run_cli("triton", "-o", repo, "--name", "m", "--versions", "latest:2")[0] == 0, "it was removed on purpose"
    assert run_cli("triton", "--check", repo)[0] == 0
    assert "sha256.2" not in config_of(repo / "m").parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raw": True}, "has the input images TYPE_UINT8 [8, 8, 3]; the versions of m have images TYPE_FP32 [3, 8, 8]"),
        ({"batch": 4}, "has the fixed batch 4: it must be 0"),
    ],
)
def test_a_new_version_that_takes_other_requests_is_refused(tmp_path, refused, run_cli, changes, message):
    repo = tmp_path / "repo"
    assert run_cli("triton", means(tmp_path / "m.onnx"), "-o", repo)[0] == 0
    other = means(tmp_path / "other.onnx", **changes)
    code = 3 if "batch" in changes else 1
    assert message in refused("triton", other, "-o", repo, "--name", "m", code=code)
    assert message.split()[0]


def test_a_plan_is_no_version_of_an_onnx_model(tmp_path, run_cli):
    repo = tmp_path / "repo"
    assert run_cli("triton", means(tmp_path / "m.onnx"), "-o", repo)[0] == 0
    before = contents(repo)
    code, _, err = run_cli("triton", plan(tmp_path / "m.engine"), "-o", repo)
    assert code == 1
    assert "is a TensorRT plan, which the onnxruntime backend doesn't take" in err
    assert contents(repo) == before
    assert run_cli("triton", plan(tmp_path / "m.engine"), "-o", repo, "--force")[0] == 0
    assert config_of(repo / "m").backend == "tensorrt"
    assert not (repo / "m" / "1" / "model.onnx").exists(), "swapped whole"


def test_a_new_version_with_a_smaller_profile_is_refused_until_it_is_said(tmp_path, run_cli):
    repo = tmp_path / "repo"
    assert run_cli("triton", plan(tmp_path / "m.engine"), "-o", repo)[0] == 0
    before = contents(repo)
    smaller = plan(tmp_path / "m.engine", profiles=("1:4:8",))
    smaller.write_bytes(smaller.read_bytes() + b"x")
    manifest = json.loads(artifacts.manifest_path(smaller).read_text())
    artifacts.write_manifest(smaller, {key: manifest[key] for key in manifest if key not in ("sha256", "size_bytes")})
    code, _, err = run_cli("triton", smaller, "-o", repo)
    assert code == 3
    assert "version 2: max_batch_size 16 is over what model.plan takes: profile 1:4:8" in err
    assert contents(repo) == before
    assert run_cli("triton", smaller, "-o", repo, "--max-batch", "8")[0] == 0
    assert config_of(repo / "m").max_batch_size == 8


def test_killed_between_its_two_steps_it_leaves_what_the_next_writing_mends(tmp_path, run_cli):
    repo = tmp_path / "repo"
    assert run_cli("triton", means(tmp_path / "m.onnx"), "-o", repo)[0] == 0
    second = means(tmp_path / "second.onnx", scale=2.0)
    script = (
        "import os, pathlib, sys; from hemf_export.files import artifact_folder; "
        "from hemf_export.triton import repository; "
        "from hemf_export.triton.options import Options; "
        "artifact_folder._replace = lambda *_: os._exit(9); "
        "repository.write([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), Options(name='m'))"
    )
    done = subprocess.run([sys.executable, "-c", script, second, repo], check=False)
    assert done.returncode == 9
    assert not (repo / "m" / "2").exists()
    assert list(config_of(repo / "m").version_policy.specific.versions) == []
    code, _, err = run_cli("triton", "--check", repo)
    assert code == 3
    assert "version 2 has no folder, though its hash is in the parameters" in err
    assert run_cli("triton", second, "-o", repo, "--name", "m")[0] == 0
    assert run_cli("triton", "--check", repo)[0] == 0
    assert (repo / "m" / "2" / "model.onnx").read_bytes() == second.read_bytes()


def test_writers_at_once_make_a_version_each(tmp_path):
    files = [means(tmp_path / f"{scale}.onnx", scale=float(scale)) for scale in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda path: repository.write([path], tmp_path / "repo", Options(name="m")), files))
    assert sorted(done.models[0].version for done in made) == [1, 2, 3, 4]
    assert repository.check(tmp_path / "repo").models[0].versions == (1, 2, 3, 4)


# What is refused


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", ".hidden", "a b", "ä", "x" * 200, "a\nb"])
def test_names_that_are_none(tmp_path, run_cli, name):
    path = means(tmp_path / "m.onnx")
    before = contents(tmp_path)
    code, out, err = run_cli("triton", path, "-o", tmp_path / "repo", "--name", name, "--json")
    assert code == 2
    assert "can't be the name of a model" in one_message(err)
    assert json.loads(out)["exit_code"] == 2
    assert contents(tmp_path) == before
    assert run_cli("triton", "-o", tmp_path / "repo", "--name", name, "--versions", "1")[0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-batch", "17"], "--max-batch 17 is over what"),
        (["--preferred", "32"], "--preferred 32 is not within what is served: up to 16"),
        (["--preferred", "x"], "takes positive numbers"),
        (["--device", "cpu"], "it runs on a GPU only"),
        (["--threads", "2"], "--threads applies to ONNX files on a CPU only"),
        (["--queue-delay", "-1"], "x>=0"),
        (["--max-batch", "0"], "x>=1"),
        (["--versions", "0"], "counted from 1"),
        (["--versions", "newest"], "takes latest:N, all, or numbers"),
        (["--no-warmup", "--images", "."], "makes no sense with --no-warmup"),
    ],
)
def test_options_that_make_no_sense_for_an_engine(tmp_path, refused, options, message):
    assert message in refused("triton", plan(tmp_path / "m.engine"), "-o", tmp_path / "repo", *options, code=2)


def test_an_engine_that_leaves_gaps_between_its_batches(tmp_path, refused):
    engine = plan(tmp_path / "m.engine", profiles=("1:1:1", "4:8:16"))
    message = refused("triton", engine, "-o", tmp_path / "repo", code=1)
    assert "takes none of 2: profiles 1:1:1, 4:8:16" in message
    assert repository.write([engine], tmp_path / "repo", Options(max_batch=1)).models[0].config.max_batch_size == 1


def test_an_engine_of_tensorrt_rtx_needs_the_python_backend(tmp_path, refused):
    engine = plan(tmp_path / "m.engine", flavour="tensorrt-rtx")
    for backend in ("auto", "tensorrt"):
        message = refused("triton", engine, "-o", tmp_path / "repo", "--backend", backend, code=1)
        assert "TensorRT-RTX" in message
        assert "--backend python" in message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "m.engine", "No engine at"),
        (lambda folder: folder / "m.onnx", "No ONNX file at"),
        (lambda folder: folder / "m.pt", "No checkpoint at"),
        (lambda folder: plan(folder / "m.engine", build={"profiles": ["1:2"]}), "doesn't tell its input, output"),
        (lambda folder: plan(folder / "m.engine", tensors=[]), "doesn't tell its input, output and batches"),
        (lambda folder: plan(folder / "m.engine", tensors=None), "doesn't tell its input, output and batches"),
        (lambda folder: plan(folder / "m.engine", classes=["a", "b"]), "has 2 classes and an output of [3]"),
        (lambda folder: plan(folder / "m.engine", backend="tensorrt-rtx"), "its manifest says tensorrt-rtx"),
        (lambda folder: means(folder / "m.onnx", sha256="0" * 64), "is not the file that"),
    ],
)
def test_files_that_can_not_be_served(tmp_path, refused, make, message):
    path = make(tmp_path)
    assert message in refused("triton", path, "-o", tmp_path / "repo", code=1)


def test_a_stripped_engine_has_no_weights_to_serve(tmp_path, refused):
    from hemf_export.engines.options import BuildOptions

    engine = plan(tmp_path / "m.engine", build={**BuildOptions().to_dict(), "stripped": True})
    assert "has no weights" in refused("triton", engine, "-o", tmp_path / "repo", code=1)


def test_a_changed_golden_image_is_refused(tmp_path, refused):
    engine = plan(tmp_path / "m.engine")
    golden = Path(f"{engine}.golden")
    golden.write_bytes(b"x" + golden.read_bytes()[1:])
    assert "is not what the manifest" in refused("triton", engine, "-o", tmp_path / "repo", code=1)


def test_a_folder_that_holds_something_else(tmp_path, refused, run_cli):
    path = means(tmp_path / "m.onnx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for options in ([], ["--force"]):
        message = refused("triton", path, "-o", tmp_path / "mine", *options, code=1)
        assert "is not empty, and no model repository" in message
    assert "is a file" in refused("triton", path, "-o", path, code=1) or True
    repo = tmp_path / "repo"
    (repo / "theirs").mkdir(parents=True)
    (repo / "theirs" / "config.pbtxt").write_text('name: "theirs"\nbackend: "python"\n')
    (repo / "loose").mkdir()
    (repo / "loose" / "notes.txt").write_text("keep")
    for name, said in (("theirs", "hemf-export didn't write"), ("loose", "has no config.pbtxt")):
        for options in ([], ["--force"]):
            assert said in refused("triton", path, "-o", repo, "--name", name, *options, code=1)
    code, out, _ = run_cli("triton", path, "-o", repo)
    assert code == 0
    code, out, _ = run_cli("triton", "--check", repo)
    assert code == 0
    assert "not written by hemf-export: not checked" in out


def test_force_replaces_a_model_with_all_its_versions(tmp_path, run_cli):
    repo = tmp_path / "repo"
    for scale in (1.0, 2.0):
        assert run_cli("triton", means(tmp_path / "m.onnx", scale=scale), "-o", repo)[0] == 0
    code, _, err = run_cli("triton", means(tmp_path / "m.onnx", scale=3.0), "-o", repo, "--force")
    assert code == 0, err
    assert sorted(path.name for path in (repo / "m").iterdir()) == ["1", "config.pbtxt", "labels.txt", "warmup"]
    assert (repo / "m/1/model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_two_files_of_one_name(tmp_path, run_cli):
    code, _, err = run_cli("triton", means(tmp_path / "m.onnx"), plan(tmp_path / "m.engine"), "-o", tmp_path / "repo")
    assert code == 2
    assert "Two of the files would be called m" in err
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["-o", "repo"], ["m.onnx"], ["--check", "repo", "m.onnx"], ["--check", "repo", "-o", "repo"]]
)
def test_wrong_usage(tmp_path, run_cli, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    means(tmp_path / "m.onnx")
    assert run_cli("triton", *arguments)[0] == 2


def test_without_tritonclient_it_is_exit_4_with_the_command_that_installs_it(tmp_path, run_cli, monkeypatch):
    path = means(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    for name in [name for name in sys.modules if name.startswith("tritonclient.")]:
        monkeypatch.delitem(sys.modules, name)
    for arguments in (["triton", path, "-o", tmp_path / "repo"], ["triton", "--check", tmp_path]):
        code, _, err = run_cli(*arguments)
        assert code == 4
        assert "pip install 'tritonclient[grpc,http]'" in err
    assert not (tmp_path / "repo").exists()


def test_policies_read_and_written():
    for text in ("all", "latest:1", "latest:3", "2", "1,3"):
        policy = VersionPolicy.parse(text)
        assert str(policy) == text
        config = config_file.messages().ModelConfig()
        policy.put(config)
        assert VersionPolicy.of(config_file.parse(config_file.to_text(config))) == policy
    assert VersionPolicy.of(config_file.messages().ModelConfig()).served((1, 2, 10)) == (10,)
    assert VersionPolicy.parse("latest:2").served((1, 2, 10)) == (2, 10)
    assert VersionPolicy.parse("3,1").served((1, 2)) == (1,)
    assert VersionPolicy.parse("all").served((2, 1)) == (1, 2)
    for text in ("", "latest", "latest:", "latest:0", "0", "1,", "-1", "1:2"):
        with pytest.raises(UsageError):
            VersionPolicy.parse(text)


@pytest.mark.parametrize(
    ("fields", "gpu"),
    [({}, "a GPU of sm_75"), ({"hardware_compatible": False, "built_on": "Tesla T4"}, "a Tesla T4")],
    ids=["of a capability", "of one model"],
)
def test_the_gpu_that_a_plan_needs_is_named(tmp_path, fields, gpu):
    path = plan(tmp_path / "m.engine", **fields)
    (written,) = repository.write([path], tmp_path / "repo", Options()).models
    assert f"and {gpu}." in written.notes[-1]
