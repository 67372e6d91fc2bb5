"""ONNX graph → engine for a target GPU, and engines that run. One builder for TensorRT and TensorRT-RTX.

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
    """Check an engine, load it on this machine's first GPU, and give what runs it.

    Args:
        path: of the engine.
        trust: run a plan that has no manifest; it is executable code.
        cuda_graphs: launch each batch size as one captured graph.
        contexts: at most so many threads run at the same time.

    Raises:
        BadInputError: not the file that its manifest describes, or not an engine.
        MissingCapabilityError: it is for another TensorRT or GPU, or there is none.
    """
    from hemf_export.engines import runtime
    from hemf_export.engines.device import CudaDevice
    from hemf_export.engines.runner import EngineRunner

    loaded = runtime.deserialize(Path(path), trust=trust)
    import torch

    return EngineRunner(loaded, CudaDevice(), torch.cuda.get_device_name(), cuda_graphs=cuda_graphs, contexts=contexts)
