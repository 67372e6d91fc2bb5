"""Float ONNX graph → float16 or INT8 ONNX graph. Knows graphs, not checkpoints and not engines."""
