"""All steps of the GPU check, in the order of their value, each with its time limit."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from hemf_export.files.errors import UsageError, did_you_mean
from hemf_export.gpu_check.step import Step


@dataclass(frozen=True)
class Entry:
    """A step in the catalogue.

    Args:
        name: its name.
        title: what it does, for progress.
        limit_s: time limit in seconds.
        function: `MODULE:FUNCTION`, imported in the step's own process; a module of this package by its last name.
    """

    name: str
    title: str
    limit_s: float
    function: str


# Limits are about twice what a T4 beside two slow cores is expected to take. An image of hemf-base is 10 G
# multiply-adds forward, 60 GFLOP of a training step: the 45 steps of 32 images in float16 (15 TFLOPS) are 6 s, those of
# 16 in float32 (4 TFLOPS) 11 s. What takes long are processes that begin (10 s each), compilations of PyTorch (30 s for
# each mode and batch size, 90 s for training), and engines that TensorRT builds (hemf-tiny 50 s, hemf-base 200 s).
ENTRIES = (
    Entry("doctor", "Looking at the machine", 120, "machine:machine_facts"),
    Entry("train-speed", "Training hemf-base in float16 and float32", 120, "training:speed"),
    Entry("train-resume", "Resuming runs", 180, "training:resume"),
    Entry("train-steps", "Taking steps that go wrong", 120, "training:steps"),
    Entry("execution", "Running stand-ins of engines on streams", 60, "execution:execution"),
    Entry("tensorrt-build", "Building TensorRT engines", 300, "engines:build"),
    Entry("tensorrt-run", "Running TensorRT engines", 240, "engines:run"),
    Entry("bench", "Timing every runner of PyTorch and ONNX Runtime", 480, "benchmark:benchmark"),
    Entry("train-compile", "Training through torch.compile", 240, "training:compiled"),
    Entry("tensorrt-options", "Building stripped and version-compatible engines", 300, "engines:options"),
    Entry("tensorrt-latency", "Timing the engine of hemf-base", 600, "engines:latency"),
    Entry("ship", "Shipping a checkpoint", 360, "engines:ship"),
    Entry("rtx-run", "Running a TensorRT-RTX engine", 150, "engines:rtx"),
    Entry("cpp", "Building and running the C++ program", 300, "programs:cpp"),
    Entry("two-gpus", "Training on two GPUs", 150, "programs:two_gpus"),
    Entry("containers", "Building and serving in containers", 300, "programs:containers"),
    Entry("graph-forms", "Timing the authors' architecture beside ours", 600, "compared:graph_forms"),
    Entry("int8-latency", "Timing INT8 beside FP16", 600, "compared:int8"),
)  # fmt: skip


def load(function: str) -> Step:
    """Import the function of a step; see `Entry.function`."""
    module, name = function.split(":")
    whole = module if "." in module else f"hemf_export.gpu_check.{module}"
    return cast(Step, getattr(importlib.import_module(whole), name))


def find(name: str) -> Entry:
    """Find a step by name.

    Raises:
        UsageError: no such step.
    """
    known = {entry.name: entry for entry in ENTRIES}
    if name not in known:
        raise UsageError(f"No step is named {name!r}.", did_you_mean(name, known))
    return known[name]
