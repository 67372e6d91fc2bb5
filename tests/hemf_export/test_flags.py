"""Libraries speak Python; the command line turns that into its own flags and commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hemf_export.cli import COMMANDS, cli
from hemf_export.cli.flags import FUNCTIONS, in_flags
from tests.conftest import PROJECT

RUN_AS_A_USER = {PROJECT / "hemf_export" / "gpu_check" / "programs.py"}  # it runs commands
ROOMS = [PROJECT / "hemf_export", *(PROJECT / name for name in ("train", "calibration", "engines"))]


def command(*names: str) -> click.Command:
    found: click.Command = cli
    for name in names:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name)
    return found


def all_commands() -> Iterator[click.Command]:
    for name in COMMANDS:
        found = command(name)
        yield found
        if isinstance(found, click.Group):
            yield from found.commands.values()


@pytest.mark.parametrize(
    ("running", "words", "shown"),
    [
        ("onnx", "Say `images=DIR`.", "Say --images DIR."),
        ("bench", "Leave out `batch`.", "Leave out --batch."),
        ("bench", "Leave out `batches`.", "Leave out --batch."),
        ("onnx", "Choose another `output`.", "Choose another -o."),
        ("ship", "Say `triton=False`.", "Say --no-triton."),
        ("trt", "Try `timing_cache=False` or `tune=True`.", "Try --no-timing-cache or --tune."),
        ("trt", "`precision='int8', images=DIR`", "--int8 --images DIR"),
        ("calibrate", "`precision='int8', images=DIR`", "--precision int8 --images DIR"),
        ("calibrate", "`max_logit_difference`", "--max-logit-diff"),
        ("onnx", "Give `classes=(a, b, c)`.", "Give --classes a,b,c."),
        ("train", "Add `teacher=CKPT`, or `amp='off'`.", "Add --teacher CKPT, or --amp off."),
        ("trt", "(`tolerance`)", "(--tolerance)"),  # of another command
        ("bench", "`export_onnx(CKPT)`", "hemf-export onnx CKPT"),
        ("onnx", "`build_engine('a b.onnx', precision='fp16')`", "hemf-export trt 'a b.onnx' --fp16"),
        ("onnx", "`build_engine(batch=('1', '1:8:32'))`", "hemf-export trt --batch 1 --batch 1:8:32"),
        ("bench", "`verify(*FILE, data=DIR).to_dict()`", "hemf-export verify FILE… --data DIR --json"),
        ("triton", "`check_repository(REPO)`", "hemf-export triton --check REPO"),
        ("train", "Lines like `epochs = 50`; see `torch.compile`, `nobody` and `x y`.", None),
    ],
)
def test_names_of_the_api_become_flags_of_the_command(running, words, shown):
    with click.Context(command(running)):
        assert in_flags(words) == (words if shown is None else shown)


def test_what_libraries_name_between_backticks_is_known():
    """Every call, every parameter with a value, and every parameter alone in a message."""
    parameters = {each.name for one in all_commands() for each in one.params} | {"max_logit_difference", "precision"}
    seen = 0
    for path, text in strings(docstrings=False):
        for words in re.findall(r"`([^`\n]+)`", text):
            if call := re.fullmatch(r"(\w+)\(.*\)(\.to_dict\(\))?", words):
                assert call[1] in FUNCTIONS, (path, words)
                seen += 1
            elif keyword := re.fullmatch(r"(\w+)=\S.*", words):
                assert keyword[1] in parameters, (path, words)
                seen += 1
    assert seen > 50


def test_libraries_know_no_flag():
    """No flag and no command of ours stands in a string of a library room, be it a message or a docstring."""
    options = [option for each in all_commands() for option in each.params if isinstance(option, click.Option)]
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    flags |= {"--help", "--debug", "--version"}
    named = "|".join(re.escape(flag) for flag in sorted(flags, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])({named})(?![\w-])|hemf-export ({'|'.join(COMMANDS)})\b")
    for text in (
        "Leave out --batch.",
        "Choose another -o.",
        "see `hemf-export trt`",
        "(--max-drop)",
        "Say --no-triton.",
    ):
        assert pattern.search(text), "the pattern sees flags"
    found = [f"{path.relative_to(PROJECT)}: {match[0]}" for path, text in strings() for match in pattern.finditer(text)]
    assert not found, "\n".join(found)


def strings(*, docstrings: bool = True) -> Iterator[tuple[Path, str]]:
    """The string literals of every library room, whole where they are joined."""
    for room in ROOMS:
        for path in sorted(room.rglob("*.py")):
            if "cli" in path.relative_to(PROJECT).parts or path in RUN_AS_A_USER:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documents = set() if docstrings else {id(own) for own in _docstrings(tree)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    yield path, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
                    yield path, node.value


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            own = node.body[0]
            assert isinstance(own, ast.Expr)
            assert isinstance(own.value, ast.Constant)
            yield own.value
