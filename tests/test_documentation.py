"""The README and the pages of docs/ are run and read: commands, Python, C++, tables, links, and the site.

Commands in `console` blocks are run, each page in a folder as the quickstart leaves it; those in `sh` blocks need a GPU
or a server or install something, and only their names are looked at. Python in `python` blocks is run, in `py` not.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import util
from pathlib import Path

import click
import pytest
import torch

import hemf_export
from hemf_export import cli
from hemf_export.files.errors import HemfError
from hemf_export.train import configurations, recipe_file
from hemf_export.train.recipe import Recipe
from tests.conftest import PROJECT, TINY, once, tiny_checkpoint, write_class_folders
from tests.engines import cpp_build

DOCS = PROJECT / "docs"
README = PROJECT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
QUICKSTART = DOCS / "quickstart.md"
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
MOST_README_LINES = 150
MOST_PICTURE_BYTES = 250_000

# Added at the end of a line, where a later option wins: the same command, in seconds.
SHORTENED = {
    "train": ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "8"],
    "own": ["--image-size", "32", "--epochs", "6", "--batch-size", "8", "--learning-rate", "2e-3"],
    "ablate": ["--model", "hemf-tiny", "--image-size", "32", "--epochs", "1", "--batch-size", "16"],
    "bench": ["--seconds", "0.2", "--batch", "1", "--no-memory"],
    "calibrate": ["--count", "8", "--held-out-count", "6"],
    "finetune": ["--epochs", "3", "--batch-size", "4", "--learning-rate", "1e-3"],
    "ship": ["--bench-seconds", "0.2", "--precision", "fp16"],  # INT8's search would take most of the time
}
LARGE_BUDGET = ["--max-drop", "50"]  # a network of few images knows its classes too little for half a point
OTHERS_OPTIONS = {"--gpus", "--shm-size", "--factor", "--networks", "--targets"}  # docker's, and those of benchmarks


def page_name(page: Path) -> str:
    return page.relative_to(PROJECT).with_suffix("").as_posix().removeprefix("docs/")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[str]:
    """The lines that are run. Where a block has prompts, what has none is output."""
    found = []
    for block in blocks(page, "console"):
        prompted = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
        found += prompted or block.splitlines()
    return found


RUN = [page for page in PAGES if lines(page) and page != QUICKSTART]


def run_page(page: Path, trained_checkpoint: Path) -> None:
    """Run a page's commands and its Python in the current folder."""
    for line in lines(page):
        program, *words = shlex.split(line)
        if program == "make":
            continue
        if program != "hemf-export":
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
            done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            continue
        printing = "--print-recipe" in words
        budget = LARGE_BUDGET if "--max-drop" in words else []
        own = words[0] == "train" and any(":" in word for word in words)  # a network that is small already
        shortened = [] if printing else SHORTENED.get("own" if own else words[0], [])
        code = cli.run([*words, *shortened, *budget])
        nothing_to_regain = words[0] == "finetune" and code == 3
        assert code == 0 or nothing_to_regain, line
        if (
            words[0] == "train" and not printing and not own
        ):  # what follows is as right with a shallow network, and twice as quick
            shutil.copy(trained_checkpoint, Path(words[words.index("-o") + 1], "best.pt"))
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {})


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, pictures: Path, trained_checkpoint: Path) -> Path:
    """A folder as the quickstart leaves it, with what other pages start from; nobody may change it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

    def make(folder: Path) -> None:
        shutil.copytree(pictures, folder / "data")
        shutil.copytree(pictures, folder / "examples" / "blood_cells")
        write_class_folders(folder / "scans", 12)
        rows = [f"{path.name},P{int(re.sub('[a-z]', '', path.stem)) // 2}" for path in (folder / "scans").glob("*/*")]
        shutil.copytree(PROJECT / "examples" / "own_model", folder / "examples" / "own_model")
        (folder / "patients.csv").write_text("\n".join(["image,patient", *rows]))
        torch.save(tiny_checkpoint(config=TINY).state, folder / "best_model.pth")
        (recipe,) = (text for text in blocks(DOCS / "training.md", "toml") if "[[" not in text)
        (folder / "recipe.toml").write_text(recipe)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run_page(QUICKSTART, trained_checkpoint)

    return once(tmp_path_factory, "workshop", make)


@pytest.fixture
def folder(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the workshop to work in, removed afterwards: it holds models."""
    place = tmp_path / "work"
    shutil.copytree(workshop, place)
    monkeypatch.setenv("CMAKE_PREFIX_PATH", cpp_build.variables()["CMAKE_PREFIX_PATH"])
    monkeypatch.chdir(place)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.documentation
