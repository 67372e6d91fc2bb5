"""Run modules of this package in child processes: native code may crash on its input."""

from __future__ import annotations

import sys


def command(module: str, *arguments: str) -> list[str]:
    """Build the command line that runs `module` as `python -m` would, with this process's import path.

    `-m` itself would put the current folder first, and a user's folder may well hold an `engines` or an `onnx.py`.
    """
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import runpy; "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code, *arguments]
