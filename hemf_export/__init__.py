"""The front door of hemf-export: checkpoints to ONNX, proofs, benchmarks and the command line."""

__version__ = "0.1.0"
