"""Children run our modules, whatever lies in the current folder."""

from __future__ import annotations

import subprocess

from hemf_export.files import child


def test_the_current_folder_shadows_nothing(tmp_path):
    (tmp_path / "engines").mkdir()
    for name in ("engines/__init__.py", "onnx.py", "hemf.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    command = child.command("hemf_export.engines.build_process", str(tmp_path / "no-request.json"), "plan")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "the wrong one" not in done.stderr
    assert "no-request.json" in done.stderr, "our worker ran, and missed its request"
