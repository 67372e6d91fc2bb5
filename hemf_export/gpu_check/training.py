"""Steps of the GPU check: training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hemf_export.checkpoints import checkpoint
from hemf_export.engines import targets
from hemf_export.files.errors import HemfError
from hemf_export.files.progress import SILENT, Progress, Silent
from hemf_export.gpu_check import material
from hemf_export.gpu_check.step import Findings, Place
from hemf_export.networks import registry
from hemf_export.networks.count import Count
from hemf_export.timing import failures
from hemf_export.train.float32 import exact_float32
from hemf_export.train.recipe import Recipe
from hemf_export.train.run import Options, prepare
from hemf_export.train.step import Outcome
from hemf_export.train.trainer import Epoch, Trainer

_RECIPE: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.9}
_WARM_STEPS = 5
_OVERFLOWING_SCALE = 2.0**60
_MOST_SKIPPED = 8  # steps that a falling scale may cost at the start: from 65,536 to 256
# Images of a batch of hemf-base: an image of 224 pixels keeps 0.38 GB for the backward pass in float32 and 0.27 GB in
# float16, so that a T4's 15.6 GB hold 32 in float16 (9.6 GB with weights and moments), but hardly in float32 (13.2 GB).
_IMAGES = {"float16": 32, "off": 16}
_FORWARD_AND_BACKWARD = 3  # a backward pass has two products for each one of the forward pass


class Stepper:
    """Takes training steps on one batch of noise, without a data loader, with TF32 off as in `Trainer.fit`.

    Args:
        place: where the step runs.
        name: network.
        batch: images of a batch.
        amp: see `hemf_export.train`.
        compile: see `hemf_export.train`.
        recipe: fields of the recipe.
    """

    def __init__(self, place: Place, name: str, batch: int, *, amp: str, compile: bool = False, **recipe: Any) -> None:
        run = Path(tempfile.mkdtemp(dir=place.folder))
        changes = {**_RECIPE, "batch_size": batch, **recipe}
        self.trainer = _trainer(place, name, run, changes, amp=amp, compile=compile)
        self.trainer.model.train()
        self.place, self.batch, self._numbers = place, batch, count()
        size, generator = self.trainer.job.config.image_size, torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, size, size, generator=generator)
        self.labels = torch.arange(batch) % len(material.CLASSES)
        if place.device == "cuda":
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()

    @exact_float32()
    def __call__(self) -> Outcome:
        """Take a step."""
        parts = self.batch // self.trainer.division.micro_batches
        batch = list(zip(torch.split(self.images, parts), torch.split(self.labels, parts), strict=True))
        return self.trainer.step(batch, self.batch, rate=1e-4, drawing=(0, next(self._numbers)))

    def settle(self) -> bool:
        """Take steps until one changes the weights; return whether one did.

        A gradient scaler begins with 65,536, which may be too high for the first steps.
        """
        return any(self().finite for _ in range(_MOST_SKIPPED + 1))

    def timed(self, steps: int) -> tuple[list[Outcome], float]:
        """Take steps after a few to warm up; return all outcomes, and the seconds of the timed ones."""
        outcomes = [self() for _ in range(_WARM_STEPS)]
        material.wait(self.place)
        started = time.perf_counter()
        outcomes += [self() for _ in range(steps)]
        material.wait(self.place)
        return outcomes, time.perf_counter() - started

    def state(self) -> dict[str, Tensor]:
        """Copy weights, statistics, their average and the optimizer's moments."""
        state = self.trainer.state
        moments = state.optimizer.state_dict()["state"]
        copies = {f"model.{name}": value for name, value in self.trainer.model.state_dict().items()}
        copies |= {f"{key}.{name}": value for key, each in moments.items() for name, value in each.items()}
        if state.average is not None:
            copies |= {f"average.{name}": value for name, value in state.average.weights.items()}
        return {name: value.detach().clone() for name, value in copies.items()}


