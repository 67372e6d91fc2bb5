"""What each of two processes does for `test_distributed`: `python -m tests.train.two_processes DATA OUTPUT`.

All in one start, which takes longer than the training itself. The first process writes down what was found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from hemf_export.files.errors import BadInputError, FailedElsewhereError
from hemf_export.train import distributed
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import Trainer
from tests.conftest import TINY  # it has BatchNorms
from tests.train.runs import Quiet, job

SCENARIOS: dict[str, dict[str, Any]] = {
    "synchronized": {"sync_batch_norm": True},
    "apart": {},
    "accumulating": {"accumulation_steps": 2, "ema_decay": 0.5},
}
EPOCHS = 2


def main(image_data: Path, output: Path) -> None:
    torch.set_num_threads(1)
    with distributed.joined("cpu") as group:
        for name, recipe in SCENARIOS.items():
            folder = group.from_first(lambda name=name: RunFolder(output / name, resume=False))
            trainer = Trainer(job(image_data, config=TINY, epochs=EPOCHS, **recipe), folder, resume=False)
            trainer.fit(Quiet())
            if name == "apart":
                torch.save(trainer.predict(trainer.job.validation), output / f"logits{group.rank}.pt")
            torch.save(trainer.model.state_dict(), output / f"{name}{group.rank}.pt")
        told: list[Any] = []
        try:
            group.from_first(_fail)
        except BadInputError as error:
            told = [type(error).__name__, str(error), error.exit_code]
        except FailedElsewhereError as error:
            told = [type(error).__name__, str(error), error.exit_code]
        everyone = group.gather(told)
        if group.first:
            (output / "told.json").write_text(json.dumps(everyone))


def _fail() -> None:
    raise BadInputError("The disk is full.", "Make room.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
