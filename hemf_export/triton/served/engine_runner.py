"""Run a TensorRT-RTX engine for model.py, beside which this is copied as hemf_runner.py.

CUDA is called through the driver's library, so that the server needs only tensorrt_rtx and numpy.

TensorRT-RTX compiles the kernels of a batch size when it first runs. They are kept for the server's next start in the
folder HEMF_EXPORT_CACHE, or else in the user's cache folder: not in the repository, which may be read-only, and which a
server that polls it would load again after each change.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx as trt
from numpy.typing import NDArray

_TYPES: dict[str, type[np.generic]] = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


class Runner:
    """Engine with its execution contexts and buffers, for one thread.

    Args:
        data: bytes of the plan, already compared with the manifest's hash, as deserializing it executes its code.
        manifest: manifest of the plan.
        settings: the model's parameters in config.pbtxt.
        gpu: number of the GPU.

    Attributes:
        sizes: (smallest, largest) batch size of each optimization profile.
    """

    def __init__(self, data: bytes, manifest: dict[str, Any], settings: dict[str, str], gpu: int | None) -> None:
        if trt.__version__ != manifest["backend_version"]:
            raise RuntimeError(
                f"the engine was built by TensorRT-RTX {manifest['backend_version']}, here is {trt.__version__}"
            )
        if gpu is None:
            raise RuntimeError("an engine needs a GPU")
        self._cuda = Cuda(gpu)
        logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(logger)
        validity, diagnostics = self._runtime.get_engine_validity(data)
        if validity == trt.EngineValidity.INVALID:
            raise RuntimeError(f"TensorRT-RTX can't run the engine here (diagnostics {int(diagnostics)})")
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise RuntimeError("TensorRT-RTX can't load the engine")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {self._engine.get_tensor_mode(name).name: name for name in names}
        self._input, self._output = modes["INPUT"], modes["OUTPUT"]
        self._type = _TYPES[self._engine.get_tensor_dtype(self._output).name]
        self._shape = tuple(
            int(size) for size in self._engine.get_tensor_shape(self._output)[1:]
        )  # output shape of one image
        count = self._engine.num_optimization_profiles
        shapes = [self._engine.get_tensor_profile_shape(self._input, index) for index in range(count)]
        self.sizes = [(int(low[0]), int(high[0])) for low, _, high in shapes]
        self._graphs = settings.get("cuda_graphs") == "true"
        self._kernels = KernelCache(self._engine, f"{manifest['sha256'][:32]}-{self._cuda.name}")
        self._compiled: set[int] = set()
        self._contexts = [self._context(index) for index in range(count)]
        largest = max(high for _, high in self.sizes)
        images = int(np.prod(self._engine.get_tensor_shape(self._input)[1:]))
        width = np.dtype(_TYPES[self._engine.get_tensor_dtype(self._input).name]).itemsize
        self._into = self._cuda.allocate(largest * images * width)
        numbers = int(np.prod(self._shape))
        self._out = self._cuda.allocate(largest * numbers * np.dtype(self._type).itemsize)

    def run(self, batch: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        """Compute the logits of a batch of a size in `sizes`."""
        index = next(number for number, (low, high) in enumerate(self.sizes) if low <= len(batch) <= high)
        context, cuda = self._contexts[index], self._cuda
        logits = np.empty((len(batch), *self._shape), self._type)
        cuda.use()
        cuda.upload(self._into, np.ascontiguousarray(batch))
        ready = (
            context.set_input_shape(self._input, tuple(batch.shape))
            and context.set_tensor_address(self._input, self._into)
            and context.set_tensor_address(self._output, self._out)
        )
        if not ready or not context.execute_async_v3(cuda.stream):
            raise RuntimeError(f"TensorRT-RTX can't run a batch of {len(batch)}")
        cuda.download(logits, self._out)
        cuda.wait()
        if len(batch) not in self._compiled:
            self._compiled.add(len(batch))
            self._kernels.save()
        return logits

    def close(self) -> None:
        """Keep the kernels that were compiled."""
        self._kernels.save()

    def _context(self, index: int) -> Any:
        config = self._engine.create_runtime_config()
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self._graphs else strategy.DISABLED
        # Not in the background, with other kernels meanwhile: what was verified is what is served.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.set_runtime_cache(self._kernels.cache)
        context = self._engine.create_execution_context(config)
        if context is None:
            raise RuntimeError("TensorRT-RTX gives no execution context; the GPU's memory may be full")
        if index and not context.set_optimization_profile_async(index, self._cuda.stream):
            raise RuntimeError(f"TensorRT-RTX refuses optimization profile {index}")
        return context


class KernelCache:
    """Compiled kernels of an engine on a GPU, kept in a file: a SHA-256 in hexadecimal, a line feed, and the kernels.

    A file that can't be read or written is a line on standard error and no failure.

    Args:
        engine: the engine.
        name: of the engine and the GPU.

    Attributes:
        cache: the `IRuntimeCache`.
    """

    def __init__(self, engine: Any, name: str) -> None:
        self.cache = engine.create_runtime_config().create_runtime_cache()
        self._saved = b""
        self._path: Path | None = None
        try:
            folder = os.environ.get("HEMF_EXPORT_CACHE") or Path(
                os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "hemf-export"
            )
            self._path = Path(folder, "runtime", re.sub(r"[^A-Za-z0-9.]+", "-", name).lower() + ".runtime-cache")
            digest, _, data = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return
        except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
            self._tell(f"can't be read: {error}")
            return
        if digest == hashlib.sha256(data).hexdigest().encode() and self.cache.deserialize(data):
            self._saved = data
        else:
            self._tell("is damaged, or of another TensorRT-RTX; a new one is begun")

    def save(self) -> None:
        """Write the file if anything was compiled since."""
        data = bytes(self.cache.serialize())
        if data == self._saved or self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
                file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
            os.replace(file.name, self._path)
            self._saved = data
        except OSError as error:
            self._tell(f"can't be written: {error}. Every start compiles its kernels anew")
            self._path = None

    def _tell(self, what: str) -> None:
        print(f"hemf-export: the cache of compiled kernels {self._path or ''} {what}", file=sys.stderr)  # noqa: T201


class Cuda:
    """GPU through the CUDA driver API: memory, copies and one stream.

    Attributes:
        name: the GPU's product name.
        stream: handle of the stream.
    """

    def __init__(self, gpu: int) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), gpu)
        product = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", product, len(product), device)
        self.name = product.value.decode(errors="replace")
        # The primary context, which the CUDA runtime and so TensorRT use.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self.use()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)  # 1: CU_STREAM_NON_BLOCKING
        self.stream = int(stream.value or 0)

    def use(self) -> None:
        """Make this GPU current in the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, count: int) -> int:
        """Allocate `count` bytes of GPU memory; return their address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(count))
        return int(address.value)

    def upload(self, address: int, values: NDArray[np.generic]) -> None:
        """Copy an array to the GPU."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(values.ctypes.data), values)

    def download(self, values: NDArray[np.generic], address: int) -> None:
        """Copy from the GPU into an array, asynchronously until `wait`."""
        self._copy("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(values.ctypes.data), ctypes.c_uint64(address), values)

    def wait(self) -> None:
        """Wait until the stream is idle."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _copy(self, name: str, to: Any, origin: Any, values: NDArray[np.generic]) -> None:
        self._call(name, to, origin, ctypes.c_size_t(values.nbytes), ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        failed = getattr(self._library, name)(*arguments)
        if failed:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(failed, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'CUDA error %d' % failed).decode()}")
