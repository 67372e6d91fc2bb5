"""What tests of training share: small jobs, a receiver of epochs, command lines, and what of a run must agree."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from hemf_export.checkpoints.checkpoint_files import read_pickle
from hemf_export.files.progress import Silent
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.config import HemfConfig
from hemf_export.train.datasets import checks
from hemf_export.train.job import Job
from hemf_export.train.recipe import Recipe
from hemf_export.train.trainer import Epoch
from tests.conftest import THIRD

# A third of the network, as in `conftest.THIRD`.
ARGUMENTS = [
    "--model", "hemf-tiny", "--variant", "local-only", "--image-size", "32", "--batch-size", "8",
    "--learning-rate", "1e-3",
]  # fmt: skip
# All that draws at random, or that has a state of its own.
EXTRAS = [
    "--ema-decay", "0.9", "--drop-path", "0.3", "--mixup-alpha", "0.2", "--cutmix-alpha", "1", "--augmentation", "rand",
    "--sampling", "class-balanced", "--gradient-clip", "1", "--accumulation-steps", "2",
]  # fmt: skip
TIMES = ("images_per_second", "seconds", "loader_share")


class Quiet(Silent):
    """Remembers the metrics of each epoch."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def event(self, event: object) -> None:
        if isinstance(event, Epoch):
            self.epoch(event.metrics)

    def epoch(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def job(image_data: Path, *, config: HemfConfig = THIRD, **recipe: object) -> Job:
    splits = checks.load_splits(image_data)
    train, validation = splits["train"], splits["val"]
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-3, **recipe}
    return Job(config, Recipe(**settings), Preprocess.for_size(64), train, validation)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hemf_export", "train", *(str(argument) for argument in arguments)]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets for one of its processes."""
    return {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what is measured by a clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def outcome(folder: Path) -> tuple[object, ...]:
    """All of a finished run that must be the same however often it was killed.

    Of last.pt its digest: pickle writes one string or two, as they were one object or two.
    """
    digest = read_pickle(folder / "last.pt")["sha256"]
    return (folder / "best.pt").read_bytes(), digest, lines(folder)
