"""What each command leaves in a fresh home and in the folder for temporary files, and whom it connects to.

    python -m tests.hemf_export.boundaries.fresh_home    prints the table

Connections are seen by strace, where it is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hemf_export.checkpoints import checkpoint
from tests.conftest import tiny_checkpoint, write_class_folders

OWN = ".cache/hemf-export"
_CONNECTED = re.compile(r"(?:connect|sendto)\(.*sa_family=AF_INET6?, .*?\"([^\"]+)\"")
_AT_HOME = ("127.0.0.1", "::1", "0.0.0.0", "::")
_SET = ("HEMF_EXPORT_CACHE", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")


@dataclass(frozen=True)
class Left:
    """What a command left behind.

    Args:
        code: its exit code.
        ours: files in our cache folder.
        home: other files and folders in the home.
        temporary: what lies in the folder for temporary files.
        connections: addresses but this machine's own; None where nothing watched.
        said: on stderr.
    """

    code: int
    ours: tuple[str, ...]
    home: tuple[str, ...]
    temporary: tuple[str, ...]
    connections: tuple[str, ...] | None
    said: str


def run(arguments: list[object], place: Path, *, watch: bool = False, home: str | None = None) -> Left:
    """Run a command with a home and a folder for temporary files of its own, below `place`."""
    own, temporary, trace = place / "home", place / "tmp", place / "trace"
    for folder in (own, temporary):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if key not in _SET}
    environment |= {"HOME": home or str(own), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "hemf_export", *map(str, arguments)]
    strace = shutil.which("strace") if watch else None
    if strace:
        command = [strace, "-f", "-qq", "-o", str(trace), "-e", "trace=connect,sendto", *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=place)
    found = sorted(
        str(path.relative_to(own)) for path in own.rglob("*") if not path.is_dir() or not any(path.iterdir())
    )
    connections = None
    if strace:
        named = _CONNECTED.findall(trace.read_text(errors="replace"))
        connections = tuple(sorted({address for address in named if address not in _AT_HOME}))
    return Left(
        done.returncode,
        tuple(name for name in found if name.startswith(OWN)),
        tuple(name for name in found if not name.startswith(OWN)),
        tuple(sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))),
        connections,
        done.stderr,
    )


def commands(place: Path) -> dict[str, list[object]]:
    """Every command with something small to do, in an order in which each has what it needs."""
    data, run_folder = place / "data", place / "run"
    for seed, (split, count) in enumerate((("train", 8), ("val", 6), ("test", 4))):
        write_class_folders(data / split, count, seed)
    saved = place / "t.pt"
    checkpoint.save(tiny_checkpoint(), saved)
    onnx, half, small = place / "t.onnx", place / "t.fp16.onnx", place / "t.int8.onnx"
    engine, bundle = place / "t.fp16.t4.engine", place / "t.tar.zst"
    tiny = ["--model", "hemf-tiny", "--image-size", 32, "--epochs", 1, "--batch-size", 8]
    return {
        "--help": ["--help"],
        "doctor": ["doctor"],
        "info": ["info", "hemf-tiny"],
        "data": ["data", "class-folders", data / "train", "-o", place / "split", "--split", "0.6/0.2/0.2"],
        "train": ["train", data, "-o", run_folder, *tiny, "--workers", 2],
        "ablate": ["ablate", data, "-o", place / "ablation", *tiny, "--configs", _configurations(place)],
        "onnx": ["onnx", saved, "-o", onnx],
        "inspect": ["inspect", onnx],
        "predict": ["predict", onnx, data / "test"],
        "evaluate": ["evaluate", saved, "--data", data],
        "explain": ["explain", saved, data / "test"],
        "calibrate fp16": ["calibrate", onnx, "--precision", "fp16", "--images", data],
        "calibrate int8": [
            "calibrate",
            onnx,
            "--precision",
            "int8",
            "--images",
            data,
            "--method",
            "max",
            "--sensitivity",
        ],
        "finetune": ["finetune", small, "--data", data, "--epochs", 1, "--reference", saved],
        "verify": ["verify", half, "--data", data, "--reference", saved, "--report", place / "v.html"],
        "bench": ["bench", saved, onnx, "--seconds", 1, "--batch", 1, "--report", place / "b.html"],
        "bench, compiled": ["bench", saved, "--seconds", 1, "--batch", 1, "--runners", "eager,compile", "--no-memory"],
        "trt": ["trt", half],
        "triton": ["triton", half, "-o", place / "models"],
        "bundle": ["bundle", half, engine, "-o", bundle],
        "self-test": ["self-test", bundle],
        "ship": ["ship", saved, "--data", data, "-o", place / "shipped", "--precision", "fp16", "--bench-seconds", 1],
        "triton-client": ["triton-client", "http://127.0.0.1:9", data / "test", "--timeout", 1],
    }


def _configurations(place: Path) -> Path:
    path = place / "one.toml"
    path.write_text('[[configuration]]\nname = "local"\nvariant = "local-only"\n', encoding="utf-8")
    return path


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        print("| command | exit | in our cache folder | elsewhere in the home | temporary | connections |")  # noqa: T201
        print("|---|---|---|---|---|---|")  # noqa: T201
        for name, arguments in commands(place).items():
            left = run(arguments, place, watch=True)
            kinds = sorted({re.sub(r"-?[0-9a-f]{12,}", "-…", name.removeprefix(f"{OWN}/")) for name in left.ours})
            cells = [", ".join(kinds), ", ".join(left.home), ", ".join(left.temporary)]
            seen = "not watched" if left.connections is None else ", ".join(left.connections) or "none"
            row = [name, str(left.code), *(cell or "nothing" for cell in cells), seen]
            print(f"| {' | '.join(row)} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
