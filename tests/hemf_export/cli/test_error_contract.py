"""Every command with every kind of bad input: one message that names it, an exit code, and nothing changed on the disk.

The tables are held against click's own tree: a new command, or a new parameter that takes a path or a text, fails
`test_every_command_and_parameter_is_listed` until it is in them. Numbers and choices are found by their types.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from hemf_export.cli import cli, run
from hemf_export.files.printable import printable_lines
from tests.conftest import Made, write_class_folders, write_images
from tests.hemf_export.triton.models import means, plan
from tests.train.datasets import downloads

TRAINING = "DATA -o OUT --model hemf-tiny --image-size 32 --epochs 1 --batch-size 4 --device cpu"
# A line of each command that would run in the folder `world`, were nothing bad put into it.
LINES = {
    "data check": "DATA",
    "data class-folders": "FOLDERS -o OUT",
    "data covid-ct": "COVID -o OUT",
    "data isic2018": "ISIC -o OUT",
    "data kvasir": "KVASIR -o OUT",
    "train": TRAINING,
    "ablate": TRAINING,
    "evaluate": "model.pt --data FOLDERS -o OUT",
    "explain": "model.pt image.png -o OUT",
    "info": "model.pt",
    "onnx": "model.pt -o out.onnx",
    "calibrate": "model.onnx --precision fp16 --images DATA -o out.onnx",
    "finetune": "best.int8.onnx --data DATA -o out.onnx",
    "trt": "model.onnx --fp16 -o out.engine",
    "bench": "model.onnx --no-memory --seconds 0.01",
    "verify": "model.onnx --data DATA",
    "predict": "model.pt image.png",
    "triton": "means.onnx -o OUT",
    "triton-client": "http://127.0.0.1:9 image.png",  # where nobody listens
    "ship": "model.pt --data DATA -o OUT",
    "bundle": "means.onnx -o out.tar.zst --no-cpp",
    "self-test": "plan.engine",
    "inspect": "model.onnx",
    "doctor": "",
}
DIVISIONS = [f"data {name}" for name in ("class-folders", "covid-ct", "isic2018", "kvasir")]
# Other lines, for parameters that make sense with others alone.
OTHER_LINES = {
    **{(name, "groups"): f"{LINES[name]} --group-column patient" for name in DIVISIONS},
    **{(name, "group_column"): f"{LINES[name]} --groups groups.csv" for name in DIVISIONS},
    **{(name, "image_column"): f"{LINES[name]} --groups groups.csv --group-column patient" for name in DIVISIONS},
    ("bench", "verified"): "model.onnx -o out.json",
    ("bundle", "factory"): "model.onnx -o out.tar.zst --no-cpp",  # its checkpoint lies beside it
    ("info", "variant"): "hemf-tiny",
    ("triton", "check"): "",
    ("self-test", "keep"): "bundle.tar.zst",
    ("self-test", "max_slowdown"): "bundle.tar.zst",
    ("onnx", "source_size"): "model.pt -o out.onnx --input uint8",
    ("ship", "source_size"): "model.pt --data DATA -o OUT --input uint8",
    **{("doctor", name): "--gpu" for name in ("output", "minutes", "steps")},
}

# What may be wrong with each kind of path. "missing" has a name that would steer a terminal and speak in our place.
ODD = "no\x1b[2J\u202esuch\nerror: fine"
DAMAGED = ("missing", "dangling link", "folder", "empty", "cut", "noise", "picture")
CHECKPOINT = [*(f"{kind}.pt" for kind in DAMAGED), "empty.safetensors", "noise.safetensors"]
ONNX = [*(f"{kind}.onnx" for kind in DAMAGED), "noise.txt"]
ANY_MODEL = [*(f"{kind}.onnx" for kind in DAMAGED), "cut.pt", "empty.pt", "empty.engine", "noise.plan", "noise.txt"]
BUNDLE = [*(f"{kind}.tar.zst" for kind in DAMAGED), "missing.engine", "folder.engine", "noise.engine"]
REPORT = [*(f"{kind}.json" for kind in ("missing", "dangling link", "folder", "empty", "noise")), "list.json"]
TEXT_FILE = [f"{kind}.toml" for kind in ("missing", "dangling link", "folder", "noise")]
PLAIN_FOLDER = ["missing", "nothing", "file.txt"]
IMAGES = [*PLAIN_FOLDER, "BROKEN"]
LABELLED = [*IMAGES, "OTHER"]
SPLITS = [*PLAIN_FOLDER, "FOLDERS", "BROKEN SPLITS", "OTHER SPLITS"]
IMAGE = ["missing.png", "dangling link.png", "nothing", "empty.png", "noise.png", "cut.png", "BROKEN"]
OUTPUT_FILE = ["nothing", "file.txt/out", "/proc/out", "INPUT"]
OUTPUT_FOLDER = ["file.txt", "file.txt/out", "/proc/out"]
PATHS: dict[tuple[str, str], list[str]] = {
    ("data check", "folder"): [*PLAIN_FOLDER, "FOLDERS"],
    **{(name, "source"): PLAIN_FOLDER for name in DIVISIONS},
    **{(name, "output"): [*OUTPUT_FOLDER, "FOLDERS"] for name in DIVISIONS},
    **{(name, "groups"): [*TEXT_FILE, "empty.toml"] for name in DIVISIONS},
    ("train", "data"): SPLITS, ("train", "output"): [*OUTPUT_FOLDER, "RUN"], ("train", "teacher"): CHECKPOINT,
    ("train", "init"): CHECKPOINT,
    ("ablate", "data"): SPLITS, ("ablate", "output"): OUTPUT_FOLDER, ("ablate", "configs"): [*TEXT_FILE, "empty.toml"],
    ("ablate", "teacher"): CHECKPOINT,
    ("evaluate", "files"): ANY_MODEL, ("evaluate", "data"): [*LABELLED, "FLAT"],
    ("evaluate", "output"): [*OUTPUT_FOLDER, "FOLDERS"],
    ("explain", "file"): CHECKPOINT, ("explain", "images"): IMAGE, ("explain", "output"): [*OUTPUT_FOLDER, "FOLDERS"],
    ("onnx", "checkpoint"): CHECKPOINT, ("onnx", "output"): OUTPUT_FILE, ("onnx", "images"): LABELLED,
    ("calibrate", "model"): ONNX, ("calibrate", "images"): LABELLED, ("calibrate", "held_out"): LABELLED,
    ("calibrate", "output"): OUTPUT_FILE,
    ("finetune", "model"): ONNX, ("finetune", "data"): [*LABELLED, "FLAT"], ("finetune", "reference"): ANY_MODEL,
    ("finetune", "held_out"): [*LABELLED, "FLAT"], ("finetune", "output"): OUTPUT_FILE,
    ("trt", "model"): ONNX, ("trt", "images"): LABELLED, ("trt", "output"): OUTPUT_FILE,
    ("bench", "files"): ANY_MODEL, ("bench", "images"): IMAGES, ("bench", "output"): OUTPUT_FILE,
    ("bench", "markdown"): OUTPUT_FILE, ("bench", "report"): OUTPUT_FILE, ("bench", "verified"): REPORT,
    ("bench", "baseline"): REPORT,
    ("verify", "candidates"): ANY_MODEL, ("verify", "data"): LABELLED, ("verify", "reference"): CHECKPOINT,
    ("verify", "float32"): ONNX, ("verify", "report"): OUTPUT_FILE, ("verify", "markdown"): OUTPUT_FILE,
    ("verify", "earlier"): REPORT,
    ("predict", "file"): ANY_MODEL, ("predict", "images"): IMAGE,
    ("triton", "models"): ONNX, ("triton", "output"): [*OUTPUT_FOLDER, "FOLDERS"], ("triton", "check"): PLAIN_FOLDER,
    ("triton", "images"): IMAGES,
    ("triton-client", "images"): ["missing.png", "dangling link.png", "nothing"],
    ("ship", "checkpoint"): [*CHECKPOINT, "nothing"], ("ship", "data"): [*PLAIN_FOLDER, "OTHER"],
    ("ship", "output"): [*OUTPUT_FOLDER, "FOLDERS"], ("ship", "config"): TEXT_FILE,
    ("bundle", "files"): ONNX, ("bundle", "verified"): REPORT, ("bundle", "bench"): REPORT,
    ("bundle", "images"): IMAGES, ("bundle", "use"): [*TEXT_FILE, "empty.toml"], ("bundle", "checkpoint"): CHECKPOINT,
    ("bundle", "output"): ["nothing", "folder.tar.zst", "file.txt/o.tar.zst", "/proc/o.tar.zst", "INPUT"],
    ("self-test", "engine"): BUNDLE, ("self-test", "keep"): [*OUTPUT_FOLDER, "FOLDERS"],
    ("inspect", "file"): ANY_MODEL,
    ("doctor", "output"): OUTPUT_FOLDER,
}  # fmt: skip

# Texts that are none of those that a parameter takes.
HUGE = "9" * 5000
CLASSES, WEIGHTS, TARGET, FILE_NAME = ["a,b", "a,b,c", "a,a,b"], ["nonesuch"], ["t5", "sm_1", ""], ["../x", "a/b", ""]
BATCHES = ["0:1:2", "-1:8:32", "8:4:2", "1:8", "²:8:32", HUGE, "nan"]
READERS = (  # of checkpoints
    *("bench", "bundle", "evaluate", "explain", "finetune", "info", "inspect", "onnx", "predict", "ship", "trt"),
    "verify",
)
TEXTS: dict[tuple[str, str], list[str]] = {
    **{(name, "factory"): ["nonesuch_module:make"] for name in READERS},
    ("train", "teacher_model"): [], ("ablate", "teacher_model"): [],
    ("explain", "feature_layer"): ["nonesuch"],
    **{(name, "split"): ["1/2", "nan/0/1", "0.5/0.6/0.7", "-1/1/1"] for name in DIVISIONS},
    **{(name, "group_column"): ["nonesuch"] for name in DIVISIONS},
    **{(name, "image_column"): ["nonesuch"] for name in DIVISIONS},
    ("train", "model"): ["hemf-bas", "nonesuch_module:make"], ("train", "variant"): ["nonesuch"], ("train",
    "recipe_source"): ["nonesuch"],
    ("ablate", "model"): ["hemf-bas"], ("ablate", "recipe_source"): ["nonesuch"],
    ("ablate", "seeds"): ["-1", "1,,2", HUGE, "²"],
    ("evaluate", "classes"): CLASSES, ("evaluate", "weights"): WEIGHTS,
    ("explain", "class_name"): ["nonesuch"], ("explain", "classes"): CLASSES, ("explain", "weights"): WEIGHTS,
    ("info", "model"): ["hemf-bas", *CHECKPOINT], ("info", "variant"): ["nonesuch"], ("info", "classes"): CLASSES,
    ("info", "weights"): WEIGHTS,
    ("onnx", "batch"): ["0", "many", "0.5", "-1", "nan", "²", HUGE],
    ("onnx", "source_size"): ["0x10", "-1x5", f"{HUGE}x1"],
    ("onnx", "classes"): CLASSES, ("onnx", "weights"): WEIGHTS,
    ("calibrate", "target"): TARGET, ("calibrate", "classes"): CLASSES,
    ("calibrate", "mean"): ["nan,0,0", "inf,0,0", "1,2", "a,b,c"],
    ("calibrate", "std"): ["nan,1,1", "0,0", "a,b,c"],
    ("finetune", "weights"): WEIGHTS,
    ("trt", "target"): TARGET, ("trt", "batch"): BATCHES, ("trt", "classes"): CLASSES, ("trt", "weights"): WEIGHTS,
    ("bench", "batches"): ["0", "-1", "nan", "²", HUGE, "1,,2", "1e3"], ("bench", "runners"): ["fast", ""],
    ("bench", "target"): [*TARGET, "sm_75"], ("bench", "weights"): WEIGHTS,
    ("verify", "classes"): CLASSES, ("verify", "weights"): WEIGHTS,
    ("predict", "classes"): CLASSES, ("predict", "weights"): WEIGHTS,
    ("triton", "name"): FILE_NAME, ("triton", "preferred"): ["0", "-4", "²", HUGE, "4,x"],
    ("triton", "versions"): ["0", "latest:0", "some", HUGE],
    ("triton-client", "url"): ["ftp://host", "http://"], ("triton-client", "name"): [],  # a server knows
    ("ship", "name"): FILE_NAME, ("ship", "target"): TARGET, ("ship", "batch"): BATCHES,
    ("ship", "source_size"): ["0x10", "-1x5"], ("ship", "classes"): CLASSES, ("ship", "weights"): WEIGHTS,
    ("ship", "use"): ["missing.md", "folder.toml"],
    ("bundle", "name"): FILE_NAME,
    ("inspect", "classes"): CLASSES, ("inspect", "weights"): WEIGHTS,
    ("doctor", "steps"): ["nonesuch"],
}  # fmt: skip
NUMBERS = ("nan", "-inf", "1e400", "²", "0x10", HUGE, "")

# What only a file can tell, or a list that other files may be named beside, is bad input; the rest is wrong usage.
TOLD_BY_A_FILE = {"classes", "weights", "factory", "group_column", "image_column", "model", "variant", "recipe_source"}
# Exit codes other than 1 for a path and 2 for a value.
WRONG_USAGE = {
    ("ablate", "configs", "empty.toml"), ("trt", "weights", "nonesuch"),
    ("trt", "factory", "nonesuch_module:make"),
    ("bundle", "output", "nothing"), ("bundle", "output", "INPUT"),
}  # fmt: skip
# Where results come before the failure: what is known of a file, and what came of each checkpoint.
SHOWN_FIRST = {"inspect", "ship"}


def leaves(command: click.Command = cli, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    for name in command.list_commands(context := click.Context(command)):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, *path, name)


TREE = dict(leaves())


def is_number(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)


def parameters(wanted: Callable[[click.Parameter], bool]) -> list[tuple[str, str]]:
    return [(name, str(one.name)) for name, command in TREE.items() for one in command.params if wanted(one)]


def test_every_command_and_parameter_is_listed():
    def a_text(parameter: click.Parameter) -> bool:
        others = isinstance(parameter.type, click.Path | click.Choice) or is_number(parameter)
        return not others and not getattr(parameter, "is_flag", False)

    assert set(LINES) == set(TREE)
    assert set(PATHS) == set(parameters(lambda one: isinstance(one.type, click.Path)))
    assert set(TEXTS) == set(parameters(a_text))


def test_no_option_takes_any_number_at_all():
    """A range belongs to each: otherwise -1 or NaN would travel into the work."""
    for name, command in TREE.items():
        for one in command.params:
            assert not is_number(one) or isinstance(one.type, click.IntRange | click.FloatRange), f"{name} {one.opts}"


@pytest.fixture(scope="module")
def world(made: Made, int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the lines name, and with bad ones of every kind: no command may change it."""

    root = tmp_path_factory.mktemp("world")
    for source in (*made.folder.iterdir(), *int8.parent.iterdir()):
        shutil.copy(source, root)
    means(root / "means.onnx")
    plan(root / "plan.engine")
    write_class_folders(root / "FOLDERS", 6, 9)
    for name in ("DATA", "BROKEN SPLITS", "OTHER SPLITS"):
        assert run(["data", "class-folders", str(root / "FOLDERS"), "-o", str(root / name), "--copy"]) == 0
    downloads.covid_ct(root / "COVID")
    downloads.isic2018(root / "ISIC", 3)
    downloads.kvasir(root / "KVASIR", 2)
    for name in ("BROKEN", "OTHER"):
        shutil.copytree(root / "FOLDERS", root / name)
    for path in (*root.glob("BROKEN/*/*"), next(root.glob("BROKEN SPLITS/train/dark/*"))):
        path.write_bytes(path.read_bytes()[:60])
    for folder in (root / "OTHER", root / "OTHER SPLITS" / "val"):
        (folder / "dark").rename(folder / "dim")
    write_images(root / "FLAT", 4, "dark")
    shutil.copy(root / "FLAT" / "dark0.png", root / "image.png")
    (root / "nothing").mkdir()
    (root / "RUN").mkdir()
    shutil.copy(made.checkpoint, root / "RUN" / "best.pt")
    (root / "file.txt").write_text("a file of the user")
    (root / "list.json").write_text("[]")
    (root / "groups.csv").write_text("image,patient\na.png,P1\n")
    assert run(["bundle", str(root / "means.onnx"), "-o", str(root / "bundle.tar.zst"), "--no-cpp"]) == 0
    whole = {".onnx": made.onnx, ".png": root / "image.png", ".tar.zst": root / "bundle.tar.zst"}
    for suffix in (".pt", ".safetensors", ".onnx", ".engine", ".plan", ".tar.zst", ".json", ".toml", ".png"):
        (root / f"empty{suffix}").touch()
        (root / f"noise{suffix}").write_bytes(bytes(range(1, 256)) * 8)
        (root / f"folder{suffix}").mkdir()
        (root / f"dangling link{suffix}").symlink_to("nowhere")
        shutil.copy(root / "image.png", root / f"picture{suffix}")
        data = whole.get(suffix, made.checkpoint).read_bytes()
        (root / f"cut{suffix}").write_bytes(data[: len(data) // 2])
    shutil.copy(root / "noise.pt", root / "noise.txt")
    return root


def state(root: Path) -> dict[str, tuple[int, int, int] | None]:
    """Every file below a folder with what any change of it would change; folders, and links, by their names."""
    found: dict[str, tuple[int, int, int] | None] = {}
    for folder, folders, files in os.walk(root):
        found |= {f"{folder}/{name}": None for name in folders}
        for name in files:
            seen = os.lstat(f"{folder}/{name}")
            found[f"{folder}/{name}"] = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
    return found


def words(command: str, name: str, value: str) -> list[str]:
    """The line of a command with a value for one of its parameters."""
    line = OTHER_LINES.get((command, name), LINES[command]).split()
    parameter = next(one for one in TREE[command].params if one.name == name)
    if isinstance(parameter, click.Argument):
        line[[one.name for one in TREE[command].params if isinstance(one, click.Argument)].index(name)] = value
        return line
    for option in parameter.opts:
        if option in line:
            del line[line.index(option) : line.index(option) + 2]
    return [*line, parameter.opts[-1], value]


@pytest.fixture
def fails(run_cli, world: Path, monkeypatch) -> Iterator[Callable[..., None]]:
    """See that a line fails by the contract, plainly and with --json, with a message that has one of `named` in it."""
    monkeypatch.chdir(world)
    before = state(world)

    def call(command: str, line: list[str], named: list[str], code: int) -> None:
        found, out, err = run_cli(*command.split(), *line)
        assert found == code, err
        assert not out or command in SHOWN_FIRST
        assert "Traceback" not in err
        assert len(re.findall("^error: ", err, re.MULTILINE)) == 1, err
        assert all(sign.isprintable() or sign == "\n" for sign in err), "it would steer a terminal"
        found, out, err = run_cli(*command.split(), *line, "--json")
        value = json.loads(out)
        assert found == value["exit_code"] == code
        assert printable_lines(f"error: {value['error']}") in err
        said = f"{value['error']}\n{value['hint']}"
        assert any(name in said for name in named), (said, named)
        assert value["hint"] or code == 2, "how to mend it"

    yield call
    assert state(world) == before


@pytest.mark.parametrize(
    ("command", "name", "kind"), [(*place, kind) for place, kinds in PATHS.items() for kind in kinds]
)
def test_a_bad_path(command: str, name: str, kind: str, fails):
    value = kind
    if kind.startswith("missing"):
        value = ODD + kind.removeprefix("missing")
    elif kind == "INPUT":
        value = LINES[command].split()[0]
    # Of a place that can't be written the folder is named.
    named = [value, *([str(Path(value).parent)] if "/" in value else [])]
    fails(command, words(command, name, value), named, 2 if (command, name, kind) in WRONG_USAGE else 1)


@pytest.mark.parametrize(("command", "name"), [place for place, values in TEXTS.items() if values])
def test_a_text_that_it_does_not_take(command: str, name: str, fails):
    parameter = next(one for one in TREE[command].params if one.name == name)
    for text in TEXTS[command, name]:
        value = ODD + text.removeprefix("missing") if text.startswith("missing") else text
        named = [value or "''", value.replace(",", ", "), *parameter.opts]
        bad_input = name in TOLD_BY_A_FILE and (command, name, text) not in WRONG_USAGE
        fails(command, words(command, name, value), named, 1 if bad_input else 2)


@pytest.mark.parametrize(("command", "name"), parameters(is_number))
def test_a_number_out_of_range(command: str, name: str, fails):
    for value in (*NUMBERS, *beyond(command, name)):
        line = words(command, name, value)
        fails(command, line, [line[-2], name.replace("_", " ")], 2)


def beyond(command: str, name: str) -> Iterator[str]:
    """The nearest numbers that are too small and too large."""
    kind = next(one.type for one in TREE[command].params if one.name == name)
    assert isinstance(kind, click.IntRange | click.FloatRange)
    if (command, name) == ("onnx", "opset"):
        yield "16"
    if kind.min is not None:
        yield str(kind.min if kind.min_open else kind.min - 1)
    if kind.max is not None:
        yield str(kind.max if kind.max_open else kind.max + 1)


@pytest.mark.parametrize(("command", "name"), parameters(lambda one: isinstance(one.type, click.Choice)))
def test_none_of_the_choices(command: str, name: str, fails):
    fails(command, words(command, name, "nonesuch"), ["nonesuch"], 2)


@pytest.mark.parametrize("command", TREE)
def test_a_misspelt_option_and_a_missing_argument(command: str, fails):
    fails(command, [*LINES[command].split(), "--jsn"], ["--json"], 2)
    if any(one.required for one in TREE[command].params):
        fails(command, [], ["Missing"], 2)
