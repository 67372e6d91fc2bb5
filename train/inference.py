"""Logits of many images, shared out over the processes of a run."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hemf_export.images.folders import LabelledImages
from hemf_export.images.images import Preprocess
from hemf_export.train import data
from hemf_export.train.distributed import Group
from hemf_export.train.hardware import Hardware


@torch.no_grad()
def logits(
    network: nn.Module,
    images: LabelledImages,
    preprocess: Preprocess,
    hardware: Hardware,
    group: Group,
    *,
    batch_size: int,
    workers: int = 0,
) -> NDArray[np.float32]:
    """What `network` says of `images` in evaluation mode: (n, classes), in each process. It stays in that mode.

    Args:
        network: the network, on its device.
        images: the same in all processes; each takes every n-th.
        preprocess: images to input.
        hardware: precision and memory format.
        group: the processes.
        batch_size: images a process takes at once.
        workers: loader processes of each.
    """
    network.eval()
    device = next(network.parameters()).device
    own = images.select(range(group.rank, len(images), group.size)) if group.size > 1 else images
    parts: list[NDArray[np.float32]] = []
    for batch in data.evaluation_batches(
        own, preprocess, batch_size, workers=workers, pin_memory=device.type == "cuda"
    ):
        batch = batch.to(device, non_blocking=True).to(memory_format=hardware.memory_format)
        with hardware.autocast():
            parts.append(network(batch).float().cpu().numpy())
    shares = group.gather(np.concatenate(parts) if parts else None)
    if group.size == 1:
        return np.concatenate(parts)
    found = np.empty((len(images), next(share for share in shares if share is not None).shape[1]), np.float32)
    for rank, share in enumerate(shares):
        if share is not None:
            found[rank :: group.size] = share
    return found
