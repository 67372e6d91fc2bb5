"""Float ONNX graph → float16 (later INT8) ONNX graph. Knows graphs, not checkpoints and not engines."""

import hemf  # noqa: F401 - turns off the telemetry of what is loaded later
