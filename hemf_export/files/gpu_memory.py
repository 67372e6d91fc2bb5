"""Recognize and translate exceptions that mean that a GPU's memory is full: each library says it in its own way."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hemf_export.files.errors import HemfError

_FULL = re.compile(
    r"CUDA out of memory|CUDA (?:driver )?error: out of memory|Triton Error \[CUDA\]: out of memory|"
    r"CUDA_ERROR_OUT_OF_MEMORY|(?i:CUDA) failure (?:2\b|'out of memory')|"
    r"CU(?:BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED|"
    r"Failed to allocate memory for requested buffer of size"
)
# Failures of which full memory is one cause among several.
_PERHAPS = re.compile(
    r"CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_(?:NOT_INITIALIZED|INTERNAL_ERROR)(?!_)|"
    r"unable to find an engine to execute this computation"
)
_NEARLY_FULL = 1 / 16  # free share of a GPU's memory, about 1 GB of a T4's


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of a computation on a GPU means that the GPU's memory is full.

    PyTorch's allocator raises `torch.OutOfMemoryError`. Other allocations fail with `torch.AcceleratorError` ("CUDA
    error: out of memory", c10/cuda/CUDAException.cpp) or with a `RuntimeError` that holds a library's status: "CUDA
    error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
    (aten/src/ATen/cuda/Exceptions.h), of cuDNN 9 CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED (cudnn_graph.h),
    of NCCL "Cuda failure 2 'out of memory'". An error that another one wraps, as TorchDynamo does, is known by its
    text. ONNX Runtime's arena says "Failed to allocate memory for requested buffer of size N" (bfc_arena.cc) of the
    host's memory as well, so don't ask about a session on a CPU.

    Some failures have several causes: a handle of cuBLAS or cuDNN that can't be made, an internal error of cuDNN, and a
    convolution that no engine computes, since PyTorch tries them one by one and swallows what each raises
    (aten/src/ATen/native/cudnn/Conv_v8.cpp). TensorFlow names full memory first among the causes of
    CUBLAS_STATUS_NOT_INITIALIZED (stream_executor/cuda/cuda_blas.cc); an index out of bounds in an earlier kernel is
    another. These count where less than 1/16 of the GPU's memory is free, or is left of what PyTorch may take of it.
    """
    torch = sys.modules.get("torch")  # not imported here, since the command line asks as well
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return bool(_FULL.search(text)) or (bool(_PERHAPS.search(text)) and _is_nearly_full())


@contextmanager
def needed(what: str, hint: str) -> Iterator[None]:
    """Translate full GPU memory into an error for the user, for the duration of the block.

    Args:
        what: what the block needs the memory for, such as "a batch of 8 images".
        hint: how to need less.

    Raises:
        HemfError: the memory is full.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise HemfError(f"The GPU's memory doesn't hold {what}.", hint) from error


def _is_nearly_full() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        free, total = torch.cuda.mem_get_info()
        # Of what `torch.cuda.set_per_process_memory_fraction` allows; all by default.
        allowed = torch.cuda.get_per_process_memory_fraction() * total - torch.cuda.memory_reserved()
    except RuntimeError:  # an earlier error has broken the CUDA context
        return False
    return bool(min(free, allowed) < _NEARLY_FULL * total)
