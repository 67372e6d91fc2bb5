"""Examples in docstrings run: every indented block that imports something of ours, as it stands.

Examples of the API are doctests, which `test_api` runs.
"""

from __future__ import annotations

import ast
import contextlib
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Made
from tests.engines import fake_tensorrt as fake
from tests.hemf_export.test_engine_commands import small as small_engine

# The package's own docstring trains and builds an engine: `test_api` runs each of its functions.
WHOLE_PATH = "hemf_export/__init__.py"
_IMPORT = re.compile(r"(from hemf_export\S* import|import hemf_export)", re.MULTILINE)


def examples(text: str) -> Iterator[str]:
    """The code in a module's docstrings: indented blocks, with an import of ours in them."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                if _IMPORT.search(paragraph) and ">>>" not in paragraph:
                    yield textwrap.dedent(paragraph)


def found() -> list[tuple[str, str]]:
    """Every example, with the module that has it; rooms linked into the package are read where they lie."""
    folders = ("hemf_export", "train", "calibration", "engines")
    paths = sorted(path for folder in folders for path in (PROJECT / folder).rglob("*.py"))
    return [
        (path.relative_to(PROJECT).as_posix(), code)
        for path in paths
        for code in examples(path.read_text(encoding="utf-8"))
    ]


EXAMPLES = [example for example in found() if example[0] != WHOLE_PATH]


def test_examples_are_found():
    assert {"engines/__init__.py", "hemf_export/models/model_file.py", WHOLE_PATH} <= {name for name, _ in found()}
    text = '"""Title.\n\n    from hemf_export import x\n    x.y()\n\nMore.\n"""\n'
    assert list(examples(text)) == ["from hemf_export import x\nx.y()"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(*example, id=example[0], marks=[pytest.mark.extended] * ("doctor" in example[0]))
        for example in EXAMPLES
    ],
)
def test_an_example_runs(name: str, code: str, made: Made, pictures: Path, tmp_path: Path, monkeypatch):
    if "triton" in name:
        pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    for path in made.folder.iterdir():
        shutil.copy(path, tmp_path / path.name.replace("model.", "best."))
    shutil.copy(next((pictures / "test" / "dark").iterdir()), tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        if ".engine" in code:
            fake.on_a_gpu(stack.enter_context(fake.installed()))
            small_engine(tmp_path, backend="tensorrt")
            for path in tmp_path.glob("m.t4.engine*"):
                path.rename(path.with_name(path.name.replace("m.t4", "best.fp16.t4")))
            code = code.replace("224, 224", "8, 8")  # what the small engine takes
        exec(compile(code, name, "exec"), {"__name__": name})
