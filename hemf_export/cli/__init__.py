"""Command line: imports commands lazily, and turns every failure into one message and one exit code.

`hemf-export --help` imports neither torch nor any command.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from hemf_export import __version__
from hemf_export.cli import home, outside, streams
from hemf_export.files.errors import CheckFailedError, HemfError

# name → (module, one line of help). The line is here so that --help imports nothing else.
COMMANDS = {
    "data": (
        "hemf_export.cli.commands.data",
        "Divide images into train, val and test: the paper's splits, or your own.",
    ),
    "train": ("hemf_export.cli.commands.train", "Train a network on class folders of images."),
    "evaluate": ("hemf_export.cli.commands.evaluate", "Metrics, confusion matrix and ROC curves on labelled images."),
    "explain": ("hemf_export.cli.commands.explain", "Draw where in an image a checkpoint sees its class (Grad-CAM++)."),
    "ablate": ("hemf_export.cli.commands.ablate", "Train several configurations, and compare them."),
    "info": ("hemf_export.cli.commands.info", "Parameters and multiply-adds of a size or a checkpoint."),
    "onnx": ("hemf_export.cli.commands.onnx", "Export a checkpoint to ONNX, and prove the file against PyTorch."),
    "calibrate": ("hemf_export.cli.commands.calibrate", "Make an FP16 or INT8 ONNX file whose accuracy is known."),
    "finetune": ("hemf_export.cli.commands.finetune", "Train an INT8 file's weights for INT8, from its checkpoint."),
    "trt": ("hemf_export.cli.commands.trt", "Build a TensorRT engine, from a float16 graph proven first."),
    "bench": ("hemf_export.cli.commands.bench", "Time checkpoints, ONNX files and engines side by side."),
    "verify": ("hemf_export.cli.commands.verify", "Show on images that files are the model that was validated."),
    "predict": ("hemf_export.cli.commands.predict", "Classes and probabilities of images."),
    "triton": ("hemf_export.cli.commands.triton", "Write a model repository of Triton, and check it."),
    "triton-client": (
        "hemf_export.cli.commands.triton_client",
        "Classes and probabilities of images, by a Triton server.",
    ),
    "ship": ("hemf_export.cli.commands.ship", "Take checkpoints to bundles in one command, which resumes."),
    "bundle": ("hemf_export.cli.commands.bundle", "Pack files, proofs, Triton's repository and C++ into one archive."),
    "self-test": ("hemf_export.cli.commands.self_test", "Try an engine, or a whole bundle, on this machine."),
    "inspect": (
        "hemf_export.cli.commands.inspect",
        "What a checkpoint, ONNX file or engine is, and whether it may run.",
    ),
    "doctor": ("hemf_export.cli.commands.doctor", "What this machine has, what commands lack, and the fix."),
}
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """Group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from hemf_export.files.errors import did_you_mean

            raise click.UsageError(f"No command {args[0]!r}. {did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="hemf-export")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
def cli(debug: bool) -> None:
    """Train HEMF or another network, and take it to ONNX and TensorRT engines that are proven to be the same model.

    \b
    hemf-export data class-folders IMAGES -o DATA   train/, val/ and test/, no patient on two sides
    hemf-export train DATA -o RUN      class folders of images → RUN/best.pt
    hemf-export onnx RUN/best.pt       → RUN/best.onnx, proven against PyTorch
    hemf-export calibrate RUN/best.onnx --precision int8 --images DATA --max-drop 0.5   → INT8 within a budget
    hemf-export finetune RUN/best.int8.onnx --data DATA   where INT8 costs too much
    hemf-export trt RUN/best.onnx --fp16   → an engine for a T4
    hemf-export verify RUN/best.fp16.onnx --data DATA   the same classes as the checkpoint, image by image?
    hemf-export bench RUN/best.onnx    latency, side by side
    hemf-export ship RUN/best.pt --data DATA -o SHIPPED   all of these, and one bundle for the target
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code: 0 done, 1 bad input, 2 usage, 3 a check failed, 4 not on this machine,
    70 a defect of ours, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    streams.reopen_closed()
    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal ends a command as Ctrl-C does, except under nohup
        if (number := getattr(signal, name, None)) is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    # Pillow's warnings on odd headers don't help: an image decodes, or is refused by name.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with home.kept_clean():
        code = run(arguments)
    # All files are closed and children ended by now: freeing millions of objects would only cost seconds.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run a command; return its exit code. With `--json` a failure is also one JSON object on stdout."""
    output = sys.stdout
    try:
        with streams.guarded():
            return _run(arguments)
    except streams.OutputError as error:  # stdout can't be written, so no JSON either
        streams.forget(output)
        with streams.guarded():
            return _fail(error.exit_code, error.message, error.hint, [])
    except streams.ReaderGoneError:
        streams.forget(output)
        return 0


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        # --debug is accepted anywhere on the line, so that it can be appended to a failed command.
        cli.main([argument for argument in arguments if argument != "--debug"], standalone_mode=False)
    except (streams.OutputError, streams.ReaderGoneError):
        raise
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_INTERNAL
    except click.ClickException as error:
        return _fail(2, error.format_message(), _usage_hint(error), arguments)
    except (KeyboardInterrupt, click.Abort):
        return _fail(EXIT_INTERRUPTED, "Interrupted.", None, arguments)
    except Exception as error:  # noqa: BLE001 - the last stop
        if debug:
            traceback.print_exc()
        known = error if isinstance(error, HemfError) else outside.translated(error)
        if known is not None:
            report = known.report if isinstance(known, CheckFailedError) else None
            return _fail(known.exit_code, known.message, known.hint, arguments, report)
        message = f"Internal error: {type(error).__name__}: {error}"
        return _fail(EXIT_INTERNAL, message, "This is a defect of hemf-export; --debug shows where.", arguments)
    return 0


def _fail(
    code: int, message: str, hint: str | None, arguments: list[str], report: Mapping[str, Any] | None = None
) -> int:
    streams.say_error(message, hint)
    if "--json" in arguments:
        value: dict[str, Any] = {"error": message, "hint": hint, "exit_code": code, **(report or {})}
        sys.stdout.write(streams.json_text(value, indent=2 if report else None) + "\n")
        sys.stdout.flush()
    return code


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"{context.command_path} --help shows how it is called."


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
