"""What the tests share: tiny networks, tiny image folders, and the published material where it is at hand."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from hemf import checkpoint
from hemf.checkpoint import Checkpoint
from hemf.config import HemfConfig
from hemf.images import Preprocess
from hemf.initialization import build
from hemf.variants import vary

# A shell's background jobs ignore Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).parent.parent
SHARED = PROJECT.parent / "shared"
TINY = HemfConfig(name="test", num_classes=3, width=32, image_size=64, elf_depth=1, egf_depth=1)
CLASSES = ("bright", "dark", "striped")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills once a run, for every process of the run: nobody may change what is in it."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


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


def tiny_checkpoint(seed: int = 0, config: HemfConfig = TINY, classes: Sequence[str] = CLASSES) -> Checkpoint:
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
    from hemf_export import fp16, onnx_export

    def within(folder: Path) -> Made:
        return Made(folder, folder / "model.pt", folder / "model.onnx", folder / "model.fp16.onnx")

    def make(folder: Path) -> None:
        paths = within(folder)
        checkpoint.save(tiny_checkpoint(), paths.checkpoint)
        onnx_export.export(paths.checkpoint, paths.onnx, onnx_export.Options())
        fp16.convert(paths.onnx, paths.half)

    return within(once(tmp_path_factory, "made", make))


@pytest.fixture(scope="session")
def one_branch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a third of the network, `model.onnx` beside it, for what is the same of any network."""
    from hemf_export import onnx_export

    def make(folder: Path) -> None:
        checkpoint.save(tiny_checkpoint(config=vary(TINY, "local-only")), folder / "model.pt")
        onnx_export.export(folder / "model.pt", folder / "model.onnx", onnx_export.Options())

    return once(tmp_path_factory, "one_branch", make) / "model.pt"


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
    root = tmp_path_factory.mktemp("pictures")
    for seed, (split, count) in enumerate((("train", 16), ("val", 16), ("test", 4))):
        write_class_folders(root / split, count, seed)
    return root


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Of a tiny network that learned to tell the pictures apart."""
    from train.datasets import checks
    from train.job import Job
    from train.recipe import Recipe
    from train.run_folder import RunFolder
    from train.trainer import Trainer

    def make(folder: Path) -> None:
        splits = checks.load_splits(pictures)
        recipe = Recipe(epochs=8, batch_size=8, learning_rate=1e-3)
        job = Job(TINY, recipe, Preprocess.for_size(TINY.image_size), splits["train"], splits["val"])
        Trainer(job, RunFolder(folder, resume=False), resume=False).fit(Quiet())

    return once(tmp_path_factory, "trained_checkpoint", make) / "best.pt"


class Quiet:
    """A listener that hears nothing."""

    def step(self, *_: object) -> None:
        pass

    def epoch(self, line: dict) -> None:
        pass

    def phase(self, *_: object, **__: object) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep what they cache to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEMF_EXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
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
