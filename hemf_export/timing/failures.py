"""Translate what a runner's library raises into an error with the reason, which ends that runner alone."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hemf_export.calibration.session import reason
from hemf_export.files import native_output
from hemf_export.files.errors import HemfError
from hemf_export.files.gpu_memory import is_out_of_memory

_LIBRARIES = ("onnxruntime", "torch", "triton", "tensorrt", "tensorrt_rtx")
_LESS_MEMORY = "Take smaller batches, `batch`, or fewer runners, `runners`."
_ARENA = "Failed to allocate memory for requested buffer"  # ONNX Runtime's, of any device (bfc_arena.cc)


@contextmanager
def guarded(*, on_gpu: bool) -> Iterator[None]:
    """Load or run a runner: failures of its library become errors for the user, and what it prints goes to stderr.

    ONNX Runtime's exceptions are classes of its own that derive from `Exception` alone; what its native code throws
    otherwise is a `RuntimeError`, as are all of PyTorch's. Any other exception is a defect of ours and is passed on.

    Args:
        on_gpu: whether the runner runs on a GPU; full memory is the GPU's then.

    Raises:
        HemfError: the runner failed: the reason, without the runner's name.
    """
    try:
        with native_output.off_stdout():
            yield
    except HemfError:
        raise
    except (RuntimeError, MemoryError) as error:
        raise _translated(error, on_gpu) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        raise _translated(error, on_gpu) from error


def _translated(error: Exception, on_gpu: bool) -> HemfError:
    if on_gpu and is_out_of_memory(error):
        return HemfError("The GPU's memory is full, which all runners share.", _LESS_MEMORY)
    if isinstance(error, MemoryError) or (not on_gpu and _ARENA in str(error)):
        return HemfError("This machine's memory is full, which all runners share.", _LESS_MEMORY)
    # PyTorch explains for many lines; ONNX Runtime breaks its lines anywhere.
    ours = type(error).__module__.startswith("onnxruntime")
    text = reason(error) if ours else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return HemfError(f"It fails: {text.rstrip('.')}.")


def release_memory() -> None:
    """Return the GPU memory of what was closed or failed: PyTorch keeps it for itself, and others can't use it."""
    gc.collect()  # of modules, closures and tracebacks, which refer to each other
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.empty_cache()
    except RuntimeError:  # an earlier error has broken the CUDA context: there is nothing left to save
        return
