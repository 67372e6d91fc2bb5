"""The ground of the fake TensorRT: loggers, enumerations, plans, and the parser with its network.

A plan has the header that a real one starts with; then come values in JSON and the ONNX file. The fake fails on purpose
where FAKE_TENSORRT has one of the words that `told` is asked for.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import onnx

TAGS = {"tensorrt": b"ftrt", "tensorrt-rtx": b"vtrt"}
VERSIONS = {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"}


def told(word: str) -> bool:
    """Whether to fail in that way."""
    return word in os.environ.get("FAKE_TENSORRT", "").split()


def say(logger: Any, severity: str, message: str) -> None:
    logger.log(ILogger.Severity[severity], message)


def require_logger(logger: Any) -> Any:
    if not isinstance(logger, ILogger) or not hasattr(logger, "_made"):
        raise TypeError("an ILogger is needed, and its __init__ has to be called")
    return logger


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: ILogger.Severity, message: str) -> None:
        if severity.value <= self.min_severity.value:
            print(f"[TRT] {message}")  # noqa: T201


DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 INT64", start=0)
LayerType = enum.Enum("LayerType", "CONSTANT CAST REDUCE ELEMENTWISE MATRIX_MULTIPLY OTHER", start=0)
BuilderFlag = enum.Enum(
    "BuilderFlag", "TF32 VERSION_COMPATIBLE STRIP_PLAN REFIT_IDENTICAL DISABLE_TIMING_CACHE", start=0
)
MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE", start=0)
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED", start=0)
HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "NONE SAME_COMPUTE_CAPABILITY", start=0)
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED", start=0)
ComputeCapability = enum.Enum("ComputeCapability", {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM89": 89})

_ELEMENTS = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}
_OPERATORS = {
    "Cast": "CAST", "ReduceMean": "REDUCE", "Mul": "ELEMENTWISE", "Add": "ELEMENTWISE", "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
}  # fmt: skip


class Contents(NamedTuple):
    """What a fake plan holds; the graph is empty in a stripped one."""

    backend: str
    version: str
    values: dict[str, Any]
    graph: bytes


def write_plan(contents: Contents) -> bytes:
    values = json.dumps(contents.values).encode()
    version = bytes(int(part) for part in contents.version.split("."))
    return TAGS[contents.backend] + bytes(20) + version + len(values).to_bytes(8, "little") + values + contents.graph


def read_plan(data: bytes) -> Contents:
    end = 36 + int.from_bytes(data[28:36], "little")
    backend = next(name for name, tag in TAGS.items() if data[:4] == tag)
    return Contents(backend, ".".join(map(str, data[24:28])), json.loads(data[36:end]), data[end:])


def structure(model: onnx.ModelProto) -> str:
    """What doesn't change with the values of weights."""
    nodes = [(node.op_type, *node.input, *node.output) for node in model.graph.node]
    weights = [(weight.name, *weight.dims) for weight in model.graph.initializer]
    return hashlib.sha256(json.dumps([nodes, weights]).encode()).hexdigest()


class ITensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        self.name, self.dtype = value.name, DataType[_ELEMENTS[tensor.elem_type]]
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)


class ILayer:
    def __init__(self, name: str, kind: str, output: Any) -> None:
        self.name, self.type, self.num_outputs, self._output = name, LayerType[kind], 1, output

    def get_output(self, index: int) -> Any:
        return [self._output][index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._graph, self._structure = b"", ""

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, require_logger(logger)

    def parse_from_file(self, model: str) -> bool:
        data = Path(model).read_bytes() if isinstance(model, str) else bytes(model)  # anything but a str is a TypeError
        parsed = onnx.load_from_string(data)
        network, inferred = self._network, onnx.shape_inference.infer_shapes(parsed).graph
        values = {value.name: value for value in (*inferred.value_info, *inferred.output)}
        weights = [
            onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in inferred.initializer
        ]
        network._inputs = [ITensor(value) for value in parsed.graph.input]
        network._outputs = [ITensor(value) for value in parsed.graph.output]
        network._layers = [ILayer(weight.name, "CONSTANT", ITensor(weight)) for weight in weights] + [
            ILayer(node.name or node.output[0], _OPERATORS.get(node.op_type, "OTHER"), ITensor(values[node.output[0]]))
            for node in inferred.node
        ]
        network._graph, network._structure = data, structure(parsed)
        return True
