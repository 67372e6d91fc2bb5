"""Full GPU memory is told from other failures, whichever library reports it. The messages are PyTorch's and others'."""

from __future__ import annotations

import sys

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from hemf_export.files.errors import HemfError
from hemf_export.files.gpu_memory import is_out_of_memory, needed

GB = 10**9
LAUNCH = "\nCUDA kernel errors might be asynchronously reported at some other API call."
PERHAPS = [
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "FIND was unable to find an engine to execute this computation",
]


def compiled(error: Exception) -> Exception:
    """The error as TorchDynamo wraps what a backend raises."""
    return BackendCompilerFailed(lambda *_: None, error, None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.6 GiB"
        ),
        torch.AcceleratorError(f"CUDA error: out of memory{LAUNCH}"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`."),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError(
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
        ),
        compiled(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        Exception("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"),
        Exception("bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 2081488896"),
    ],
    ids=lambda error: str(error)[:50],
)
def test_full_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{LAUNCH}"),
        torch.AcceleratorError(f"CUDA error: device-side assert triggered{LAUNCH}"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError(
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"
        ),
        RuntimeError(
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 217 'peer access'"
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("out of resource: shared memory, Required: 81920, Hardware limit: 65536."),
        compiled(ValueError("no such shape")),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        *(RuntimeError(message) for message in PERHAPS),  # PyTorch has used no GPU here, which could be full
    ],
    ids=lambda error: str(error)[:50],
)
def test_other_failures(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("free", "allowed", "reserved", "full"),
    [
        (0.5, 1.0, 2, True),
        (2, 1.0, 13, False),
        (12, 0.25, 3.5, True),  # `torch.cuda.set_per_process_memory_fraction`
        (12, 0.25, 1, False),
    ],
)
@pytest.mark.parametrize("message", PERHAPS)
def test_what_has_several_causes_is_decided_by_what_a_t4_has_free(monkeypatch, message, free, allowed, reserved, full):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GB), 16 * GB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: allowed)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: int(reserved * GB))
    assert is_out_of_memory(RuntimeError(message)) is full
    other = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"
    assert not is_out_of_memory(RuntimeError(other)), "a full GPU is not the cause of everything"


def test_a_gpu_that_answers_no_more_is_not_called_full(monkeypatch):
    def broken() -> None:
        raise torch.AcceleratorError(f"CUDA error: device-side assert triggered{LAUNCH}")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert not is_out_of_memory(RuntimeError(PERHAPS[0]))


def test_pytorch_is_not_needed(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError(PERHAPS[0]))
    assert "torch" not in sys.modules


def test_a_block_that_needs_more_than_there_is_says_what_for():
    told = r"The GPU's memory doesn't hold a batch of 8 images\. Try `batch_size=4`\."
    with pytest.raises(HemfError, match=told), needed("a batch of 8 images", "Try `batch_size=4`."):
        raise RuntimeError("CUDA error: out of memory")
    with pytest.raises(RuntimeError, match="another"), needed("a batch", ""):
        raise RuntimeError("another")
