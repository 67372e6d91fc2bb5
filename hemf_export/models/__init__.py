"""Model files, whatever their kind: checkpoints, ONNX files and engines; what they are, and what they predict."""
