"""One optimizer step: gradients over micro-batches and processes, scaled, clipped, and checked to be finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemf_export.files import gpu_memory
from hemf_export.files.errors import CheckFailedError
from hemf_export.train.distributed import Group
from hemf_export.train.hardware import Hardware
from hemf_export.train.losses import Objective
from hemf_export.train.recipe import Recipe

MicroBatch = tuple[Tensor, Tensor]  # images (n, 3, size, size), labels (n,)


@dataclass(frozen=True)
class Outcome:
    """The result of a step.

    Args:
        loss: sum of the losses of this process's images.
        correct: number of its correct predictions.
        images: number of its images.
        finite: whether the gradients were finite; if not, nothing was changed.
    """

    loss: float
    correct: int
    images: int
    finite: bool


class Step:
    """The optimizer step of a run, called once per batch.

    The gradient is that of the mean loss over the images of all micro-batches and processes. BatchNorm sees one
    micro-batch of one process at a time, or with `sync_batch_norm` one of all processes. A step whose gradients are not
    finite changes nothing, BatchNorm's statistics included; with float16, the scaler then lowers its scale.

    Args:
        network: the network that is trained.
        forward: `network` as training calls it: compiled, or with gradients averaged over processes.
        objective: the loss.
        recipe: gives the gradient clipping, and the batch size for an error message.
        optimizer: optimizer of the network's parameters.
        scaler: gradient scaler.
        hardware: device and precision.
        group: the processes that share a batch.
    """

    def __init__(
        self, network: nn.Module, forward: nn.Module, objective: Objective, recipe: Recipe,
        optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, hardware: Hardware, group: Group,
    ) -> None:  # fmt: skip
        self.forward, self.objective, self.recipe = forward, objective, recipe
        self.optimizer, self.scaler, self.hardware, self.group = optimizer, scaler, hardware, group
        self.device = next(network.parameters()).device
        self.parameters = list(network.parameters())
        self.statistics = _Statistics(network)

    def __call__(self, batch: Sequence[MicroBatch], size: int, *, rate: float, drawing: Sequence[int]) -> Outcome:
        """Take one step.

        Args:
            batch: this process's micro-batches.
            size: images of the step, over all processes.
            rate: learning rate.
            drawing: epoch and step, which seed the random draws.

        Raises:
            HemfError: the GPU's memory doesn't hold a micro-batch, or torch.compile fails.
            CheckFailedError: the teacher's logits are not finite.
        """
        memory = gpu_memory.needed(f"a batch of {len(batch[0][1])} images", self._smaller_batches())
        with memory, self.hardware.compilation():
            return self._take(batch, size, rate, drawing)

    def _take(self, batch: Sequence[MicroBatch], size: int, rate: float, drawing: Sequence[int]) -> Outcome:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.statistics.keep()
        losses, correct = self._gradients(batch, size, drawing)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = self._norm()
        # The only point of a step that waits for the GPU.
        values = torch.stack([norm.float(), *losses, *(count.float() for count in correct)]).tolist()
        counts = [len(labels) for _, labels in batch]
        loss = sum(value * count for value, count in zip(values[1 : 1 + len(counts)], counts, strict=True))
        # With several processes, the decision must be the same in all: they share the gradients, but not the loss. A
        # loss that is not finite shows in its gradient.
        finite = math.isfinite(values[0]) and (self.group.size > 1 or math.isfinite(loss))
        if not finite:
            self._require_finite_teacher(batch)
        if finite:
            self.scaler.step(self.optimizer)
        else:
            self.statistics.restore()
        self.scaler.update()
        return Outcome(loss, int(sum(values[1 + len(counts) :])), sum(counts), finite)

    def _gradients(
        self, batch: Sequence[MicroBatch], size: int, drawing: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        losses, correct = [], []
        for number, (images, labels) in enumerate(batch):
            images = images.to(self.device, non_blocking=True).to(memory_format=self.hardware.memory_format)
            labels = labels.to(self.device, non_blocking=True)
            piece = number * self.group.size + self.group.rank
            with self._last_of_all(last=number == len(batch) - 1):
                with self.hardware.autocast():
                    result = self.objective(self.forward, images, labels, [*drawing, piece])
                share = len(labels) * self.group.size / size  # gradients are then averaged over processes
                weighted = result.loss if share == 1 else result.loss * share
                self.scaler.scale(weighted).backward()  # type: ignore[no-untyped-call]
            losses.append(result.loss.detach().float())
            correct.append(result.correct)
        return losses, correct

    def _require_finite_teacher(self, batch: Sequence[MicroBatch]) -> None:
        """Raise CheckFailedError if it is the teacher whose logits are not finite: no learning rate would help then."""
        teacher = self.objective.teacher
        if teacher is None:
            return
        for images, _ in batch:
            images = images.to(self.device).to(memory_format=self.hardware.memory_format)
            with self.hardware.autocast():
                bad = int((~torch.isfinite(teacher(images)).all(1)).sum())
            if bad:
                raise CheckFailedError(
                    f"The teacher's logits of {bad} of {len(images)} training images are not finite.",
                    "Its activations overflow. Use another teacher"
                    + (", or train without AMP (`amp='off'`)." if self.hardware.amp != "off" else "."),
                )

    def _last_of_all(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Reduce gradients over the processes once, with the last micro-batch."""
        if last or self.group.size == 1:
            return contextlib.nullcontext()
        no_sync: Callable[[], contextlib.AbstractContextManager[None]] = getattr(self.forward, "no_sync")  # noqa: B009
        return no_sync()  # DistributedDataParallel's, compiled or not

    def _norm(self) -> Tensor:
        """Clip the gradients if the recipe says so, and return the norm of all of them together, before clipping."""
        if self.recipe.gradient_clip > 0:
            return nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        return nn.utils.get_total_norm([each.grad for each in self.parameters if each.grad is not None])

    def _smaller_batches(self) -> str:
        size, parts = self.recipe.batch_size, self.recipe.accumulation_steps
        smaller = max(2 * parts * self.group.size, size // 2)
        again = f", or keep {size} with `accumulation_steps={2 * parts}`" if size >= 4 * parts * self.group.size else ""
        return f"Try `batch_size={smaller}`{again}."


class _Statistics:
    """A copy of BatchNorm's running statistics from before a step, since the forward pass changes them."""

    def __init__(self, network: nn.Module) -> None:
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self.copies = [buffer.clone() for buffer in self.buffers]

    def keep(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.copies, self.buffers)

    def restore(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.copies)
