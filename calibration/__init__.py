"""Float ONNX graph → float16 (later INT8) ONNX graph. Knows graphs, not checkpoints and not engines."""