def speed(place: Place, findings: Findings) -> None:
    """Time steps of hemf-base: steps in float16, and steps in float32 (TF32 off)."""
    steps = 2 if place.small else 40
    rates: dict[str, float] = {}
    for amp, word, name in (("float16", "float16", "steps in float16"), ("off", "float32", "steps in float32")):
        batch = 4 if place.small else _IMAGES[amp]
        with findings.attempt(name):
            failures.release_memory()
            if place.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            stepper = Stepper(place, "hemf-base", batch, amp=amp)
            outcomes, seconds = stepper.timed(steps)
            del stepper
            taken = [outcome for outcome in outcomes if outcome.finite]
            if not taken:
                raise HemfError(f"The gradients of all {len(outcomes)} steps are not finite.")
            rates[word] = steps * batch / seconds
            memory = torch.cuda.max_memory_allocated() if place.device == "cuda" else None
            findings.facts[word] = {
                "images_per_second": rates[word], "skipped_steps": len(outcomes) - len(taken),
                "peak_memory_bytes": memory, "share_of_peak": _share_of_peak(place, rates[word], amp),
            }  # fmt: skip
            falls = len(taken) > 1 and taken[-1].loss < taken[0].loss
            findings.check(
                name, falls and len(outcomes) - len(taken) <= _MOST_SKIPPED,
                f"{rates[word]:.0f} images/s at batch {batch}, {_shown(findings.facts[word])}loss "
                f"{taken[0].loss / batch:.3f} to {taken[-1].loss / batch:.3f}, {len(outcomes) - len(taken)} skipped",
            )  # fmt: skip
    if len(rates) == 2:
        ratio = rates["float16"] / rates["float32"]
        findings.facts["speed_up"] = ratio
        findings.check("float16 is faster than float32", ratio > 1, f"{ratio:.2f} times as fast")


def resume(place: Place, findings: Findings) -> None:
    """Compare a resumed run with an uninterrupted one, and resume on another device and in another memory format."""
    amp = "float16"
    whole, again = (_train(place, name, amp=amp) for name in ("whole", "again"))
    with findings.attempt("resumed like uninterrupted"):
        resumed = _interrupted(place, "resumed", {"amp": amp}, {"amp": amp})
        noise = _difference(whole, again)
        difference = min(_difference(whole, resumed), _difference(again, resumed))
        findings.facts |= {"difference_of_repeats": noise, "difference_of_resumed": difference}
        same = (
            "bit-identical" if difference == 0 else f"largest difference {difference:.1e}, of two repeats {noise:.1e}"
        )
        findings.check("resumed like uninterrupted", difference <= 10 * noise, same)
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "begun on a CPU, resumed here": ({"device": "cpu", "amp": "off"}, {"amp": amp}),
        "begun here, resumed on a CPU": ({"amp": amp}, {"device": "cpu", "amp": "off"}),
        "channels-last switched off": ({"amp": amp}, {"amp": amp, "channels_last": False}),
        "channels-last switched on": ({"amp": amp, "channels_last": False}, {"amp": amp}),
    }
    for number, (name, (first, then)) in enumerate(changes.items()):
        with findings.attempt(name):
            folder = _interrupted(place, f"changed-{number}", first, then)
            findings.check(name, True, f"largest difference from the run in one piece {_difference(whole, folder):.1e}")


def steps(place: Place, findings: Findings) -> None:
    """Take steps in bfloat16, over micro-batches, with infinite gradients, out of memory, and with loader processes."""
    with findings.attempt("bfloat16"):
        outcome = Stepper(place, "hemf-tiny", 8, amp="bfloat16")()
        findings.check("bfloat16", outcome.finite, f"loss {outcome.loss / 8:.3f}")
    with findings.attempt("accumulation"):
        _accumulation(place, findings)
    with findings.attempt("infinite gradients"):
        _infinite_gradients(place, findings)
    with findings.attempt("out of memory"):
        _out_of_memory(place, findings)
    with findings.attempt("loader processes"):
        folder = _train(place, "loader", amp="off", workers=1 if place.small else 2)
        findings.check("loader processes", True, f"two epochs, {folder.name}/best.pt written")


def compiled(place: Place, findings: Findings) -> None:
    """Train through torch.compile, beside the same without."""
    batch, number = (4, 2) if place.small else (32, 20)
    losses, rates = {}, {}
    for compile in (False, True):
        stepper = Stepper(place, "hemf-tiny", batch, amp="float16", compile=compile)
        started = time.perf_counter()
        losses[compile] = stepper().loss / batch
        first = time.perf_counter() - started
        rates[compile] = number * batch / stepper.timed(number)[1]
    findings.facts = {
        "seconds_to_compile": first,
        "images_per_second": rates[True],
        "speed_up": rates[True] / rates[False],
    }
    close = abs(losses[True] - losses[False]) < 0.02 * abs(losses[False])
    speed = f"{rates[True] / rates[False]:.2f} times as fast, the first step took {first:.0f} s"
    findings.check("the same loss", close, f"{losses[True]:.4f}, without {losses[False]:.4f}; {speed}")


