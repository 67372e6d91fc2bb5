"""The child process of a step: it answers with a JSON line after each check, the last of which is the result.

python -m hemf_export.gpu_check.worker NAME FUNCTION FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from hemf_export.gpu_check import catalogue, step


def main(name: str, function: str, folder: str) -> None:
    """Run a step, and write its results to the original stdout; whatever else is printed goes to stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a step that is ended closes what it opened
    answer = os.dup(1)
    os.dup2(2, 1)

    def write(result: step.Result) -> None:
        os.write(answer, json.dumps(result.to_dict(), default=str).encode() + b"\n")

    write(step.run(name, catalogue.load(function), step.Place(Path(folder)), write))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # native libraries may crash at shutdown, after the answer


if __name__ == "__main__":
    main(*sys.argv[1:])
