"""Translate Python API names in messages for the command line: parameters to flags, calls to commands.

Messages of libraries have names of the Python API between backticks: "Leave out `batch`.", "Say `images=DIR`.",
"Make one: `export_onnx(CKPT)`." In a command these become its flags, and commands.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable

import click

FUNCTIONS = {
    "split_data": "data", "check_split": "data check", "ablate": "ablate", "info": "info",
    "list_networks": "info --list",
    "train": "train", "evaluate": "evaluate", "explain": "explain", "export_onnx": "onnx",
    "quantize": "calibrate", "finetune": "finetune", "build_engine": "trt", "benchmark": "bench", "verify": "verify",
    "predict": "predict", "triton_repository": "triton", "check_repository": "triton --check",
    "predict_served": "triton-client",
    "recipe_file": "train --print-recipe",
    "ship": "ship", "bundle": "bundle", "self_test": "self-test", "inspect": "inspect", "doctor": "doctor",
    "check_gpu": "doctor --gpu",
}  # fmt: skip
# Parameters of the Python API whose flags have other names.
_ALIASES = {
    "max_logit_difference": "max_logit_diff", "input_type": "input", "as_dict": "as_json",
}  # fmt: skip
_SPAN = re.compile(r"`([^`\n]+)`")


def in_flags(text: str) -> str:
    """Replace API names between backticks by flags of the running command; other words between backticks stay."""
    if "`" not in text:
        return text
    context = click.get_current_context(silent=True)
    running = None if context is None else context.command
    return _SPAN.sub(lambda match: _shown(match[1], running) or match[0], text)


def _shown(words: str, running: click.Command | None) -> str | None:
    """Translate one span to flags or a command; None if it is neither."""
    try:
        if re.fullmatch(r"\w+(=\S.*)?", words):
            call = ast.parse(f"_({words})", mode="eval").body
            assert isinstance(call, ast.Call)
            if call.args:
                return _flag(words, running)
            return " ".join(_flags(call.keywords, running))
        call = ast.parse(words, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return _command(call)


def _command(call: ast.expr) -> str | None:
    """Translate a call of an API function to a command line, and `.to_dict()` of its result to --json."""
    if not isinstance(call, ast.Call):
        return None
    if isinstance(call.func, ast.Attribute) and call.func.attr == "to_dict":
        line = _command(call.func.value)
        return line and f"{line} --json"
    if not isinstance(call.func, ast.Name) or call.func.id not in FUNCTIONS:
        return None
    name = FUNCTIONS[call.func.id]
    flags = _flags(call.keywords, _commands()[name.split()[0]])
    return " ".join(["hemf-export", name, *map(_value, call.args), *flags])


def _flags(keywords: Iterable[ast.keyword], command: click.Command | None) -> list[str]:
    words: list[str | None] = []
    for keyword in keywords:
        value, name = keyword.value, str(keyword.arg)
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            words += [_flag(name, command, given=value.value)]
        elif isinstance(value, ast.Tuple) and _is_multiple(name, command):
            words += [word for each in value.elts for word in (_flag(name, command), _value(each))]
        elif isinstance(value, ast.Constant) and (switch := _switch(name, str(value.value), command)):
            words += [switch]
        else:
            words += [_flag(name, command), _value(value)]
    return [word for word in words if word]


def _flag(name: str, command: click.Command | None, *, given: bool = True) -> str | None:
    """Return the flag of a parameter: the command's own, or else another command's; None if no command has it."""
    name = _ALIASES.get(name, name)
    for each in [*([command] if command else []), *_commands().values()]:
        for option in each.params:
            if isinstance(option, click.Option) and option.name == name and not option.hidden:
                return (option.opts if given else [*option.secondary_opts, ""])[0]
    return None


def _switch(name: str, value: str, command: click.Command | None) -> str | None:
    """Return the flag of a value, if the command has one flag per value: --fp16 for a precision of fp16."""
    if command is None or any(option.name == name for option in command.params):
        return None
    return next((f"--{value}" for option in command.params if option.name == value), None)


def _is_multiple(name: str, command: click.Command | None) -> bool:
    return command is not None and any(
        isinstance(option, click.Option) and option.multiple for option in command.params if option.name == name
    )


def _value(value: ast.expr) -> str:
    """Translate an argument; names are placeholders for the user's own values."""
    if isinstance(value, ast.Starred):
        return f"{_value(value.value)}…"
    if isinstance(value, ast.Tuple):
        return ",".join(map(_value, value.elts))
    return shlex.quote(str(value.value)) if isinstance(value, ast.Constant) else ast.unparse(value)


def _commands() -> dict[str, click.Command]:
    from hemf_export.cli import COMMANDS, cli

    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in COMMANDS}
    return {name: command for name, command in commands.items() if command is not None}
