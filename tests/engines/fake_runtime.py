"""The half of the fake TensorRT that runs: loads plans, tells what is in them, and gives a stripped one its weights."""

from __future__ import annotations

import enum
import json
import time
import weakref
from pathlib import Path
from typing import Any

import onnx

from tests.engines.fake_execution import IExecutionContext, IRuntimeConfig
from tests.engines.fake_network import VERSIONS, DataType, read_plan, require_logger, say, structure, told
from tests.engines.fake_records import Alone, records

TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON", start=0)
EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID", start=0)


class Runtime:
    _backend = "tensorrt"

    def __init__(self, logger: Any) -> None:
        self._logger = require_logger(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        records.deserialized.append((bytes(serialized_engine), self.engine_host_code_allowed))
        contents = read_plan(bytes(serialized_engine))
        own = self._backend, VERSIONS[self._backend]
        if told("no-engine") or (contents.backend, contents.version) != own:
            say(self._logger, "ERROR", "Serialization assertion plan->header.magicTag failed.")
            return None
        if "VERSION_COMPATIBLE" in contents.values["flags"] and not self.engine_host_code_allowed:
            say(self._logger, "ERROR", "The plan has code for the host, which is not allowed.")
            return None
        return ICudaEngine(contents.values, contents.graph, self)


class RtxRuntime(Runtime):
    _backend = "tensorrt-rtx"

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        if told("invalid"):
            return EngineValidity.INVALID, 32
        return (EngineValidity.SUBOPTIMAL if told("suboptimal") else EngineValidity.VALID), 0


class ICudaEngine:
    def __init__(self, values: dict[str, Any], graph: bytes, runtime: Runtime) -> None:
        self._values, self._runtime, self._logger = values, weakref.ref(runtime), runtime._logger
        self._tensors = {tensor["name"]: tensor for tensor in values["tensors"]}
        (self._input,), (self._output,) = (
            [name for name, tensor in self._tensors.items() if tensor["mode"] == mode] for mode in ("INPUT", "OUTPUT")
        )
        # A network of fixed shapes has a profile all the same.
        self._profiles = values["profiles"] or [[self._tensors[self._input]["shape"]] * 3]
        self._making = Alone("contexts are made")
        self._session: Any = None
        if graph:
            self._take(graph)

    num_io_tensors = property(lambda self: len(self._tensors))
    num_optimization_profiles = property(lambda self: len(self._profiles))

    def _take(self, graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[self._tensors[name]["mode"]]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name]["type"]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profiles[profile_index]]

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        with self._making:
            time.sleep(records.pause_s)
            if self._runtime() is None:
                records.misuse.append("the runtime is gone, its engine is used")
            if told("no-context") or self._session is None:
                say(self._logger, "ERROR", "OutOfMemory" if self._session else "The engine has no weights.")
                return None
            return IExecutionContext(self, runtime_config)


class EngineInspector:
    """Shows types of an engine with dynamic shapes only for a context whose shapes are set.

    "Otherwise, values dependent on input shapes will be displayed as -1 and format information will not be shown"
    (NvInferRuntime.h of TensorRT 10.16 and 11.1, IEngineInspector::setExecutionContext).
    """

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: Any) -> str:
        values, context = self._engine._values, self.execution_context
        layers = values["layers"]
        if format != LayerInformationFormat.JSON:
            return "\n".join(name for name, _, _ in layers)
        if not values["detailed"]:
            return json.dumps({"Layers": [name for name, _, _ in layers]})
        shape = self._engine.get_tensor_shape(self._engine._input) if context is None else context._shape
        hidden = -1 in shape
        entries = [
            {
                "Name": name, "LayerType": kind, "Inputs": [],
                "Outputs": [{
                    "Name": name, "Dimensions": [-1 if hidden else shape[0], 3],
                    "Format/Datatype": "N/A due to dynamic shapes" if hidden else precision.capitalize(),
                }],
            }
            for name, kind, precision in layers
        ]  # fmt: skip
        return json.dumps({"Layers": entries, "Bindings": []})


class Refitter:
    def __init__(self, engine: ICudaEngine, logger: Any) -> None:
        self._engine, self._logger, self._graph = engine, require_logger(logger), b""

    def refit_cuda_engine(self) -> bool:
        if self._graph:
            self._engine._take(self._graph)
        return bool(self._graph)


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self._refitter, self._logger = refitter, require_logger(logger)

    def refit_from_file(self, model: str) -> bool:
        graph = Path(model).read_bytes()
        if structure(onnx.load_from_string(graph)) != self._refitter._engine._values["structure"]:
            say(self._logger, "ERROR", "The weights are of another network.")
            return False
        self._refitter._graph = graph
        return True
