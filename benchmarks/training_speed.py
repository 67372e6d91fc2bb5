"""`make bench`: time a training step of hemf-base, as in `train`, against a naive implementation.

The naive network (contiguous feature maps, layer norm written out, `benchmarks/naive.py`) has the same weights and a
plain loop: forward, cross-entropy, backward, AdamW. Before anything is timed, the losses and gradients of both are
compared. On a CPU both run alternately, each in its own process, with ratios per round. `train` keeps the memory that a
step frees, so ours does too; a second run of the naive network with that memory kept separates the gain of the network
from that of the memory. On CUDA: throughput of our step in float16, with and without channels-last and `torch.compile`,
and the data loader's share of the time.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import processes
from benchmarks.export_speed import naive_weights
from benchmarks.naive import NaiveHEMF
from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress
from hemf_export.images.folders import class_folders
from hemf_export.images.images import Preprocess
from hemf_export.networks.hemf.authors import convert, infer_config
from hemf_export.networks.hemf.model import HEMF
from hemf_export.networks.registry import build, registered
from hemf_export.timing import intervals
from hemf_export.train import hardware
from hemf_export.train.data import TrainingImages, TrainingLoader
from hemf_export.train.distributed import Group
from hemf_export.train.hardware import Hardware
from hemf_export.train.losses import Objective
from hemf_export.train.recipe import Recipe
from hemf_export.train.sampling import Division
from hemf_export.train.step import Step

CLASSES = 7
LARGEST_GRADIENT_DIFFERENCE = 1e-3  # share of the gradient's norm: the same function up to rounding
_WARM_UP = 2  # warm-up rounds, before memory and kernels are ready
_SAMPLES = Path(__file__).parent.parent / "examples" / "blood_cells" / "train"


def optimizer(network: nn.Module) -> torch.optim.AdamW:
    """Return the optimizer for either network."""
    parameters = list(network.parameters())
    decayed, plain = ([each for each in parameters if (each.ndim > 1) is many] for many in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-6, fused=parameters[0].is_cuda)


def naive_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """Return a training step as in a tutorial."""
    chosen = optimizer(network)

    def step() -> float:
        chosen.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        chosen.step()
        return float(loss.detach())

    return step


def our_step(network: HEMF, images: Tensor, labels: Tensor, hardware: Hardware) -> Callable[[], float]:
    """Return a training step as in `train.trainer`."""
    recipe, forward = Recipe(batch_size=len(labels)), torch.compile(network) if hardware.compile else network
    objective = Objective(recipe, [1] * CLASSES)
    step = Step(
        network, forward, objective, recipe, optimizer(network), hardware.scaler(), hardware, Group()
    )  # fmt: skip
    numbers = itertools.count()

    def take() -> float:
        done = step([(images, labels)], len(labels), rate=1e-6, drawing=(0, next(numbers)))
        return done.loss / done.images

    return take


def compare(naive: NaiveHEMF, ours: HEMF, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the differences of the losses and of the gradients, the latter relative to the norm."""
    losses = []
    for network in (naive, ours):
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        losses.append(float(loss.detach()))
    theirs = {name: each.grad for name, each in naive.named_parameters() if each.grad is not None}
    expected, _ = convert({**naive.state_dict(), **theirs})
    squares = np.zeros(2)
    for name, each in ours.named_parameters():
        assert each.grad is not None
        squares += float((each.grad - expected[name]).square().sum()), float(expected[name].square().sum())
    return abs(losses[0] - losses[1]), float(np.sqrt(squares[0] / squares[1]))


def an_input(batch: int) -> tuple[Tensor, Tensor]:
    """Return images and labels, the same in every process."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)), torch.arange(batch) % CLASSES


def naive_network() -> NaiveHEMF:
    """Build the naive network."""
    network = NaiveHEMF(CLASSES).train()
    network.load_state_dict(naive_weights(0, CLASSES))
    return network


def our_network() -> HEMF:
    """Build our network with the same weights, in the memory format of `train`."""
    converted, _ = convert(naive_weights(0, CLASSES))
    network = HEMF(infer_config(converted))
    network.load_state_dict(converted)
    return network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def compared(batch: int) -> tuple[float, float]:
    """Compare both networks; exit if they aren't the same function."""
    loss, gradient = compare(naive_network(), our_network(), *an_input(batch))
    assert loss < 1e-4, loss
    assert gradient < LARGEST_GRADIENT_DIFFERENCE, gradient
    return loss, gradient


def take_steps(calls: Connection, name: str, batch: int) -> None:
    """Child process: take a step at each call, and answer with its seconds."""
    images, labels = an_input(batch)
    if name != "naive":
        hardware.keep_freed_memory()
    if name == "ours":
        step = our_step(our_network(), images, labels, Hardware())
    else:
        step = naive_step(naive_network(), images, labels)
    while calls.recv():
        before = time.perf_counter()
        step()
        calls.send(time.perf_counter() - before)