@pytest.mark.timeout(900)  # every command in turn
def test_the_quickstart_makes_what_it_says(workshop: Path):
    made = {path.name for path in (*workshop.iterdir(), *(workshop / "run").iterdir())}
    assert {"best.pt", "best.onnx", "best.fp16.onnx", "best.fp16.t4.engine", "verify.html", "shipped"} <= made
    assert {"last.pt", "metrics.jsonl", "summary.json", "confusion.png", "curve.png"} <= made, (
        "as the training page says"
    )


@pytest.mark.documentation
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=page_name)
def test_every_command_and_every_python_works(page: Path, folder: Path, trained_checkpoint: Path):
    if page == README:
        shutil.rmtree(folder / "run")
    run_page(page, trained_checkpoint)
    if programs := blocks(page, "cpp"):
        build(programs, blocks(page, "cmake"), folder / "mine", folder / "installed")
        model, image = folder / "tried/models/best.fp16.t4.engine", next((folder / "data" / "test").rglob("*.png"))
        done = subprocess.run([folder / "mine/build/mine", model, image], capture_output=True, text=True, check=False)
        assert (done.returncode, "which this program was not built with" in done.stderr) == (4, True)


def build(programs: list[str], lists: list[str], place: Path, installed: Path) -> None:
    (program,), (rules,) = programs, lists
    place.mkdir()
    (place / "main.cpp").write_text(program)
    (place / "CMakeLists.txt").write_text(rules)
    configure = ("-S", place, "-B", place / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    for words in (configure, ("--build", place / "build")):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.documentation
def test_every_key_of_a_manifest_is_described(workshop: Path):
    described = set(re.findall(r"`(\w+)`", text_of(DOCS / "manifest.md")))
    manifests = sorted((workshop / "run").glob("best.*.json"))
    assert len(manifests) > 2
    for path in manifests:
        if "manifest" in (manifest := json.loads(path.read_text())):
            assert set(manifest) <= described, path.name


@pytest.mark.documentation
def test_the_python_of_pages_without_commands_runs(folder: Path):
    for page in PAGES:
        if not lines(page):
            for code in blocks(page, "python"):
                exec(compile(code, str(page), "exec"), {})


@pytest.mark.documentation
@pytest.mark.timeout(600)
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path):
    if util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: make docs does so")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    described = set(re.findall(r'id="hemf_export\.[\w.]*?(\w+)"', (tmp_path / "api.html").read_text(encoding="utf-8")))
    assert set(hemf_export.__all__) <= described
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"([^\"]+)\"", text)
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], page.name
        assert 'class="mermaid"' not in text, "its script would come from elsewhere"
    assert not [
        path for path in tmp_path.rglob("*.css") if "url(http" in path.read_text() or "@import" in path.read_text()
    ]


def test_the_readme_is_short_and_its_pictures_are_small():
    assert len(text_of(README).splitlines()) <= MOST_README_LINES
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text_of(README))
    assert len(pictures) == 2
    assert all((PROJECT / path).stat().st_size < MOST_PICTURE_BYTES for path in pictures)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_no_test_runs_says_why(page: Path):
    for before in re.findall(r"([^\n]*(?:\n[^\n]+)*)\n\n```(?:sh|py)\n", text_of(page)):
        assert re.search(r"need|[Ii]nstall|With Python", before), before
    known = {"console", "sh", "cpp", "cmake", "toml", "json", "python", "py"}
    assert set(re.findall(r"^```(\w+)$", text_of(page), re.MULTILINE)) <= known


@cache
def options_of(name: str) -> frozenset[str]:
    """Every option of a command, and of the commands below it."""
    command = cli.cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None, name
    below = command.commands.values() if isinstance(command, click.Group) else ()
    parameters = [parameter for one in (command, *below) for parameter in one.params]
    return frozenset(flag for one in parameters for flag in (*one.opts, *one.secondary_opts)) | {"--help"}


