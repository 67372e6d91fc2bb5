"""A real Triton server: it loads what `hemf-export triton` writes, and answers `hemf-export triton-client`."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hemf_export.files.errors import BadInputError
from hemf_export.images.model_input import SourceSize
from hemf_export.models.model_file import ModelFile
from hemf_export.models.predictor import Predictor
from hemf_export.triton import client, repository
from hemf_export.triton.client import Server
from hemf_export.triton.options import Options, VersionPolicy
from tests.conftest import write_images
from tests.hemf_export.triton.models import SIDE, means, plan
from tests.hemf_export.triton.triton_server import TritonServer

pytestmark = pytest.mark.timeout(120)


def served(server: TritonServer, path: Path, name: str, **options) -> Path:
    """Write a model for the Python backend, and have the server load it; its folder."""
    done = repository.write([path], server.repository, Options(name=name, backend="python", **options))
    server.load(name)
    return done.models[0].folder


@pytest.fixture(scope="module")
def network(made, server: TritonServer) -> str:
    """The tiny network, served."""
    served(server, made.onnx, "network", queue_delay_us=0, threads=1)
    return "network"


@pytest.fixture(scope="module")
def local(made) -> Predictor:
    """The server's network, in this process."""
    return ModelFile.open(made.onnx).predictor()


@pytest.mark.parametrize(("protocol", "batch"), [("http", 1), ("http", 5), ("grpc", 5)])
def test_it_answers_what_predict_says(network, server, local, images, run_cli, protocol, batch):
    url = getattr(server, protocol)
    code, out, err = run_cli("triton-client", url, *images, "--model", network, "--batch", batch, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["file"] == f"Triton at {url}, network version 1"
    for ours, theirs in zip(found["predictions"], local.predict(images), strict=True):
        assert (ours["image"], ours["class"]) == (str(theirs.path), theirs.label)
        assert list(ours["probabilities"].values()) == pytest.approx(theirs.probabilities, abs=1e-6)
    pixels = np.stack([local.description.input.load(path) for path in images])
    connection = Server(url)
    logits = client.load(connection, network).logits(pixels)
    connection.close()
    np.testing.assert_allclose(logits, local.logits(pixels), atol=1e-5)
    assert "PyCapsule" not in server.log, "no answer leaves an error in the log"


def test_it_prints_as_predict_does(network, server, made, pictures, run_cli):
    folder = pictures / "test"
    code, out, err = run_cli("triton-client", server.http, folder, "--model", network)
    assert code == 0, err
    assert " ".join(out.split()).startswith(f"Triton at {server.http}, network version 1 (fp32): 12 images of {folder}")
    table = out.index("\nimage ")  # below a title, which is longer or shorter, and folded
    assert out[table:] in run_cli("predict", made.onnx, folder)[1]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("batch", [None, 4])
def test_raw_pixels_and_fixed_batches(server, tmp_path, images, run_cli, raw, batch):
    path, name = means(tmp_path / "m.onnx", raw=raw, batch=batch), f"means-{raw}-{batch}"
    served(server, path, name)
    code, out, err = run_cli("triton-client", server.grpc, *images[:6], "--model", name, "--batch", "3", "--json")
    assert code == 0, err
    expected = json.loads(run_cli("predict", path, *images[:6], "--json")[1])["predictions"]
    for ours, theirs in zip(json.loads(out)["predictions"], expected, strict=True):
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)


def test_images_that_the_graph_resizes_itself(server, tmp_path, images, run_cli):
    path = means(tmp_path / "m.onnx", raw=True, source=SourceSize(40, 40))
    served(server, path, "whole")
    code, out, err = run_cli("triton-client", server.http, *images[:3], "--model", "whole", "--json")
    assert code == 0, err
    for ours, theirs in zip(
        json.loads(out)["predictions"], ModelFile.open(path).predictor().predict(images[:3]), strict=True
    ):
        assert list(ours["probabilities"].values()) == pytest.approx(theirs.probabilities, abs=1e-6)
    write_images(tmp_path / "others", 1, "dark", side=41)
    code, _, err = run_cli("triton-client", server.http, tmp_path / "others", "--model", "whole")
    assert code == 1
    assert "takes images of 40x40" in err


