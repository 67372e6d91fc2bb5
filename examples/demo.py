"""The whole path on a sample of blood cells: `make demo`. Everything that it makes stays in demo-run/.

Runs the commands as a user would, in that folder, and ends with a table of the files made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hemf import artifacts, checkpoint, folders
from hemf_export import console
from hemf_export.onnx_file import read
from hemf_export.runners import OnnxRunner, Runner, TorchRunner

DATA = Path(__file__).parent / "blood_cells"
CHANCE = 1 / 3
# The paper's recipe, shortened to a CPU's minutes: a small input, a higher rate, few epochs.
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
    """Run the demo in `folder`, which is emptied first; the exit code."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = ["--images", str(DATA / "test")]
    command(folder, "train", str(DATA), "-o", ".", *TRAIN)
    command(folder, "onnx", "best.pt", *images)
    command(folder, "trt", "--fp16", *images)
    command(folder, "verify", "best.onnx", "best.fp16.onnx", "--data", str(DATA), "--report", "verify.html")
    command(folder, "bench", "--batch", "1,8", "--seconds", "10")
    rows = table(folder)
    console.table(f"\nMade in {folder}/", ("file", "size", "test accuracy", "logits from PyTorch's"), rows)
    accuracy = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["splits"]["test"]["accuracy"]
    console.say(f"Done in {time.monotonic() - started:.0f} s. Chance would be {CHANCE:.0%}.")
    if accuracy < 2 * CHANCE:
        console.warn(f"The accuracy of {accuracy:.1%} is not well over chance.")
        return 3
    return 0


def command(folder: Path, *arguments: str) -> None:
    """Show a command and run it in `folder`; a failure ends the demo with its exit code."""
    console.say(f"\n$ hemf-export {' '.join(arguments)}")
    sys.stderr.flush()
    done = subprocess.run([sys.executable, "-m", "hemf_export.cli", *arguments], cwd=folder, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def table(folder: Path) -> list[tuple[str, str, str, str]]:
    """Every file in `folder`; those that compute logits are run on the sample's test images."""
    saved = checkpoint.load(folder / "best.pt")
    images = folders.class_folders(DATA / "test", saved.classes)
    runners: dict[str, Runner] = {"best.pt": TorchRunner(saved.model())}
    runners |= {path.name: OnnxRunner(path) for path in sorted(folder.glob("*.onnx")) if read(path)}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in runners}
    for pixels in folders.batches(images, saved.preprocess, 16):
        for name, runner in runners.items():
            logits[name].append(runner.infer(saved.preprocess.normalize(pixels)))
    found = {name: np.concatenate(parts) for name, parts in logits.items()}
    truth = np.asarray(images.labels)
    rows = []
    for path in sorted(folder.iterdir()):
        accuracy, difference = "", ""
        if path.name in found:
            accuracy = f"{np.mean(found[path.name].argmax(1) == truth):.2%}"
            difference = f"{np.abs(found[path.name] - found['best.pt']).max():.1e}"
        elif path.suffix == ".engine":
            accuracy = difference = "needs a GPU"
        rows.append((path.name, console.size(path.stat().st_size), accuracy, difference))
    engine = folder / "best.fp16.t4.engine"
    assert artifacts.read_manifest(engine) is not None, "the engine's hash is that of its manifest"
    return rows


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-run").resolve()))
