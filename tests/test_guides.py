"""The guides in docs/ are run: each ```console line in order, in a folder of its own; the C++ is built; and the rest of
what they and docker/ say is looked at. Commands in ```sh blocks need a GPU: the text before them says so."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.doctor.requirements import satisfies
from tests.conftest import PROJECT
from tests.test_readme import LARGE_BUDGET, SHORTENED

PAGES = sorted((PROJECT / "docs").glob("*.md"))
NOT_GUIDES = ("training-results", "proofs", "engine-model", "graph-forms", "int8")
GUIDES = [page for page in PAGES if page.stem not in NOT_GUIDES]
DOCKER = PROJECT / "docker"
VERSIONS = dict(re.findall(r"^(\w+)=(.+)$", (DOCKER / "versions.env").read_text(), re.MULTILINE))


def blocks(guide: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def ours(page: Path) -> list[list[str]]:
    """Every line of a page that calls hemf-export, in a block or within the text, run by a test or not."""
    lines = [line for language in ("console", "sh") for block in blocks(page, language) for line in block.splitlines()]
    lines += re.findall(r"(?<!`)`(hemf-export \w[^`]*)`", page.read_text(encoding="utf-8"))
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["hemf-export"]]


@pytest.mark.documentation
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_every_command_works(
    guide: Path, tmp_path: Path, pictures: Path, trained_checkpoint: Path, run_cli, monkeypatch
):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "data")
    Path("run").mkdir()
    shutil.copy(trained_checkpoint, "run")
    for line in (line for block in blocks(guide, "console") for line in block.splitlines()):
        program, *words = shlex.split(line)
        if program == "hemf-export":
            budget = LARGE_BUDGET if "--max-drop" in words else []
            code, _, err = run_cli(*words, *SHORTENED.get(words[0], []), *budget)
            assert code == 0, f"{line}\n{err}"
        elif shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        else:
            done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    if programs := blocks(guide, "cpp"):
        _build(programs, blocks(guide, "cmake"), tmp_path / "mine", tmp_path / "installed")
        model, image = tmp_path / "tried/models/best.fp16.t4.engine", next((tmp_path / "data" / "test").rglob("*.png"))
        done = subprocess.run([tmp_path / "mine/build/mine", model, image], capture_output=True, text=True, check=False)
        assert (done.returncode, "which this program was not built with" in done.stderr) == (4, True)


def _build(programs: list[str], lists: list[str], folder: Path, installed: Path) -> None:
    (program,), (rules,) = programs, lists
    folder.mkdir()
    (folder / "main.cpp").write_text(program)
    (folder / "CMakeLists.txt").write_text(rules)
    for words in (
        ("-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={installed}"),
        ("--build", folder / "build"),
    ):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_guides():
    assert {guide.stem for guide in GUIDES} == {"triton-on-a-t4", "cpp", "without-a-gpu"}
    assert all(blocks(guide, "console") for guide in GUIDES)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_what_no_test_runs_is_marked_as_needing_a_gpu(guide: Path):
    text = guide.read_text(encoding="utf-8")
    for before in re.findall(r"([^\n]*(?:\n[^\n]+)*)\n\n```sh\n", text):
        assert "needs a GPU" in before or "a GPU to run" in before, before
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) <= {"console", "sh", "cpp", "cmake"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_option_is_there(page: Path):
    """Those that need a GPU as well: names at least are right."""
    known = {name: cli.cli.get_command(None, name) for name in cli.COMMANDS}  # type: ignore[arg-type]
    for words in ours(page):
        options = {
            flag for parameter in known[words[0]].params for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in words if word.startswith("-")} <= options, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_versions_of_images_stand_in_one_place():
    files = [*PAGES, PROJECT / "README.md", *(path for path in DOCKER.iterdir() if path.name != "versions.env")]
    for path in files:
        text = path.read_text(encoding="utf-8")
        for name in ("NGC_RELEASE", "TENSORRT_VERSION"):
            assert VERSIONS[name] not in text, f"{path.name} repeats {name}"
    for dockerfile in DOCKER.glob("*.Dockerfile"):
        (base,) = re.findall(r"^FROM (.+)$", dockerfile.read_text(), re.MULTILINE)
        assert re.fullmatch(r"nvcr\.io/nvidia/\w+:\$\{NGC_RELEASE\}-py3", base), "both of one release"
        assert "${TENSORRT_VERSION}" in dockerfile.read_text(), "the build compares"


def test_the_images_fit_the_project():
    optional = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = optional["tensorrt"]
    assert satisfies(VERSIONS["TENSORRT_VERSION"], wanted.removeprefix("tensorrt"))
    arguments = set(re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text()))
    assert arguments == set(VERSIONS)
    used = {name for path in DOCKER.glob("*.Dockerfile") for name in re.findall(r"^ARG (\w+)$", path.read_text(), re.M)}
    assert used == set(VERSIONS)
    for dockerfile in re.findall(r"dockerfile: (\S+)", (DOCKER / "compose.yaml").read_text()):
        assert (PROJECT / dockerfile).is_file()


def test_what_an_image_is_built_of_is_all_that_the_wheel_needs():
    kept = set(re.findall(r"^!(\S+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE))
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert kept == {*(name.split(".")[0] for name in packages), "pyproject.toml", "README.md", "LICENSE"}