def test_concurrent_requests_are_put_together(server, tmp_path):
    path = means(tmp_path / "m.onnx", raw=True)
    served(server, path, "together", preferred=(8,), queue_delay_us=2_000_000, warmup=False)
    connection = Server(server.grpc)
    model = client.load(connection, "together")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, SIDE, SIDE, 3), dtype=np.uint8)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.logits, pixels))
    np.testing.assert_allclose(np.concatenate(found), pixels[:, 0].astype(np.float64).mean((1, 2)), rtol=1e-5)
    deadline = time.monotonic() + 240
    # The server counts a run after it has answered: a quick reader would find none.
    while "inference_count" not in (statistics := connection.statistics("together", "1")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    connection.close()
    assert (int(statistics["inference_count"]), int(statistics["execution_count"])) == (8, 1)
    assert [int(one["batch_size"]) for one in statistics["batch_stats"]] == [8]


def test_it_is_warmed_up_with_the_image_before_it_is_ready(server, tmp_path, pictures):
    folder = served(server, means(tmp_path / "m.onnx"), "warm", preferred=(4,), images=pictures / "test")
    connection = Server(server.grpc)
    ran = connection.statistics("warm", "1")["batch_stats"]
    connection.close()
    assert [(int(one["batch_size"]), int(one["compute_infer"]["count"])) for one in ran] == [(1, 1), (4, 1)]
    (folder / "warmup" / "warmup_0").write_bytes(b"cut")
    with pytest.raises(Exception, match="3 bytes"):
        server.load("warm")


def test_a_new_version_and_back(server, tmp_path, run_cli):
    pixels = np.full((1, SIDE, SIDE, 3), 100, np.uint8)

    def answer() -> tuple[str, float]:
        connection = Server(server.http)
        model = client.load(connection, "changing")
        logits = model.logits(pixels)
        connection.close()
        return model.name.rsplit(maxsplit=1)[-1], float(logits[0, 0])

    served(server, means(tmp_path / "m.onnx", raw=True), "changing")
    assert answer() == ("1", 100.0)
    served(server, means(tmp_path / "m.onnx", raw=True, scale=2.0), "changing")
    assert answer() == ("2", 200.0)
    with pytest.raises(BadInputError, match="no version 1 ready"):
        client.load(Server(server.http), "changing", version=1)
    code, _, err = run_cli("triton", "-o", server.repository, "--name", "changing", "--versions", "1")
    assert code == 0, err
    server.load("changing")
    assert answer() == ("1", 100.0)
    repository.serve(server.repository, "changing", VersionPolicy.parse("all"))
    server.load("changing")
    assert answer() == ("2", 200.0)
    connection = Server(server.grpc)
    assert client.load(connection, "changing", version=1).logits(pixels)[0, 0] == 100.0
    connection.close()


def test_a_server_that_polls_takes_a_new_version_without_a_failed_request(server, tmp_path):
    (tmp_path / "server" / "models").mkdir(parents=True)
    polls = "--model-control-mode=poll", "--repository-poll-secs=1"
    files = [means(tmp_path / f"{scale}.onnx", raw=True, scale=float(scale)) for scale in (1, 2)]
    options = Options(name="m", backend="python", queue_delay_us=0)
    repository.write(files[:1], tmp_path / "server" / "models", options)
    pixels, seen = np.full((1, SIDE, SIDE, 3), 100, np.uint8), []
    with TritonServer(server.wheel, tmp_path / "server", polls) as polling:
        connection, deadline = Server(polling.grpc), time.monotonic() + 240
        inputs = {"images": (pixels, "UINT8")}
        while 200.0 not in seen and time.monotonic() < deadline:
            seen.append(float(connection.infer("m", "", inputs, "logits")[0, 0]))
            if len(seen) == 20:
                repository.write(files[1:], polling.repository, options)
            time.sleep(0.02)
        connection.close()
    assert set(seen) == {100.0, 200.0}, "either version's answer, every time"


@pytest.mark.parametrize(
    ("profiles", "precision"), [(("1:4:16",), "fp16"), (("1:1:1", "2:8:16"), "int8"), (("4",), "fp16")]
)
def test_a_tensorrt_repository_is_well_formed_but_for_the_missing_backend(
    server, tmp_path, images, run_cli, profiles, precision
):
    name = f"engine-{precision}-{len(profiles)}-{profiles[0].replace(':', '-')}"
    engine = plan(tmp_path / "m.engine", profiles=profiles, precision=precision)
    repository.write([engine], server.repository, Options(name=name))
    with pytest.raises(Exception, match="load failed"):
        server.load(name)
    code, out, _ = run_cli("triton-client", server.http, images[0], "--model", name, "--json")
    assert code == 4
    said = json.loads(out)["error"]
    assert f"{name} at {server.http} is not ready" in said
    assert "unable to find backend library for backend 'tensorrt'" in said


def test_the_onnxruntime_repository_too(server, tmp_path, images, run_cli):
    repository.write([means(tmp_path / "m.onnx")], server.repository, Options(name="onnx"))
    with pytest.raises(Exception, match="load failed"):
        server.load("onnx")
    code, _, err = run_cli("triton-client", server.grpc, images[0], "--model", "onnx")
    assert code == 4
    assert "unable to find backend library for backend 'onnxruntime'" in err


def test_a_changed_model_is_not_served(server, tmp_path, images, run_cli):
    done = repository.write([means(tmp_path / "m.onnx")], server.repository, Options(name="changed", backend="python"))
    path = done.models[0].folder / "1" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match="load failed"):
        server.load("changed")
    code, _, err = run_cli("triton-client", server.http, images[0], "--model", "changed")
    assert code == 4
    assert "is not the file that its manifest describes" in err


