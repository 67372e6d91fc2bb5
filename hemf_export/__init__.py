"""The front door of hemf-export: checkpoints to ONNX, proofs, benchmarks and the command line."""

import hemf  # noqa: F401 - turns off the telemetry of what is loaded later

__version__ = "0.1.0"
