"""Quantization of a float32 ONNX file to FP16 or INT8, and engines from it, each proven against its parent."""
