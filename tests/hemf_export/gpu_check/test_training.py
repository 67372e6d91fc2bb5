"""The steps of the GPU check that train, on a CPU: float16 autocast and gradient scaler are PyTorch's own there too."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hemf_export.files.errors import HemfError
from hemf_export.gpu_check import step, training
from hemf_export.gpu_check.step import Findings, Place, Result
from hemf_export.gpu_check.training import Stepper
from hemf_export.train.step import Outcome, Step


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("gpu-check"), "cpu", small=True)


def outcomes(result: Result) -> dict[str, str]:
    return {check.name: check.outcome for check in result.checks}


@contextmanager
def out_of_memory() -> Iterator[None]:
    """The GPU's memory is full: what PyTorch raises then, at the first tensor of a step."""
    with pytest.MonkeyPatch.context() as patch:

        def take(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        patch.setattr(Step, "_take", take)
        yield


def test_steps_are_taken_without_tf32(own, monkeypatch):
    """As `Trainer.fit` takes them: cuDNN's convolutions use TF32 on newer GPUs by default."""
    stepper = Stepper(own, "hemf-tiny", 4, amp="off")
    seen: list[str] = []
    step = stepper.trainer.step

    def noted(*arguments: Any, **options: Any) -> Outcome:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return step(*arguments, **options)

    monkeypatch.setattr(stepper.trainer, "step", noted)
    convolutions: Any = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32"
    try:
        assert stepper().finite
    finally:
        convolutions.fp32_precision = before
    assert seen == ["ieee"]


class Allocator:
    """PyTorch's caching allocator, by what `little_memory` asks of it (torch/cuda/memory.py)."""

    def __init__(self, patch: pytest.MonkeyPatch, kept: Callable[[], object]) -> None:
        self.kept = kept
        self.reserved, self.allowed = 3 * 2**30, 1.0
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "empty_cache", self.empty_cache)
        patch.setattr(torch.cuda, "memory_reserved", lambda: self.reserved)
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", self.allow)
        patch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=16 * 2**30))

    def empty_cache(self) -> None:
        """Return what no tensor uses: 1 GiB is in use, and another while there is what `kept` refers to."""
        self.reserved = 2**30 if self.kept() is None else 2 * 2**30

    def allow(self, fraction: float) -> None:
        self.allowed = fraction


def test_little_memory_is_what_is_in_use_without_what_is_about_to_be_freed(monkeypatch):
    """A network in a cycle of references would be freed in the step, whose memory the step could then use."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    allocator = Allocator(monkeypatch, weakref.ref(Cycle()))
    with training.little_memory():
        assert allocator.allowed == 1 / 16
    assert allocator.allowed == 1.0


@pytest.mark.parametrize(("skipped", "outcome"), [(2, "passed"), (99, "failed")])
def test_a_gradient_scale_that_falls_first_is_no_failure_after_full_memory(own, monkeypatch, skipped, outcome):
    """hemf-tiny skips its first two steps: GradScaler begins with 65,536."""
    numbers = iter(range(-1, skipped + 1))

    def step(self: Stepper) -> Outcome:
        number = next(numbers)
        if number < 0:
            raise HemfError("The GPU's memory doesn't hold a batch of 8 images.", "Try `batch_size=4`.")
        return Outcome(1.0, 0, 8, number == skipped)

    monkeypatch.setattr(Stepper, "__call__", step)
    monkeypatch.setattr(training, "little_memory", nullcontext)
    findings = Findings()
    training._out_of_memory(own, findings)
    assert [check.outcome for check in findings.checks] == [outcome]


@pytest.mark.extended
def test_speed(own):
    result = step.run("train-speed", training.speed, own)
    assert result.reason == ""
    assert outcomes(result)["steps in float16"] == outcomes(result)["steps in float32"] == "passed", result.checks
    assert "float16 is faster than float32" in outcomes(result)  # which a CPU need not say
    assert result.facts["float16"]["images_per_second"] > 0
    assert result.facts["speed_up"] > 0


@pytest.mark.extended
def test_resume(own):
    result = step.run("train-resume", training.resume, own)
    assert (result.outcome, result.reason) == ("passed", ""), result.checks
    assert len(result.checks) == 5
    assert result.facts["difference_of_resumed"] == 0, "on a CPU runs are the same to the bit"


@pytest.mark.extended
def test_steps(own, monkeypatch):
    monkeypatch.setattr(training, "little_memory", out_of_memory)
    result = step.run("train-steps", training.steps, own)
    found = outcomes(result)
    assert found.pop("bfloat16") in ("passed", "can't run"), result.checks  # as the processor has it
    assert set(found.values()) == {"passed"}, result.checks
    assert len(found) == 4


@pytest.mark.extended
def test_what_a_fault_would_show(tmp_path, monkeypatch):
    """Checks that can't fail prove nothing: infinite gradients that aren't noticed, memory that is never full."""
    own = Place(tmp_path, "cpu", small=True)
    monkeypatch.setattr("hemf_export.train.step.math", SimpleNamespace(isfinite=lambda value: True))
    monkeypatch.setattr(training, "little_memory", lambda: contextmanager(lambda: iter([None]))())
    result = step.run("train-steps", training.steps, own)
    assert result.outcome == "failed"
    assert outcomes(result)["infinite gradients"] == "failed", result.checks
    assert outcomes(result)["out of memory"] == "failed", result.checks
    assert outcomes(result)["accumulation"] == "passed"


@pytest.mark.extended
def test_compiled(own, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    result = step.run("train-compile", training.compiled, own)
    assert result.reason == ""
    assert outcomes(result)["the same loss"] == "passed"
