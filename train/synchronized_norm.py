"""BatchNorm whose statistics are those of the batches of all processes together."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of all processes: (rows, C) → (rows, C). torch's own one runs on GPUs only.

    In training, mean and variance are sums over the processes, through which gradients flow; they may have different
    numbers of rows. In evaluation it is an `nn.BatchNorm1d`.
    """

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training:
            return super().forward(rows)
        count = _sum(torch.tensor(float(len(rows)), device=rows.device))
        mean = _sum(rows.sum(0)) / count
        centred = rows - mean
        variance = _sum(centred.square().sum(0)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


def synchronize(model: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm of `model` one over all processes, in place; parameters, buffers and names stay."""
    if device.type == "cuda":
        # In place, as the whole model is no BatchNorm.
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d):
                made = SynchronizedBatchNorm(child.num_features, child.eps, child.momentum)
                made.__dict__.update(_parameters=child._parameters, _buffers=child._buffers, training=child.training)
                setattr(parent, name, made)


def _sum(values: Tensor) -> Tensor:
    """Over all processes; gradients flow back to each."""
    return cast(Tensor, functional.all_reduce(values))  # type: ignore[no-untyped-call]