def _accumulation(place: Place, findings: Findings) -> None:
    """Compare the gradient of a batch in one piece and in two, with BatchNorm's statistics held fixed."""
    gradients = []
    for parts in (1, 2):
        stepper = Stepper(place, "hemf-tiny", 8, amp="off", accumulation_steps=parts, drop_path=0.0)
        stepper.trainer.model.eval()
        stepper()
        gradients.append([each.grad.double() for each in stepper.trainer.model.parameters() if each.grad is not None])
    whole = torch.stack([each.norm() for each in gradients[0]]).norm()
    apart = torch.stack([(one - other).norm() for one, other in zip(*gradients, strict=True)]).norm()
    share = float(apart / whole)
    findings.check("accumulation", share < 1e-3, f"gradient in two micro-batches differs by {share:.1e} of its norm")


def _infinite_gradients(place: Place, findings: Findings) -> None:
    """Take a step whose scaled gradients overflow float16: it must change nothing but the scale."""
    stepper = Stepper(place, "hemf-tiny", 8, amp="float16")
    scaler = stepper.trainer.state.scaler
    stepper.settle()  # so that there are moments
    before = stepper.state()
    scaler.update(_OVERFLOWING_SCALE)
    outcome, after = stepper(), stepper.state()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    halved = scaler.get_scale() == _OVERFLOWING_SCALE * scaler.get_backoff_factor()
    found = f"{len(changed)} of {len(before)} tensors changed" + (f", such as {changed[0]}" if changed else "")
    findings.check("infinite gradients", not outcome.finite and not changed and halved, found)


def _out_of_memory(place: Place, findings: Findings) -> None:
    """Take a step without enough memory: the error says what to do, and the next step goes on."""
    stepper = Stepper(place, "hemf-tiny", 8, amp="float16")
    said = ""
    with little_memory():
        try:
            stepper()
        except HemfError as error:
            said = str(error)
    goes_on = stepper.settle()
    told = "memory" in said and "batch_size" in said
    findings.check("out of memory", told and goes_on, said or "no error, although the memory was limited")


@contextmanager
def little_memory() -> Iterator[None]:
    """Limit PyTorch's allocator to what it has allocated already."""
    failures.release_memory()  # of earlier checks too: what is freed in the step could be used again
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, torch.cuda.memory_reserved() / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


class _Stopped(Exception):  # noqa: N818 - no error: the run is to stop here
    """Raised to end a run after its first epoch, whose state has been saved."""


class _StopAfterOne(Silent):
    """Ends a run after its first epoch."""

    def event(self, event: object) -> None:
        """See `Progress.event`."""
        if isinstance(event, Epoch):
            raise _Stopped


def _trainer(place: Place, name: str, run: Path, recipe: dict[str, Any], **options: Any) -> Trainer:
    network = material.network(place, name)
    settings = {"device": place.device, "workers": 0, **options}
    variant = {} if network["variant"] is None else {"variant": network["variant"]}
    return prepare(
        Options(
            material.images(place), run, model=network["model"], image_size=network["image_size"], **variant, **settings
        ),
        Recipe(**recipe),
    ).trainer  # fmt: skip


def _train(place: Place, name: str, progress: Progress = SILENT, **options: Any) -> Path:
    """Train for two epochs; return the run's folder."""
    folder = place.folder / "resume" / name
    _trainer(place, "hemf-tiny", folder, _RECIPE, **options).fit(progress)
    return folder


def _interrupted(place: Place, name: str, first: dict[str, Any], then: dict[str, Any]) -> Path:
    """Train the first of two epochs, and then resume with other options."""
    try:
        _train(place, name, **first, progress=_StopAfterOne())
    except _Stopped:
        return _train(place, name, **then, resume=True)
    raise HemfError("The run didn't stop after its first epoch.")


def _difference(one: Path, other: Path) -> float:
    """Largest difference between the last weights of two runs."""
    states = [checkpoint.load(folder / "last.pt").state for folder in (one, other)]
    return max(
        float((value - states[1][name]).abs().max()) for name, value in states[0].items() if value.is_floating_point()
    )


def _share_of_peak(place: Place, rate: float, amp: str) -> float | None:
    """Share of the GPU's published peak that the products of training at `rate` images/s take."""
    target = targets.of_gpu(torch.cuda.get_device_name()) if place.device == "cuda" else None
    if target is None or target.chip is None:
        return None
    chip = target.chip
    products = sum(registry.count_parts(material.config(place, "hemf-base")).values(), Count()).products
    peak = (chip.tflops_fp16 if amp == "float16" else chip.tflops_fp32) * 1e12
    return rate * 2 * _FORWARD_AND_BACKWARD * products / peak


def _shown(facts: dict[str, Any]) -> str:
    parts = []
    if facts["share_of_peak"] is not None:
        parts.append(f"{facts['share_of_peak']:.0%} of the peak")
    if facts["peak_memory_bytes"] is not None:
        parts.append(f"{facts['peak_memory_bytes'] / 1e9:.1f} GB")
    return "".join(f"{part}, " for part in parts)