def ours(page: Path) -> list[list[str]]:
    """Every line of a page that calls hemf-export, in a block or within the text, run by a test or not."""
    called = [line for kind in ("console", "sh") for block in blocks(page, kind) for line in block.splitlines()]
    called += re.findall(r"(?<!`)`(hemf-export \w[^`]*)`", text_of(page))
    calls = []
    for line in (line.removeprefix("$ ") for line in called):
        if line.startswith(("hemf-export ", "torchrun ")):
            words = shlex.split(line, comments=True)
            calls.append(words[1 + words.index("hemf_export" if words[0] == "torchrun" else "hemf-export") :])
    return calls


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_and_option_is_there(page: Path):
    """Those that need a GPU as well: names at least are right."""
    for name, *words in ours(page):
        assert {word for word in words if word.startswith("-")} <= options_of(name), (name, words)
    anywhere = frozenset().union(*map(options_of, cli.COMMANDS), OTHERS_OPTIONS, {"--debug"})
    named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", text_of(page)))
    assert named <= anywhere


def slug(heading: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), target
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.+)$", text_of(place), re.MULTILINE)), target


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"^ +- .+: (\S+\.md)$", (PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {page.relative_to(DOCS).as_posix() for page in PAGES if page != README}


def test_the_list_of_configurations_is_one(tmp_path: Path):
    listed = [text for text in blocks(DOCS / "ablations.md", "toml") if "[[configuration]]" in text]
    for text in listed:
        (tmp_path / "list.toml").write_text(text)
        assert len(configurations.read(tmp_path / "list.toml", Recipe())) == 2
    assert len(listed) == 2


def test_the_recipe_file_is_one(tmp_path: Path):
    (text,) = blocks(DOCS / "training.md", "toml")
    (tmp_path / "recipe.toml").write_text(text)
    assert recipe_file.resolve(str(tmp_path / "recipe.toml"), {}) != Recipe()


def test_the_fields_of_a_recipe_are_fields():
    table = text_of(DOCS / "training.md").split("## Recipes", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`([a-z_]+)(?: = [^`]*)?`", "".join(re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE)))
    assert set(named) <= set(Recipe().to_dict())
    assert len(named) > 10


def test_what_make_is_asked_for_is_in_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", text_of(page), re.MULTILINE))
        assert named <= targets, page_name(page)


def test_the_table_of_commands_is_complete():
    listed = re.findall(r"^\| `([\w-]+)` \|", text_of(DOCS / "commands.md"), re.MULTILINE)
    assert sorted(listed) == sorted(cli.COMMANDS)


def test_the_table_of_exit_codes_is_the_programs():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text_of(DOCS / "exit-codes.md"), re.MULTILINE)}
    errors = {kind.exit_code for kind in (HemfError, *HemfError.__subclasses__())}
    assert listed == {0, *errors, cli.EXIT_INTERNAL, cli.EXIT_INTERRUPTED}


def test_the_table_of_dependencies_names_each_of_them():
    project = PYPROJECT["project"]
    needed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for name in (re.match(r"[A-Za-z0-9-]+", one)[0] for one in needed):  # type: ignore[index]
        assert re.search(rf"^\|.*\b{re.escape(name)}\b", text_of(DOCS / "contributing.md"), re.MULTILINE), name


def test_the_table_of_rooms_is_the_import_contract():
    contract = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = {name for layer in contract for name in layer.replace("|", " ").split()} - {"__main__"}
    assert set(re.findall(r"^\| `(\w+)` \|", text_of(DOCS / "architecture.md"), re.MULTILINE)) == rooms


def test_messages_that_are_explained_are_printed_somewhere():
    """Troubleshooting quotes messages, `…` for what differs: each part stands in a string of the program."""
    strings = "\n".join(literals())
    quoted = re.findall(r"^\| `([^`]+)`", text_of(DOCS / "troubleshooting.md"), re.MULTILINE)
    assert len(quoted) > 60
    for message in set(quoted) - {"No module named 'hemf_export.train'"}:
        for part in (part.strip() for part in message.split("…")):
            assert part in strings, f"{message}: {part!r}"


def literals() -> Iterator[str]:
    """Every string of the program, what is filled in left out."""
    rooms = [path.resolve() for path in (PROJECT / "hemf_export").iterdir() if path.is_symlink()]
    for path in (path for room in (PROJECT / "hemf_export", *rooms) for path in room.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
