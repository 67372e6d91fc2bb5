"""Checkpoint → ONNX file, cleaned, simplified, and proven before it is kept."""
