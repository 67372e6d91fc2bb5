"""Options that are numbers: what is out of their range is exit 2, before a file is looked at, in every command."""

from __future__ import annotations

import importlib
import json

import click
import pytest

from hemf_export import cli

BAD = ("nan", "-inf", "inf", "1e400", "-1", "²", "0x10", "9" * 5000, "1_0 0", "")
# Text of our own making that has numbers in it: (command, option, values that are none).
TEXTS = [
    ("bench", "--batch", ("0", "-1", "nan", "²", "9" * 5000, "1,,2", "1e3")),
    ("onnx", "--batch", ("0.5", "-1", "nan", "²", "9" * 5000)),
    ("trt", "--batch", ("0:1:2", "-1:8:32", "8:4:2", "1:8", "²:8:32", "9" * 5000, "nan")),
    ("triton", "--preferred", ("0", "-4", "²", "9" * 5000, "4,x")),
    ("calibrate", "--mean", ("nan,0,0", "inf,0,0", "1,2", "a,b,c")),
    ("onnx", "--source-size", ("0x10", "-1x5", "9" * 5000 + "x1", "²x²")),
    ("ablate", "--seeds", ("-1", "1,,2", "9" * 5000, "²")),
]
# What a command needs besides, so that the option is looked at.
REQUIRED = {
    "calibrate": ("m.onnx", "--precision", "int8", "--images", "none"),
    "trt": ("m.onnx", "--fp16"),
    "triton": ("m.onnx", "-o", "none"),
    "bench": ("m.onnx",),
    "onnx": ("m.pt", "--input", "uint8"),
    "ablate": ("none", "-o", "none"),
}


def numbers() -> list[tuple[str, str, str]]:
    """(command, option, a value that it can't have) of each option that takes a number."""
    found = []
    for name, (module, _) in cli.COMMANDS.items():
        command = importlib.import_module(module).command
        options = [each for each in command.params if isinstance(each, click.Option)]
        for option in options:
            if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
                found += [(name, option.opts[0], bad) for bad in BAD]
    return found


def test_no_option_takes_any_number_at_all():
    """A range belongs to each: otherwise -1 or NaN would travel into the work."""
    for name, (module, _) in cli.COMMANDS.items():
        command = importlib.import_module(module).command
        for option in command.params:
            if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
                assert isinstance(option.type, click.IntRange | click.FloatRange), f"{name} {option.opts[0]}"


@pytest.mark.parametrize(("command", "option"), sorted({(name, option) for name, option, _ in numbers()}))
def test_a_number_out_of_range_is_exit_2(run_cli, command, option):
    for bad in BAD:
        code, out, err = run_cli(command, option, bad, "--json")
        assert code == 2, (bad[:20], err)
        assert option in err
        assert json.loads(out)["exit_code"] == 2


@pytest.mark.parametrize(("command", "option", "values"), TEXTS, ids=[" ".join(text[:2]) for text in TEXTS])
def test_numbers_in_a_text_are_looked_at_before_files(run_cli, command, option, values):
    for bad in values:
        code, _, err = run_cli(command, *REQUIRED[command], option, bad)
        assert code == 2, (bad[:20], err)


@pytest.mark.parametrize("option", ["--learning-rate", "--mixup-alpha", "--epochs", "--batch-size", "--warmup-epochs"])
def test_a_recipe_of_no_numbers_is_exit_2(run_cli, option):
    whole = option in ("--epochs", "--batch-size", "--warmup-epochs")
    for bad in ("nan", "-3", *(["99999999999999999999"] if whole else [])):
        assert run_cli("train", "none", "-o", "none", option, bad)[0] == 2
