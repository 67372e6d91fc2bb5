"""ONNX graph → engine for a target GPU. One builder for TensorRT and TensorRT-RTX."""