def test_one_bad_request_leaves_the_server_serving(server, network, images, run_cli):
    connection = Server(server.grpc)
    wrong = np.zeros((1, 3, 5, 5), np.float32)
    with pytest.raises(BadInputError, match="unexpected shape"):
        connection.infer(network, "1", {"images": (wrong, "FP32")}, "logits")
    connection.close()
    assert run_cli("triton-client", server.http, images[0], "--model", network)[0] == 0


def test_other_models_and_versions_are_told(server, network, images, run_cli):
    for url in (server.http, server.grpc):
        code, _, err = run_cli("triton-client", url, images[0], "--model", "netwrk")
        assert code == 1
        assert "has no model 'netwrk'. \n" in err.replace("netwrk'.\n", "netwrk'. \n")
        assert "Did you mean 'network'?" in err
        code, _, err = run_cli("triton-client", url, images[0], "--model", network, "--version", "9")
        assert code == 1
        assert "no version 9 ready" in err
        assert "Ready: 1." in err


def test_a_model_that_hemf_export_did_not_write(server, network, images, run_cli):
    folder = server.repository / "theirs"
    shutil.copytree(server.repository / network, folder)
    lines = (folder / "config.pbtxt").read_text().replace('name: "network"', 'name: "theirs"')
    (folder / "config.pbtxt").write_text(lines.replace('key: "hemf.1"', 'key: "other.1"'))
    server.load("theirs")
    code, _, err = run_cli("triton-client", server.http, images[0], "--model", "theirs")
    assert code == 1
    assert "doesn't tell its classes and preprocessing: no hemf.1" in err


def test_several_models_and_none_named(server, network, tmp_path, images, run_cli):
    served(server, means(tmp_path / "m.onnx"), "another")
    code, _, err = run_cli("triton-client", server.http, images[0])
    assert code == 1
    assert "has several models" in err
    assert "--model NAME" in err
