"""Float32 ONNX file → FP16 or INT8 file → engine, each proven against the one before it."""
