"""What the tests share: tiny networks, tiny image folders, and the published material where it is at hand."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from PIL import Image

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.files.progress import Silent
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.networks.hemf.variants import vary
from hemf_export.networks.registry import build

# A shell's background jobs ignore Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long examples take to draw and to run says nothing about the code.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")

PROJECT = Path(__file__).parent.parent
SHARED = PROJECT.parent / "shared"
TINY = HemfConfig(name="test", num_classes=3, width=32, image_size=64, elf_depth=1, egf_depth=1)
# A third of the network, for all that doesn't need two branches and their fusion: three times as quick.
THIRD = vary(TINY, "local-only")
CLASSES = ("bright", "dark", "striped")


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files that all processes of the run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills once a run, for every process of the run: nobody may change what is in it."""
    root = run_folder(factory)
    folder, done = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


# What is built or started for these takes longer than the tests themselves.
EXTENDED_FIXTURES = {"cpp", "server"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the C++ library and of a Triton server belong to the second tier."""
    for item in items:
        if EXTENDED_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("extended")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development material; tests that need it are left out where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("needs the development material")
    return SHARED


@pytest.fixture(scope="session")
def authors(shared: Path):
    """The module that makes state dicts in the authors' layout."""
    sys.path.insert(0, str(shared / "authors-model"))
    try:
        import make_weights
    finally:
        sys.path.pop(0)
    return make_weights


def tiny_checkpoint(seed: int = 0, config: HemfConfig = THIRD, classes: Sequence[str] = CLASSES) -> Checkpoint:
    """A checkpoint whose BatchNorms have statistics of their own and whose logits spread."""
    model = build(config, seed=seed)
    generator = np.random.default_rng(seed)
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value = value * 0 + np.float32(generator.uniform(0.5, 1.5))
        elif name.endswith("running_mean"):
            value = value + np.float32(generator.normal(0, 0.1))
        elif name == "head.weight":
            value = value * 8
        state[name] = value
    return Checkpoint(
        config=config, classes=tuple(classes), preprocess=Preprocess.for_size(config.image_size), state=state
    )


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    """A tiny checkpoint, saved."""
    path = tmp_path / "model.pt"
    checkpoint.save(tiny_checkpoint(), path)
    return path


@dataclass(frozen=True)
class Made:
    """A tiny checkpoint and what was made from it, in one folder."""

    folder: Path
    checkpoint: Path
    onnx: Path
    half: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Files of a third of the network, for what is the same of any network."""
    return make_files(tmp_path_factory, "made", THIRD)


@pytest.fixture(scope="session")
def whole_network(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Files of a network with both branches, their fusion and every kind of block."""
    return make_files(tmp_path_factory, "whole_network", TINY)


@pytest.fixture(scope="session")
def one_branch(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a third of the network with nothing but `model.onnx` beside it."""

    def make(folder: Path) -> None:
        for path in (made.checkpoint, made.onnx, made.onnx.with_name("model.onnx.json")):
            shutil.copy(path, folder)

    return once(tmp_path_factory, "one_branch", make) / "model.pt"


def make_files(factory: pytest.TempPathFactory, name: str, config: HemfConfig) -> Made:
    from hemf_export.export import onnx_export
    from hemf_export.precision import quantize
    from hemf_export.precision.quantization_request import Request

    def within(folder: Path) -> Made:
        return Made(folder, folder / "model.pt", folder / "model.onnx", folder / "model.fp16.onnx")

    def make(folder: Path) -> None:
        paths = within(folder)
        checkpoint.save(tiny_checkpoint(config=config), paths.checkpoint)
        onnx_export.export(paths.checkpoint, paths.onnx, onnx_export.Options())
        quantize.make(Request(paths.onnx, output=paths.half))

    return within(once(factory, name, make))


def write_images(folder: Path, count: int, kind: str, seed: int = 0, side: int = 40) -> None:
    """`count` small PNG files of a kind that a network can learn."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, *kind.encode()])
    for index in range(count):
        pixels = generator.integers(0, 60, (side, side, 3))
        if kind == "bright":
            pixels = pixels + 180
        elif kind == "striped":
            pixels = pixels + (np.arange(side) // 4 % 2 * 180)[None, :, None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{kind}{index}.png")


def write_class_folders(root: Path, count: int, seed: int = 0) -> Path:
    """A folder of `count` images for each class; `root`."""
    for kind in CLASSES:
        write_images(root / kind, count, kind, seed)
    return root


@pytest.fixture
def image_data(tmp_path: Path) -> Path:
    """A data folder: train/, val/ and test/ with three classes."""
    root = tmp_path / "data"
    for seed, (split, count) in enumerate((("train", 8), ("val", 4), ("test", 4))):
        write_class_folders(root / split, count, seed)
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, larger, for a network that learns them well: kept for all tests, none writes into it."""

    def make(root: Path) -> None:
        for seed, (split, count) in enumerate((("train", 16), ("val", 16), ("test", 4))):
            write_class_folders(root / split, count, seed)

    return once(tmp_path_factory, "pictures", make)


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A third of the network, which learned to tell the pictures apart."""
    return train(tmp_path_factory, "trained_checkpoint", THIRD, pictures)


@pytest.fixture(scope="session")
def whole_trained_checkpoint(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A network with every kind of block, which learned to tell the pictures apart."""
    return train(tmp_path_factory, "whole_trained_checkpoint", TINY, pictures)


def train(factory: pytest.TempPathFactory, name: str, config: HemfConfig, pictures: Path) -> Path:
    from hemf_export.train.datasets import checks
    from hemf_export.train.job import Job
    from hemf_export.train.recipe import Recipe
    from hemf_export.train.run_folder import RunFolder
    from hemf_export.train.trainer import Trainer

    def make(folder: Path) -> None:
        splits = checks.load_splits(pictures)
        recipe = Recipe(epochs=8, batch_size=8, learning_rate=1e-3)
        job = Job(config, recipe, Preprocess.for_size(config.image_size), splits["train"], splits["val"])
        Trainer(job, RunFolder(folder, resume=False), resume=False).fit()

    return once(factory, name, make) / "best.pt"


class Recorder(Silent):
    """Remembers all that is reported: titles of tasks, how far they were moved, notes, events."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.moves: list[tuple[object, ...]] = []
        self.notes: list[str] = []
        self.events: list[object] = []

    @contextmanager
    def task(self, text: str, total: float | None = None, unit: str = "") -> Iterator[RecordedTask]:
        self.tasks.append(text)
        yield RecordedTask(self)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def event(self, event: object) -> None:
        self.events.append(event)


@dataclass
class RecordedTask:
    to: Recorder

    def advance(self, count: float = 1) -> None:
        self.to.moves.append((count,))

    def update(self, completed: float, total: float | None = None, text: str | None = None) -> None:
        self.to.moves.append((text, completed, total))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep what they cache to themselves; what one process of the run has compiled, the others needn't again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEMF_EXPORT_CACHE", str(run_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""
    from hemf_export.cli import run

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call
