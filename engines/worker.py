"""The child process that builds: `python -m engines.worker REQUEST PLAN`. Progress goes to stdout, a JSON line each.

REQUEST is a JSON file. The exit code tells how it ended, as the command's would; the last line has the reason.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from engines import backends, builder, targets
from engines.batches import BatchProfile
from hemf import artifacts
from hemf.errors import HemfError


def main(request_path: str, plan_path: str) -> int:
    """Build what the request says and write the plan."""
    request: dict[str, Any] = json.loads(Path(request_path).read_text())
    try:
        backend = backends.load(request["backend"])
        plan = builder.build_plan(
            backend,
            Path(request["graph"]),
            targets.find(request["target"]),
            BatchProfile.parse(request["profile"]),
            workspace_bytes=request["workspace_bytes"],
            progress=lambda phase, step, steps: _tell(phase=phase, step=step, steps=steps),
        )
    except builder.BuildFailedError as error:
        _tell(error=str(error))
        return 1
    except HemfError as error:
        _tell(error=error.message, hint=error.hint)
        return error.exit_code
    artifacts.write_bytes(Path(plan_path), plan)
    _tell(version=backend.version)
    return 0


def _tell(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