def on_cpu(batch: int, seconds: float) -> None:
    """Time all networks alternately, and print the ratios."""
    (loss, gradient), _ = processes.in_process(compared, batch)
    context = multiprocessing.get_context("spawn")
    calls: dict[str, Connection] = {}
    for name in ("ours", "naive", "naive, memory kept"):
        calls[name], theirs = context.Pipe()
        context.Process(target=take_steps, args=(theirs, name, batch), daemon=True).start()
        theirs.close()
    times: dict[str, list[float]] = {name: [] for name in calls}
    generator, started, rounds = np.random.default_rng(0), time.perf_counter(), 0
    with ConsoleProgress().task(f"Training steps of hemf-base, batch {batch}, for {seconds:.0f} s"):
        while rounds < _WARM_UP + 5 or time.perf_counter() - started < seconds:
            for name in generator.permutation(list(calls)):
                calls[name].send(True)
                took = calls[name].recv()
                if rounds >= _WARM_UP:
                    times[name].append(took)
            rounds += 1
    for each in calls.values():
        each.send(False)
    rows = []
    for name, each in times.items():
        ratio = intervals.of_median(np.divide(each, times["naive"]))
        share, interval = f"{ratio.median:.3f}", f"{ratio.low:.3f}–{ratio.high:.3f}"
        own = ("1", "") if name == "naive" else (share, interval)
        rows.append((name, f"{np.median(each):.2f}", f"{batch / np.median(each):.2f}", *own))
    where = f"CPU, {torch.get_num_threads()} threads, {len(times['ours'])} rounds"
    console.table(
        f"Training step of hemf-base, batch {batch}, {where}",
        ("network", "p50 s", "images/s", "of naive", "95 %"),
        rows,
    )
    console.say(f"losses differed by {loss:.1e}, gradients by {gradient:.1e} of their norm")


def on_gpu(batch: int, seconds: float, workers: int) -> None:
    """Print the throughput by mode, and the data loader's share of the time."""
    images, labels = torch.randn(batch, 3, 224, 224).cuda(), (torch.arange(batch) % CLASSES).cuda()
    rows = []
    for channels_last, compiled in itertools.product((True, False), (False, True)):
        hardware = Hardware("cuda", "float16", channels_last, compiled)
        network = build(registered("hemf-base", num_classes=CLASSES), seed=0).cuda().train()
        network = network.to(memory_format=hardware.memory_format)  # type: ignore[call-overload]
        torch.cuda.reset_peak_memory_stats()
        step = our_step(network, images, labels, hardware)
        for _ in range(10):
            step()
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds / 8:
            step()
            count += 1
        rate = count * batch / (time.perf_counter() - started)
        memory = console.size(torch.cuda.max_memory_allocated())
        modes = f"float16, channels-last {'on' if channels_last else 'off'}{', compiled' if compiled else ''}"
        rows.append((modes, f"{rate:.0f}", memory))
    console.table(f"hemf-base on {torch.cuda.get_device_name()}, batch {batch}", ("step", "images/s", "memory"), rows)
    hardware = Hardware("cuda", "float16")
    network = build(registered("hemf-base", num_classes=CLASSES), seed=0).cuda().train()
    waited, total, count = _with_loader(our_step_on(network, hardware, batch), batch, workers, seconds / 4)
    console.say(
        f"with {workers} loader processes: {count * batch / total:.0f} images/s, {waited / total:.1%} of it waiting"
    )


def our_step_on(network: HEMF, hardware: Hardware, batch: int) -> Callable[[Tensor, Tensor, int], None]:
    """Return a step on images from a data loader."""
    recipe = Recipe(batch_size=batch)
    step = Step(
        network, network, Objective(recipe, [1] * CLASSES), recipe, optimizer(network), hardware.scaler(), hardware,
        Group(),
    )  # fmt: skip

    def take(images: Tensor, labels: Tensor, number: int) -> None:
        step([(images, labels)], len(labels), rate=1e-6, drawing=(0, number))

    return take


def _with_loader(
    step: Callable[[Tensor, Tensor, int], None], batch: int, workers: int, seconds: float
) -> tuple[float, float, int]:
    """Return the seconds waited for the loader, the total seconds, and the number of steps."""
    images = class_folders(_SAMPLES)
    images = images.select([index % len(images) for index in range(batch * 100)])
    loader = TrainingLoader(
        TrainingImages(images, Preprocess(), Recipe(batch_size=batch)), Division(len(images), batch),
        workers=workers, pin_memory=True,
    )  # fmt: skip
    waited, count, started = 0.0, 0, time.perf_counter()
    batches: Iterator[list[tuple[Tensor, Tensor]]] = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))
    before = started
    for number, pieces in enumerate(batches):
        if number == 10:  # the processes have started
            waited, count, started = 0.0, 0, time.perf_counter()
        waited += time.perf_counter() - before
        step(*pieces[0], number)
        count += 1
        if number > 10 and time.perf_counter() - started > seconds:
            break
        before = time.perf_counter()
    loader.close()
    return waited, time.perf_counter() - started, count


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--batch", type=int, default=8, help="on the CPU")
    parser.add_argument("--gpu-batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8, help="loader processes, on a GPU")
    arguments = parser.parse_args()
    on_cpu(arguments.batch, arguments.seconds)
    if torch.cuda.is_available():
        on_gpu(arguments.gpu_batch, arguments.seconds, arguments.workers)


if __name__ == "__main__":
    main()
