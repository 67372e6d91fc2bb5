"""Export of a checkpoint to an ONNX file: cleaned, simplified, and proven before it is kept."""
