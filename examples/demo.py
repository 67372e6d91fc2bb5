"""Run all steps on a sample of blood cells: `make demo`. All its files stay in demo-run/.

It runs the commands as a user would, in that folder, and ends with the results: the model's accuracy, the speed-up of
its ONNX file, and the size of the engine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hemf_export.cli import console
from hemf_export.files import artifacts
from hemf_export.metrics.percentage import percentage

DATA = Path(__file__).parent / "blood_cells"
CHANCE = 1 / 3
# The paper's recipe, shortened to minutes on a CPU: a small input, a higher learning rate, few epochs.
TRAIN = [
    "--model",
    "hemf-tiny",
    "--image-size",
    "96",
    "--epochs",
    "10",
    "--batch-size",
    "16",
    "--learning-rate",
    "1e-3",
]


def main(folder: Path) -> int:
    """Run the demo in `folder`, which is emptied first; return the exit code."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = ["--images", str(DATA / "test")]
    command(folder, "train", str(DATA), "-o", ".", *TRAIN)
    command(folder, "onnx", "best.pt", *images)
    command(folder, "trt", "--fp16", "--images", str(DATA))
    command(folder, "verify", "best.onnx", "best.fp16.onnx", "--data", str(DATA), "--report", "verify.html")
    command(folder, "bench", "--batch", "1,8", "--seconds", "10", "-o", "bench.json")
    assert artifacts.read_manifest(folder / "best.fp16.t4.engine") is not None, "its hash is that of its manifest"
    accuracy = show_result(folder)
    console.say(f"Done in {time.monotonic() - started:.0f} s: everything is in {folder}")
    if accuracy < 2 * CHANCE:
        console.warn(f"The accuracy of {accuracy:.1%} is not well over chance.")
        return 3
    return 0


def show_result(folder: Path) -> float:
    """Print the main results; return the accuracy on the test images."""
    test = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["splits"]["test"]
    speed = json.loads((folder / "bench.json").read_text(encoding="utf-8"))["headlines"]
    accuracy: float = test["accuracy"]
    rows = [
        ("accuracy", f"{percentage(accuracy, test['images'])} of {test['images']} test images (chance: {CHANCE:.0%})"),
        ("best.onnx", speed["best.onnx"]),
        *((path.name, console.size(path.stat().st_size)) for path in sorted(folder.glob("*.engine"))),
        ("to look at", ", ".join(path.name for path in sorted(folder.iterdir()) if path.suffix in (".png", ".html"))),
    ]
    console.facts("\nThe result", rows)
    return accuracy


def command(folder: Path, *arguments: str) -> None:
    """Show a command and run it in `folder`; a failure ends the demo with its exit code."""
    console.talk.print()
    console.say(f"$ hemf-export {' '.join(arguments)}")
    sys.stderr.flush()
    done = subprocess.run([sys.executable, "-m", "hemf_export", *arguments], cwd=folder, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-run").resolve()))
