"""Build engines from ONNX graphs for a target GPU, and run them, with TensorRT or TensorRT-RTX.

import numpy as np
from hemf_export import engines
with engines.load("best.fp16.t4.engine") as runner:
    logits = runner.infer(np.zeros((1, 3, 224, 224), np.float32))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hemf_export.engines.runner import EngineRunner


def load(
    path: str | os.PathLike[str], *, trust: bool = False, cuda_graphs: bool = True, contexts: int = 4
) -> EngineRunner:
    """Check an engine, load it on this machine's first GPU, and return its runner.

    Args:
        path: the engine file.
        trust: run a plan that has no manifest, though a plan is executable code.
        cuda_graphs: launch each batch size as one captured graph.
        contexts: how many threads may run at the same time.

    Raises:
        BadInputError: the file is no engine, or not the one that its manifest describes.
        MissingCapabilityError: it needs another TensorRT or GPU than this machine has.
    """
    from hemf_export.engines import runtime
    from hemf_export.engines.device import CudaDevice
    from hemf_export.engines.runner import EngineRunner

    loaded = runtime.deserialize(Path(path), trust=trust)
    import torch

    return EngineRunner(loaded, CudaDevice(), torch.cuda.get_device_name(), cuda_graphs=cuda_graphs, contexts=contexts)
