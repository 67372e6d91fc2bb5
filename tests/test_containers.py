"""The images of docker/: their versions, their entry points, and what Docker has to give them. No Docker is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from hemf_export.doctor.components import satisfies
from hemf_export.images.model_input import Preprocess
from hemf_export.train.data import image_bytes
from hemf_export.train.loader_processes import PREFETCHED
from hemf_export.train.recipe import Recipe
from tests.conftest import PROJECT

DOCKER = PROJECT / "docker"
VERSIONS = dict(re.findall(r"^(\w+)=(.+)$", (DOCKER / "versions.env").read_text(), re.MULTILINE))
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
UNITS = {"mb": 1 << 20, "gb": 1 << 30}

# What NVIDIA's entry point does, as Triton's build has it (docker/cpu_only/nvidia_entrypoint.sh of
# triton-inference-server/server): print the texts beside it, source the scripts, become the command.
NVIDIA = """#!/bin/bash
echo "== TensorRT =="
export COMPATIBILITY=on
exec "$@"
"""


def test_versions_stand_in_one_place():
    files = [*PAGES, *(path for path in DOCKER.iterdir() if path.name != "versions.env")]
    for path in files:
        for name in ("NGC_RELEASE", "TENSORRT_VERSION"):
            assert VERSIONS[name] not in path.read_text(encoding="utf-8"), f"{path.name} repeats {name}"
    for dockerfile in DOCKERFILES:
        (base,) = re.findall(r"^FROM (.+)$", dockerfile.read_text(), re.MULTILINE)
        assert re.fullmatch(r"nvcr\.io/nvidia/\w+:\$\{NGC_RELEASE\}-py3", base), "both of one release"
        assert "${TENSORRT_VERSION}" in dockerfile.read_text(), "the build compares"


def test_versions_fit_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (tensorrt,) = project["optional-dependencies"]["tensorrt"]
    (runtime,) = (line for line in project["dependencies"] if line.startswith("onnxruntime-gpu"))
    (rtx,) = (line for line in project["dependencies"] if line.startswith("tensorrt-rtx"))
    assert satisfies(VERSIONS["TENSORRT_VERSION"], tensorrt.removeprefix("tensorrt"))
    assert satisfies(VERSIONS["ONNXRUNTIME_VERSION"], runtime.partition(";")[0])
    assert satisfies(VERSIONS["TENSORRT_RTX_VERSION"], rtx.partition(";")[0])


def test_every_version_is_an_argument_of_an_image():
    arguments = set(re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text()))
    assert arguments == set(VERSIONS)
    used = {name for path in DOCKERFILES for name in re.findall(r"^ARG (\w+)$", path.read_text(), re.MULTILINE)}
    assert used == set(VERSIONS)
    for service in SERVICES.values():
        given = set(service["build"]["args"])
        dockerfile = (PROJECT / service["build"]["dockerfile"]).read_text()
        assert given == set(re.findall(r"^ARG (\w+)$", dockerfile, re.MULTILINE))


def test_what_an_image_is_built_of_is_all_that_the_wheel_needs():
    kept = set(re.findall(r"^!(\S+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE))
    linked = {path.resolve().name for path in (PROJECT / "hemf_export").iterdir() if path.is_symlink()}
    copied = {"docker/entrypoint.sh"}
    assert kept == {"hemf_export", *linked, "pyproject.toml", "README.md", "LICENSE", *copied}


def test_shared_memory_holds_what_loader_processes_and_triton_put_there():
    """Docker gives 64 MB. Triton's README of the Python backend runs the server with 1 GB.

    Training takes up to 8 loader processes for each of a host's GPUs, up to 4 here, and as many to validate: the
    batches that they prefetch are there at once. The image is that of the recipe's network.
    """
    sizes = {
        name: int(number) * UNITS[unit]
        for name, service in SERVICES.items()
        for number, unit in re.findall(r"^(\d+)(\w+)$", service["shm_size"])
    }
    batch = Recipe().batch_size * image_bytes(Preprocess())
    assert sizes["build"] >= 4 * 2 * 8 * PREFETCHED * batch
    assert sizes["triton"] >= UNITS["gb"]


def test_nvidias_entry_point_runs_first_and_results_alone_are_on_stdout(tmp_path):
    """It sets up CUDA's forward compatibility: an image that replaces it fails on hosts with an older driver."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    program = '#!/bin/bash\nprintf "[%s]" "$@" "$COMPATIBILITY"\necho progress >&2\nexit 3\n'
    script = (DOCKER / "entrypoint.sh").read_text()
    for place, text in (("/opt/nvidia/nvidia_entrypoint.sh", NVIDIA), ("/opt/hemf/bin/hemf-export", program)):
        assert place in script
        path = tmp_path / Path(place).name
        path.write_text(text)
        path.chmod(0o755)
        script = script.replace(place, str(path))
    (tmp_path / "entrypoint.sh").write_text(script)
    command = ["bash", tmp_path / "entrypoint.sh", "verify", "a file.onnx", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[verify][a file.onnx][--json][on]", 3)
    assert done.stderr.splitlines() == ["== TensorRT ==", "progress"]


def test_no_image_replaces_nvidias_entry_point():
    entries = {path.name: re.findall(r"^ENTRYPOINT (.+)$", path.read_text(), re.MULTILINE) for path in DOCKERFILES}
    assert entries == {"tensorrt.Dockerfile": ['["/opt/hemf/entrypoint.sh"]'], "triton.Dockerfile": []}
    assert os.access(DOCKER / "entrypoint.sh", os.X_OK)
    assert "docker/entrypoint.sh /opt/hemf/entrypoint.sh" in (DOCKER / "tensorrt.Dockerfile").read_text()


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        (["libcuda.so.1 => not found"], 0),
        (["libcuda.so.1 => not found", "libcublasLt.so.12 => not found"], 1),
    ],
    ids=["the driver's library, which comes at the start", "built for another CUDA"],
)
def test_an_onnx_runtime_for_another_cuda_fails_the_build(tmp_path, missing, code):
    for name, text in (("ldd", "\n".join(missing)), ("python3", "/capi")):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (tmp_path / name).chmod(0o755)
    (check,) = (line for line in runs(DOCKER / "triton.Dockerfile") if "ldd" in line)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ONNXRUNTIME_VERSION": "1.2"}
    done = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("ONNX Runtime 1.2 is for another CUDA" in done.stdout) == bool(code)


def test_the_python_backend_gets_an_onnx_runtime_with_a_gpu():
    (install,) = (line for line in runs(DOCKER / "triton.Dockerfile") if "pip install" in line)
    assert '"onnxruntime-gpu==${ONNXRUNTIME_VERSION}"' in install
    assert not re.search(r"\bonnxruntime(?!-gpu)", install), "both packages would overwrite each other's files"


def runs(dockerfile: Path) -> list[str]:
    """The shell commands of a Dockerfile, each in one line."""
    joined = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    return re.findall(r"^RUN (.+)$", joined, re.MULTILINE)
